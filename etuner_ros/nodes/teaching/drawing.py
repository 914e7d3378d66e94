# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Frames with boxes as SVG, and how a finger or a mouse draws one in the browser."""

from __future__ import annotations

from base64 import b64encode
from functools import lru_cache
from html import escape
import math

from etuner_ros.core.errors import ImageError
from etuner_ros.core.images.annotate import shrunk
from etuner_ros.core.images.codec import decode, encode_jpeg, encoded_size
from etuner_ros.nodes.teaching.scenes import Rectangle, Scene

KNOWN, UNKNOWN, CHOSEN = '#40c878', '#f0aa3c', '#ffffff'
MARGIN = 0.2  # around a thing that is cut out, in longer sides of it
LONGEST = 24  # characters of a name above a box
WIDEST = 800  # px of a picture that is sent again and again, maybe over a radio

# The layer above the picture: it takes mouse and finger, and draws the box that is being drawn.
# It never changes, so nothing that arrives from the robot disturbs a hand.
LAYER = (
    '<svg viewBox="0 0 1 1" preserveAspectRatio="none" style="position:absolute;inset:0;'
    'width:100%;height:100%"><rect width="0" height="0" fill="#ffffff33" stroke="#fff" '
    'stroke-width="2" vector-effect="non-scaling-stroke"/></svg>'
)
# Shares of the picture, so that nobody needs to know how large it is shown. Less than 8 px is a
# touch, not a box.
_BOX = """
    const layer = e.currentTarget, drag = layer.drag, area = layer.getBoundingClientRect();
    if (!drag || drag.id !== e.pointerId) return;  // a second finger draws nothing
    const share = (v, from, size) => Math.min(Math.max((v - from) / size, 0), 1);
    const x = share(e.clientX, area.left, area.width), y = share(e.clientY, area.top, area.height);
    const still = Math.hypot((x - drag.x) * area.width, (y - drag.y) * area.height) < 8;
    const box = [Math.min(x, drag.x), Math.min(y, drag.y),
                 still ? 0 : Math.abs(x - drag.x), still ? 0 : Math.abs(y - drag.y)];
    const band = layer.querySelector('rect');
    const sides = ['x', 'y', 'width', 'height'];
    const show = (b) => sides.forEach((n, i) => band.setAttribute(n, b[i]));
"""
DOWN = """(e) => {
    const layer = e.currentTarget, area = layer.getBoundingClientRect();
    if (!e.isPrimary && layer.drag) {  // a pinch
        layer.drag = null;
        layer.querySelector('rect').setAttribute('width', 0);
        emit('');
    }
    if (!e.isPrimary || e.button) return;
    layer.setPointerCapture(e.pointerId);
    layer.drag = {id: e.pointerId,
                  x: (e.clientX - area.left) / area.width, y: (e.clientY - area.top) / area.height,
                  uid: layer.parentElement.querySelector('[data-uid]').dataset.uid};
    emit(layer.drag.uid);
}"""
MOVE = f'(e) => {{ {_BOX} show(box); }}'
UP = f'(e) => {{ {_BOX} layer.drag = null; show([0, 0, 0, 0]); emit(drag.uid, ...box); }}'
CANCEL = f"(e) => {{ {_BOX} layer.drag = null; show([0, 0, 0, 0]); emit(''); }}"


def drawn(scene: Scene, chosen: Rectangle | None = None) -> str:
    """
    Return a frame with its boxes: unknown things dashed, with a question mark.

    :param chosen: a box that is spoken of
    """
    letter = 0.04 * max(scene.width, 1.2 * scene.height)
    parts = [
        _rectangle(thing.box, UNKNOWN if thing.unknown else KNOWN, thing.unknown)
        for thing in scene.things
    ]
    for thing in scene.things:
        words = '?' if thing.unknown or not thing.label else thing.label[:LONGEST]
        if words != '?':
            words += f' {thing.confidence:.0%}'
        x = min(thing.box[0], max(scene.width - 0.62 * letter * len(words), 0.0))
        y = thing.box[1] - 0.3 * letter if thing.box[1] > 1.3 * letter else thing.box[1] + letter
        colour = UNKNOWN if thing.unknown else KNOWN
        parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{letter:.1f}" fill="{colour}" '
            f'stroke="#000" stroke-width="{letter / 6:.1f}" paint-order="stroke" '
            f'font-weight="600" font-family="sans-serif">{escape(words)}</text>'
        )
    if chosen is not None:
        parts.append(_rectangle(chosen, CHOSEN, False))
    whole = (0.0, 0.0, float(scene.width), float(scene.height))
    return _svg(scene, whole, ''.join(parts), 'width:100%', _small(scene.picture), whole)


def cut_out(scene: Scene, box: Rectangle) -> str:
    """Return the part of a frame around a box, and of its picture no more than that."""
    x, y, width, height = box
    edge = MARGIN * max(width, height)
    view = (x - edge, y - edge, width + 2 * edge, height + 2 * edge)
    style = 'width:100%;max-height:30vh;background:#000;border-radius:4px'
    part, place = _part(scene, view)
    return _svg(scene, view, _rectangle(box, CHOSEN, False), style, part, place)


def _part(scene: Scene, view: Rectangle) -> tuple[bytes, Rectangle]:
    """Return the picture of a part of a frame, and where in the frame that lies."""
    whole = 0.0, 0.0, float(scene.width), float(scene.height)
    try:
        image = decode(scene.picture)
    except ImageError:
        return scene.picture, whole
    across, down = image.shape[1] / scene.width, image.shape[0] / scene.height
    left, top = max(int(view[0] * across), 0), max(int(view[1] * down), 0)
    right, bottom = math.ceil((view[0] + view[2]) * across), math.ceil((view[1] + view[3]) * down)
    part = image[top:bottom, left:right]
    if not part.size:
        return scene.picture, whole
    high, wide = part.shape[:2]
    place = left / across, top / down, wide / across, high / down
    return encode_jpeg(shrunk(part, WIDEST), 85), place


@lru_cache(maxsize=4)  # several browsers look at the same frame
def _small(picture: bytes) -> bytes:
    """Return a picture, made smaller where it is wide; what can't be read stays as it is."""
    try:
        if encoded_size(picture)[0] <= WIDEST:
            return picture
        return encode_jpeg(shrunk(decode(picture), WIDEST), 85)
    except ImageError:
        return picture


def _svg(
    scene: Scene,
    view: Rectangle,
    inside: str,
    style: str,
    data: bytes,
    place: Rectangle,
) -> str:
    kind = 'png' if data[:4] == b'\x89PNG' else 'jpeg'
    picture = b64encode(data).decode()  # within, so that boxes never precede it
    return (
        f'<svg data-uid="{scene.key.uid}" viewBox="{" ".join(f"{v:.1f}" for v in view)}" '
        f'aria-hidden="true" style="display:block;{style}"><image x="{place[0]:.1f}" '
        f'y="{place[1]:.1f}" width="{place[2]:.1f}" height="{place[3]:.1f}" '
        f'preserveAspectRatio="none" href="data:image/{kind};base64,{picture}"/>{inside}</svg>'
    )


def _rectangle(box: Rectangle, colour: str, dashed: bool) -> str:
    x, y, width, height = box
    dashes = ' stroke-dasharray="7 5"' if dashed else ''
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="none" '
        f'stroke="{colour}" stroke-width="2.5" vector-effect="non-scaling-stroke"{dashes}/>'
    )
