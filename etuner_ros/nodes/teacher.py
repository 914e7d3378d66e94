# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
`teacher`: a web page on the robot. What it sees, the frames whose label would help most, one touch
to confirm or correct, and how it gets on.
"""

from __future__ import annotations

from collections import deque, OrderedDict
import contextlib
from dataclasses import dataclass, field
import hmac
from http.cookies import SimpleCookie
import ipaddress
import math
import threading
import time
from typing import Any
from urllib.parse import parse_qs

from fastapi import Response
from nicegui import app, ui
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from etuner_ros.core.config import Checked, setting
from etuner_ros.core.errors import ConfigError, EtunerError
from etuner_ros.core.images.codec import encode_jpeg
from etuner_ros.core.models.weights import sha256
from etuner_ros.msg import (
    LabelCorrection,
    LabelReceipt,
    LabelRequest,
    ModelVerdict,
    Prediction,
    TunerStatus,
)
from etuner_ros.nodes.conversions import image_to_array
from etuner_ros.nodes.health import guarded, Health
from etuner_ros.nodes.messages import short, stamp_ns
from etuner_ros.nodes.parameters import declare
from etuner_ros.nodes.qos import LATCHED, reliable
from etuner_ros.nodes.running import SteadyExecutor, use_dds_profile

STATES = ('starting', 'waiting', 'tuning', 'proposed', 'down')
COOKIE = 'etuner_token'
MOST_POINTS = 2000  # of the timeline
MOST_CLASSES = 500
LIVE_PERIOD_S = 0.2


@dataclass(frozen=True)
class TeacherSettings(Checked):
    """Parameters of the teaching page."""

    host: str = setting('127.0.0.1', 'address to listen on; 0.0.0.0 = all, which needs a token')
    port: int = setting(8090, 'TCP port', 1, 65535)
    token: str = setting('', 'secret that opens the page, http://robot:8090/?token=...')
    author: str = setting('teacher', 'who the labels of this page are from')
    requests: int = setting(24, 'frames on the wall at most', 1, 200)


@dataclass
class Card:
    """A frame on the wall."""

    name: str
    header: Header
    source: str
    predicted: str
    confidence: float
    reason: str
    picture: bytes
    sent: str = ''  # label that was sent
    answer: str = ''  # of the receipt
    accepted: bool = False


@dataclass
class Point:
    """One moment of the timeline."""

    minutes: float
    accuracy: float  # in [0, 1]; NaN when unknown
    frozen: float  # share of the layers
    rounds: int
    scenario: int
    energy_j: float  # of all rounds that the page saw; NaN while none was measured


@dataclass
class State:
    """What the page shows; written by the executor, read by the page."""

    cards: OrderedDict[str, Card] = field(default_factory=OrderedDict)
    classes: list[str] = field(default_factory=list)
    live: bytes = b''
    energy_j: float = math.nan  # of all rounds that the page saw
    prediction: Prediction | None = None
    status: TunerStatus | None = None
    last_prediction: float = 0.0
    verdict: str = ''
    points: deque[Point] = field(default_factory=lambda: deque(maxlen=MOST_POINTS))
    right: deque[bool] = field(default_factory=lambda: deque(maxlen=50))
    accepted: int = 0


class TeacherNode(Node):
    """
    Serves the teaching page.

    Subscribes `label_requests` (LabelRequest), `label_receipts` (LabelReceipt), `predictions`
    (Prediction), `verdicts` (ModelVerdict), `tuner/status` (TunerStatus) and, only while a browser
    is open, `annotated` (Image). Publishes `labels` (LabelCorrection).
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('teacher', **options)
        self.settings = declare(self, '', TeacherSettings)
        check_access(self.settings)
        self.state, self.watchers = State(), 0
        self._began = time.monotonic()
        self._live: Any = None
        self._live_at = 0.0
        self.health = Health(self, self._diagnostics)
        self._labels = self.create_publisher(LabelCorrection, 'labels', reliable(100))
        make = self.create_subscription
        make(LabelRequest, 'label_requests', self._on_request, reliable(20))
        make(LabelReceipt, 'label_receipts', self._on_receipt, reliable(100))
        make(Prediction, 'predictions', self._on_prediction, reliable(10))
        make(ModelVerdict, 'verdicts', self._on_verdict, reliable(10))
        make(TunerStatus, 'tuner/status', self._on_status, LATCHED)
        self.create_timer(0.3, self._follow_watchers)

    def _diagnostics(self) -> dict[str, object]:
        return {
            'browsers': self.watchers,
            'frames on the wall': len(self.state.cards),
            'labels accepted': self.state.accepted,
        }

    @guarded
    def _follow_watchers(self) -> None:
        """Listen to the annotated image only while somebody looks: it is drawn only then."""
        if self.watchers > 0 and self._live is None:
            self._live = self.create_subscription(Image, 'annotated', self._on_live, reliable(1))
        elif self.watchers <= 0 and self._live is not None:
            self.destroy_subscription(self._live)
            self._live = None

    @guarded
    def _on_live(self, message: Image) -> None:
        if time.monotonic() - self._live_at >= LIVE_PERIOD_S:
            self._live_at = time.monotonic()
            self.state.live = encode_jpeg(image_to_array(message), 80)

    @guarded
    def _on_request(self, message: LabelRequest) -> None:
        name = f'{stamp_ns(message.header)}-{abs(hash((message.source, message.header.frame_id)))}'
        cards = self.state.cards
        if name in cards:
            cards[name].reason = short(message.reason)
            return
        cards[name] = Card(
            name,
            message.header,
            message.source,
            short(message.predicted_label),
            message.confidence,
            short(message.reason),
            bytes(message.image.data),
        )
        while len(cards) > self.settings.requests:  # answered ones leave first, then the oldest
            gone = next((n for n, c in cards.items() if c.accepted), next(iter(cards)))
            del cards[gone]

    @guarded
    def _on_receipt(self, message: LabelReceipt) -> None:
        if message.code == LabelReceipt.ACCEPTED and message.label:
            self.state.accepted += 1
            self.state.right.append(message.label == message.predicted_label)
            self._know(message.label)
        for card in list(self.state.cards.values()):
            if card.header == message.header and message.author == self.settings.author:
                card.accepted = message.code == LabelReceipt.ACCEPTED and bool(message.label)
                card.answer = message.message
                if not message.label:
                    card.sent = ''

    def _know(self, label: str) -> None:
        if label and label not in self.state.classes and len(self.state.classes) < MOST_CLASSES:
            self.state.classes = sorted([*self.state.classes, label])

    @guarded
    def _on_prediction(self, message: Prediction) -> None:
        self.state.prediction, self.state.last_prediction = message, time.monotonic()
        for label in message.labels:
            self._know(short(label))

    @guarded
    def _on_verdict(self, message: ModelVerdict) -> None:
        self.state.verdict = message.reason

    @guarded
    def _on_status(self, message: TunerStatus) -> None:
        right, before = self.state.right, self.state.status
        self.state.status = message
        if (before is None or message.rounds != before.rounds) and message.energy_j >= 0:  # no NaN
            spent = self.state.energy_j
            self.state.energy_j = message.energy_j + (0.0 if math.isnan(spent) else spent)
        accuracy = sum(right) / len(right) if right else math.nan
        total = max(message.layers_total, 1)
        point = Point(
            round((time.monotonic() - self._began) / 60, 2),
            accuracy,
            message.layers_frozen / total,
            message.rounds,
            message.scenario,
            self.state.energy_j,
        )
        points = self.state.points
        if not points or point.minutes - points[-1].minutes > 1 / 60:
            points.append(point)

    def label(self, name: str, label: str) -> None:
        """Send what a person says of a frame; empty takes it back."""
        card = self.state.cards.get(name)
        if card is None:
            return
        card.sent, card.answer = label, ''
        self._labels.publish(
            LabelCorrection(
                header=card.header,
                source=card.source,
                label=label,
                author=self.settings.author,
                withdraw=not label,
            )
        )


def check_access(settings: TeacherSettings) -> None:
    """
    Refuse to open the page to a network without a token.

    :raises ConfigError: when the address is not of this computer alone and there is no token
    """
    try:
        local = settings.host == 'localhost' or ipaddress.ip_address(settings.host).is_loopback
    except ValueError as error:
        raise ConfigError(f"host '{short(settings.host)}' is no address: {error}") from error
    if not local and len(settings.token) < 8:
        raise ConfigError(
            f'host {settings.host} opens the page to the network: set a token of at least 8 '
            f'characters, or host to 127.0.0.1'
        )


class TokenGuard:
    """Lets nothing through without the token, neither pages nor websockets (ASGI middleware)."""

    def __init__(self, inner: Any, token: str) -> None:
        self.inner, self.token = inner, token
        self.mark = sha256(token.encode())  # what a cookie holds: any token makes a valid one

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Look at the cookie, or at the token in the address, which sets the cookie."""
        if scope['type'] not in ('http', 'websocket'):
            await self.inner(scope, receive, send)
            return
        cookies = SimpleCookie(dict(scope['headers']).get(b'cookie', b'').decode('latin-1'))
        shown = cookies[COOKIE].value if COOKIE in cookies else ''
        asked = parse_qs(scope.get('query_string', b'').decode('latin-1')).get('token', [''])[0]
        if hmac.compare_digest(shown.encode(), self.mark.encode()):
            await self.inner(scope, receive, send)
        elif scope['type'] == 'websocket':
            await send({'type': 'websocket.close', 'code': 1008})
        elif hmac.compare_digest(asked.encode(), self.token.encode()):
            cookie = f'{COOKIE}={self.mark}; HttpOnly; SameSite=Strict; Path=/'
            moved = Response(status_code=303, headers={'location': '/', 'set-cookie': cookie})
            await moved(scope, receive, send)
        else:
            text = 'This page needs its token: /?token=... (parameter token of the node)'
            await Response(text, status_code=401)(scope, receive, send)


def build(node: TeacherNode) -> None:
    """Make the page."""
    state = node.state
    if node.settings.token:
        app.add_middleware(TokenGuard, token=node.settings.token)

    @app.get('/live.jpg')
    def live() -> Response:
        return Response(state.live, media_type='image/jpeg', headers={'cache-control': 'no-store'})

    @app.get('/frame/{name}')
    def frame(name: str) -> Response:
        card = state.cards.get(name)
        if card is None:
            return Response(status_code=404)
        return Response(card.picture, media_type='image/jpeg')

    def count(change: int) -> None:
        node.watchers += change

    app.on_connect(lambda: count(1))
    app.on_disconnect(lambda: count(-1))

    @ui.page('/', title='Teach the robot')
    def page() -> None:
        ui.dark_mode(None)
        ui.colors(primary='#2c7be5')
        Page(node).make()


class Page:
    """One browser's view."""

    def __init__(self, node: TeacherNode) -> None:
        self.node, self.state = node, node.state
        self._drawn: dict[str, tuple[ui.card, tuple[Any, ...]]] = {}
        self._ticks = 0

    def make(self) -> None:
        """Lay out the page; it folds into one column on a phone."""
        with ui.column().classes('w-full max-w-screen-xl mx-auto p-2 gap-3'):
            with ui.row().classes('w-full items-center justify-between no-wrap'):
                ui.label('Teach the robot').classes('text-xl font-medium')
                self._line = ui.label('').classes('text-sm opacity-70').props('data-testid=line')
            with ui.element('div').classes('w-full grid grid-cols-1 lg:grid-cols-3 gap-3'):
                with ui.card().classes('p-2 lg:col-span-1 gap-2'):
                    self._live = (
                        ui.image('')
                        .classes('w-full rounded bg-black')
                        .props('no-spinner no-transition fit=contain data-testid=live')
                    )
                    self._live.style('aspect-ratio: 4 / 3')
                    self._now = ui.label('').classes('text-sm').props('data-testid=now')
                    self._why = ui.label('').classes('text-xs opacity-70')
                with ui.card().classes('p-2 lg:col-span-2'):
                    self._chart = ui.echart(chart_options()).classes('w-full h-80')
            ui.label('Whose label would help most').classes('text-lg')
            self._empty = ui.label('No frame is asked about yet.').classes('opacity-70')
            self._wall = ui.element('div').classes(
                'w-full grid grid-cols-2 md:grid-cols-4 xl:grid-cols-6 gap-3'
            )
        self._dialog, self._choices, self._typed = self._make_dialog()
        ui.timer(0.25, self._refresh)

    def _make_dialog(self) -> tuple[ui.dialog, ui.row, ui.input]:
        with ui.dialog() as dialog, ui.card().classes('w-full'):
            ui.label('What is it?').classes('text-lg')
            choices = ui.row().classes('gap-2')
            typed = (
                ui.input('something new', on_change=None)
                .classes('w-full')
                .props('outlined clearable data-testid=typed')
            )
            typed.on('keydown.enter', lambda: self._say(typed.value or ''))
            with ui.row().classes('w-full justify-end'):
                ui.button('cancel', on_click=dialog.close).props('flat')
                ui.button('send', on_click=lambda: self._say(typed.value or '')).props(
                    'data-testid=send'
                )
        self._open = ''
        return dialog, choices, typed

    def _ask(self, name: str) -> None:
        """Open the dialog for a frame."""
        self._open = name
        self._typed.set_value('')
        self._choices.clear()
        with self._choices:
            for label in self.state.classes[:60]:
                ui.button(label, on_click=lambda label=label: self._say(label)).props(
                    'outline no-caps'
                )
        self._dialog.open()

    def _say(self, label: str) -> None:
        if label.strip():
            self.node.label(self._open, label.strip())
            self._dialog.close()

    def _refresh(self) -> None:
        state, seen, status = self.state, self.state.prediction, self.state.status
        self._ticks += 1
        if state.live:
            self._live.set_source(f'/live.jpg?{self._ticks}')
        silent = time.monotonic() - state.last_prediction > 3.0
        if seen is None or silent:
            self._now.set_text('No prediction comes: does inference run, and the camera?')
        else:
            best = seen.labels[0] if seen.labels else 'no class yet'
            self._now.set_text(
                f'{short(best)} · {seen.confidence:.0%} · version {seen.model_version}'
            )
        if status is not None:
            state_name = STATES[min(status.state, 4)]
            known = status.reason.startswith(state_name)
            self._why.set_text(status.reason if known else f'{state_name}: {status.reason}')
        self._line.set_text(
            f'{state.accepted} labels · {status.rounds if status else 0} rounds'
            + (f' · scenario {status.scenario}' if status else '')
        )
        self._update_wall()
        if self._ticks % 8 == 1:
            self._draw_chart()

    def _update_wall(self) -> None:
        """Draw what changed, and nothing else: a button must not vanish under a finger."""
        cards = dict(self.state.cards)
        self._empty.set_visibility(not cards)
        for name in [n for n in self._drawn if n not in cards]:
            self._drawn.pop(name)[0].delete()
        for name, card in cards.items():
            look = (card.sent, card.answer, card.accepted, card.reason)
            if name not in self._drawn:
                with self._wall:
                    place = ui.card().classes('p-1 gap-1').props('data-testid=card')
                place.move(self._wall, 0)
            else:
                place, before = self._drawn[name]
                if before == look:
                    continue
                place.clear()
            with place:
                self._draw_card(card)
            self._drawn[name] = (place, look)

    def _draw_card(self, card: Card) -> None:
        picture = ui.image(f'/frame/{card.name}').classes('w-full rounded')
        picture.style('aspect-ratio: 4 / 3')
        ui.label(card.reason).classes('text-xs opacity-70 leading-tight')
        if card.sent:
            text = f'{card.sent}: {card.answer or "sent"}'
            colour = 'text-positive' if card.accepted else 'text-warning'
            ui.label(text).classes(f'text-sm {colour}').props('data-testid=answer')
            ui.button('undo', on_click=lambda: self.node.label(card.name, '')).props(
                'flat dense no-caps data-testid=undo'
            )
            return
        if card.answer:
            ui.label(card.answer).classes('text-xs').props('data-testid=answer')
        with ui.row().classes('w-full gap-1'):
            if card.predicted:
                ui.button(
                    f'✓ {card.predicted}',
                    on_click=lambda: self.node.label(card.name, card.predicted),
                ).classes('grow').props('no-caps data-testid=confirm')
            ui.button('other', on_click=lambda: self._ask(card.name)).classes('grow').props(
                'outline no-caps data-testid=other'
            )

    def _draw_chart(self) -> None:
        points = list(self.state.points)
        step = max(1, len(points) // 300)
        options = self._chart.options
        kept = points[::step]
        rows = [
            [[p.minutes, None if math.isnan(p.accuracy) else 100 * p.accuracy] for p in kept],
            [[p.minutes, 100 * p.frozen] for p in kept],
            [[p.minutes, None if math.isnan(p.energy_j) else p.energy_j] for p in kept],
        ]
        for series, data in zip(options['series'], rows):
            series['data'] = data
        marks = []
        for before, after in zip(points, points[1:]):
            if after.rounds != before.rounds:
                marks.append({'xAxis': after.minutes, 'name': 'round'})
            if after.scenario != before.scenario:
                style = {'type': 'solid', 'width': 2}
                marks.append({'xAxis': after.minutes, 'name': 'scenario', 'lineStyle': style})
        options['series'][0]['markLine']['data'] = marks[-100:]
        status = self.state.status
        source = f' · energy: {status.energy_source}' if status else ''
        options['title']['text'] = f'rounds: dotted, scenarios: solid{source}'
        self._chart.update()


def chart_options() -> dict[str, Any]:
    """Return the timeline without data."""
    return {
        'animation': False,
        'title': {
            'text': '',
            'top': 0,
            'textStyle': {'fontSize': 11, 'fontWeight': 'normal'},
            'left': 40,
        },
        'grid': {'left': 45, 'right': 50, 'top': 62, 'bottom': 35},
        'legend': {'top': 20, 'left': 40, 'itemWidth': 14, 'textStyle': {'fontSize': 11}},
        'tooltip': {'trigger': 'axis'},
        'xAxis': {'type': 'value', 'name': 'min', 'min': 0, 'max': 'dataMax'},
        'yAxis': [
            {'type': 'value', 'min': 0, 'max': 100, 'axisLabel': {'formatter': '{value} %'}},
            {
                'type': 'value',
                'min': 0,
                'axisLabel': {'formatter': '{value} J'},
                'splitLine': {'show': False},
            },
        ],
        'series': [
            {
                'name': 'right among the last 50 labelled',
                'type': 'line',
                'showSymbol': False,
                'data': [],
                'markLine': {
                    'symbol': 'none',
                    'silent': True,
                    'label': {'show': False},
                    'lineStyle': {'type': 'dotted'},
                    'data': [],
                },
            },
            {'name': 'layers frozen', 'type': 'line', 'showSymbol': False, 'data': []},
            {
                'name': 'energy of rounds',
                'type': 'line',
                'step': 'end',
                'yAxisIndex': 1,
                'showSymbol': False,
                'data': [],
            },
        ],
    }


def main() -> int:
    """Run the node and its page."""
    use_dds_profile()
    rclpy.init()
    try:
        node = TeacherNode()
    except EtunerError as error:
        rclpy.logging.get_logger('etuner_ros').fatal(str(error))
        rclpy.shutdown()
        return 1
    executor = SteadyExecutor()
    executor.add_node(node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            while rclpy.ok():
                executor.spin_once(timeout_sec=0.2)

    thread = threading.Thread(target=spin, name='executor', daemon=True)
    thread.start()
    build(node)
    settings = node.settings
    node.get_logger().info(f'teaching page on http://{settings.host}:{settings.port}/')
    try:
        ui.run(
            host=settings.host,
            port=settings.port,
            reload=False,
            show=False,
            favicon='🤖',
            show_welcome_message=False,
            uvicorn_logging_level='warning',
        )
    except KeyboardInterrupt:
        pass
    finally:
        if rclpy.ok():
            rclpy.shutdown()
        thread.join(2.0)
    return 0
