# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The live view with boxes: touch one to name it, draw one where none is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
import time
from typing import Protocol

from nicegui import events, ui

from etuner_ros.core.boxes.readout import BACKGROUND
from etuner_ros.nodes.teaching.drawing import CANCEL, cut_out, DOWN, drawn, LAYER, MOVE, UP
from etuner_ros.nodes.teaching.naming_dialog import NamingDialog
from etuner_ros.nodes.teaching.pace import Pace
from etuner_ros.nodes.teaching.scenes import Rectangle, Scene, Word
from etuner_ros.nodes.teaching.state import TeachingState

MOST_SHOWN = 6  # words
HIGHEST = 80  # of the screen's height in percent: beside the picture the page can be scrolled
MOST_DRAWN = 4  # frames that a browser may show: over a slow link newer ones are on their way
LONGEST_HOLD_S = 15.0  # that a hand is waited for whose browser says nothing more


class ThingDesk(Protocol):
    """Where what is said of things goes."""

    state: TeachingState

    def label_thing(self, scene: Scene, box: Rectangle, label: str) -> None:
        """Send what a person says of a thing."""

    def take_back(self, number: int) -> None:
        """Take back what was said of a thing."""


class BoxedView:
    """
    Shows the newest frame with its things; holds still while one is drawn or spoken of.

    :param clock: returns seconds that only grow
    """

    def __init__(self, desk: ThingDesk, clock: Callable[[], float] = time.monotonic) -> None:
        self._desk, self._clock = desk, clock
        self._shown: tuple[Scene, Rectangle | None] | None = None  # with the box spoken of
        self._drawn: deque[Scene] = deque(maxlen=MOST_DRAWN)
        self._held: Scene | None = None
        self._held_s = 0.0
        self._asking = False  # the dialog is open
        self._said: list[Word] = []  # as drawn
        self._pace = Pace(clock)
        self._size = (0, 0)  # of the frames, as the place was made for them
        with ui.element('div').classes('w-full').props('data-testid=scene') as self._place:
            self._place.style('position: relative')
            self._picture = ui.html('', sanitize=False).classes('w-full rounded overflow-hidden')
            self._picture.on('load.capture', self._pace.shown, args=[])
            self._picture.on('error.capture', self._pace.shown, args=[])
            layer = ui.html(LAYER, sanitize=False).props('data-testid=layer')
            # A finger draws here, so it can not scroll the page here.
            layer.style('position: absolute; inset: 0; touch-action: none; cursor: crosshair')
            layer.on('pointerdown', self._on_down, js_handler=DOWN)
            layer.on('pointermove', js_handler=MOVE)
            layer.on('pointerup', self._on_up, js_handler=UP)
            layer.on('pointercancel', self._on_cancel, js_handler=CANCEL)
        self._hint = ui.label('Touch a box to name it, or draw one around a thing.')
        self._hint.classes('text-xs opacity-70')
        self._words = ui.column().classes('w-full gap-0').props('role=status')
        self._dialog = NamingDialog(desk.state, self._let_go)
        self._place.set_visibility(False)
        self._hint.set_visibility(False)

    def refresh(self, camera: str) -> bool:
        """Show what is new; return whether there is a frame with boxes to be shown."""
        if not self._asking and self._clock() - self._held_s > LONGEST_HOLD_S:
            self._held = None
        scene = self._held or self._desk.state.scenes.newest(camera)
        self._place.set_visibility(scene is not None)
        self._hint.set_visibility(scene is not None)
        if scene is not None and not self._asking and self._pace.ready:
            self._draw(scene, None)
        self._show_words()
        return scene is not None

    def _draw(self, scene: Scene, chosen: Rectangle | None) -> None:
        if self._shown is None or self._shown[0] is not scene or self._shown[1] != chosen:
            if self._shown is None or self._shown[0] is not scene:
                self._drawn.append(scene)
            self._shown = scene, chosen
            self._pace.sent()
            self._picture.set_content(drawn(scene, chosen))
        if self._size != (scene.width, scene.height):
            self._size = scene.width, scene.height
            wide = f'max-width: calc({HIGHEST}vh * {scene.width} / {scene.height}); margin: 0 auto'
            self._place.style(wide)

    def _on_down(self, event: events.GenericEventArguments) -> None:
        """Hold still: a hand begins to draw, or touches a thing."""
        self._held, self._held_s = self._scene(event.args), self._clock()

    def _on_up(self, event: events.GenericEventArguments) -> None:
        """Ask what was touched, or what lies in the box that was drawn."""
        uid, *shares = event.args
        scene = self._held = self._scene(uid)
        if scene is None:
            ui.notify('this frame is gone; try again on the one that is shown now')
            return
        left, top, wide, high = (float(v) for v in shares)
        size = scene.width, scene.height
        if wide or high:
            drew = left * size[0], top * size[1], wide * size[0], high * size[1]
            box = scene.inside(drew)
            if box is None:
                ui.notify('too small a box: draw one around the whole thing')
                self._held = None
                return
            self._ask(scene, box)
            return
        thing = scene.at(left * size[0], top * size[1])
        if thing is None:
            self._held = None
            return
        named = not thing.unknown and self._desk.state.offers(thing.label)
        self._ask(scene, thing.box, thing.label if named else '', thing.track)

    def _on_cancel(self, _event: events.GenericEventArguments) -> None:
        self._held = None

    def _scene(self, uid: object) -> Scene | None:
        """Return the frame that a hand is on; others may have made it leave meanwhile."""
        text = str(uid)
        for scene in (self._held, *self._drawn):
            if scene is not None and text == str(scene.key.uid):
                return scene
        return self._desk.state.scenes.get(int(text)) if text.isdecimal() else None

    def _ask(self, scene: Scene, box: Rectangle, predicted: str = '', track: int = 0) -> None:
        self._asking = True
        self._draw(scene, box)
        word = self._desk.state.scenes.word_of(scene, box, track)
        self._dialog.ask(
            partial(self._desk.label_thing, scene, box),
            cut_out(scene, box),
            predicted,
            thing=True,
            said=_spoken(word.label) if word else '',
            undo=partial(self._desk.take_back, word.number) if word else None,
        )

    def _let_go(self) -> None:
        self._asking, self._held = False, None

    def _show_words(self) -> None:
        """Show what was said last, and what became of it."""
        words = self._desk.state.scenes.words()[:MOST_SHOWN]
        if words == self._said:
            return
        self._said = words
        self._words.clear()
        with self._words:
            for word in words:
                with ui.row().classes('w-full items-center justify-between no-wrap gap-1'):
                    colour = 'text-positive' if word.accepted else 'text-warning'
                    text = f'{_spoken(word.label)}: {word.answer or "sent"}'
                    ui.label(text).classes(f'text-sm {colour} break-words min-w-0').props(
                        'data-testid=word'
                    )
                    if word.label and word.accepted:
                        ui.button(
                            'undo', on_click=partial(self._desk.take_back, word.number)
                        ).props('flat dense no-caps data-testid=word-undo')


def _spoken(label: str) -> str:
    """Return how a label is shown."""
    return 'not a thing' if label == BACKGROUND else label or 'taken back'
