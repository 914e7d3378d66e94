# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How the teaching page looks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
import math
import time
from typing import Any, Protocol

from fastapi import Response
from nicegui import app, ui

from etuner_ros.core.errors import EtunerError
from etuner_ros.nodes.teaching.access import TokenGuard
from etuner_ros.nodes.teaching.boxed_view import BoxedView, ThingDesk
from etuner_ros.nodes.teaching.naming_dialog import NamingDialog
from etuner_ros.nodes.teaching.pace import Pace
from etuner_ros.nodes.teaching.state import Card

RECONNECT_S = 120.0  # that a page is kept whose phone sleeps or has no radio
EARLY_S = 0.4  # after a card is seen, when a finger means what was there before
LONGEST_EARLY_S = 3.0  # after it was sent, where a browser does not say that it is seen
MUTED = '#888'  # of the chart's words: to be read on a bright and on a dark page
MOST_WAIT_S = 30.0  # for the reason why there is no full picture


class Desk(ThingDesk, Protocol):
    """What the page shows, and where what is said there goes."""

    def label(self, card: Card, label: str) -> None:
        """Send what a person says of a card; an empty label takes it back."""

    def full(self, name: str) -> bytes:
        """
        Get the picture of a card as the camera had it.

        :raises EtunerError: when there is none any more
        """

    def watch(self, change: int) -> None:
        """Hear of a browser that came (1) or went (-1)."""


def build(desk: Desk, token: str, cameras: Sequence[str] = ()) -> None:
    """
    Make the page.

    :param token: that opens it; empty for none
    :param cameras: among which one chooses; none for a robot's only camera
    """
    state = desk.state
    if token:
        app.add_middleware(TokenGuard, token=token)

    @app.get('/live.jpg')
    def live(camera: str = '') -> Response:
        headers = {'cache-control': 'no-store'}
        return Response(state.live(camera), media_type='image/jpeg', headers=headers)

    @app.get('/frame/{name}')
    def frame(name: str) -> Response:
        picture = state.picture(name)
        if picture is None:
            return Response(status_code=404)
        return Response(picture, media_type='image/jpeg')

    @app.get('/full/{name}')
    def whole(name: str) -> Response:
        headers = {'cache-control': 'no-store'}  # who does not answer now may do so later
        try:
            return Response(desk.full(name), media_type='image/jpeg', headers=headers)
        except EtunerError as error:
            return Response(str(error), 404, headers, 'text/plain')

    app.on_connect(lambda: desk.watch(1))
    app.on_disconnect(lambda: desk.watch(-1))

    @ui.page('/', title='Teach the robot', reconnect_timeout=RECONNECT_S)
    def page() -> None:
        ui.dark_mode(None)
        ui.colors(primary='#2c7be5', warning='#b26a00', positive='#1b7f3b')
        ui.add_css('.q-btn__content { overflow-wrap: anywhere }')
        Page(desk, cameras).make()


class Page:
    """One browser's view."""

    def __init__(self, desk: Desk, cameras: Sequence[str]) -> None:
        self._desk, self._state, self._cameras = desk, desk.state, list(cameras)
        self._camera = self._cameras[0] if self._cameras else ''  # that is looked at
        self._drawn: dict[str, tuple[ui.card, tuple[Any, ...]]] = {}
        self._ripe_s: dict[str, float] = {}  # when a card may be answered
        self._buttons: dict[str, list[ui.button]] = {}  # that answer it
        self._pace = Pace()
        self._ticks = 0

    def make(self) -> None:
        """Lay out the page; it folds into one column on a phone."""
        with ui.column().classes('w-full max-w-screen-xl mx-auto p-2 gap-3'):
            with ui.row().classes('w-full items-center justify-between no-wrap'):
                ui.label('Teach the robot').classes('text-xl font-medium')
                self._line = ui.label('').classes('text-sm opacity-70').props('data-testid=line')
            with ui.element('div').classes('w-full grid grid-cols-1 lg:grid-cols-3 gap-3'):
                with ui.card().classes('p-2 lg:col-span-1 gap-2'):
                    if len(self._cameras) > 1:
                        choice = ui.toggle(self._cameras).bind_value(self, '_camera')
                        choice.props('no-caps dense data-testid=cameras')
                    self._live = (
                        ui.image('')
                        .classes('w-full rounded bg-black')
                        .props('no-spinner no-transition fit=contain data-testid=live')
                    )
                    self._live.style('aspect-ratio: 4 / 3')
                    self._live.on('load', self._pace.shown, args=[])
                    self._live.on('error', self._pace.shown, args=[])
                    self._boxed = BoxedView(self._desk)
                    self._now = ui.label('').classes('text-sm').props('data-testid=now')
                    self._why = ui.label('').classes('text-xs opacity-70')
                with ui.card().classes('p-2 lg:col-span-2'):
                    self._chart = ui.echart(chart_options()).classes('w-full h-80')
            ui.label('Whose label would help most').classes('text-lg')
            self._empty = ui.label('No frame is asked about yet.').classes('opacity-70')
            self._wall = ui.element('div').classes(
                'w-full grid grid-cols-2 md:grid-cols-4 xl:grid-cols-6 gap-3'
            )
        self._dialog = NamingDialog(self._state, lambda: None)
        self._zoom, self._picture, self._why_small = self._make_zoom()
        ui.timer(0.25, self._refresh)

    def _make_zoom(self) -> tuple[ui.dialog, ui.image, ui.label]:
        with ui.dialog() as dialog, ui.card().classes('p-2 gap-1 max-w-none'):
            picture = ui.image('').props('fit=contain no-spinner no-transition data-testid=full')
            picture.style('width: calc(100vw - 64px); height: 80vh').on('click', dialog.close)
            picture.on('error', self._show_kept)
            why = ui.label('').classes('text-sm').props('data-testid=why-small')
        self._zoomed = ''
        return dialog, picture, why

    def _show(self, name: str) -> None:
        """Show the picture of a frame as the camera had it."""
        self._zoomed = name
        self._why_small.set_text('')
        self._picture.set_source(f'/full/{name}')
        self._zoom.open()

    async def _show_kept(self) -> None:
        """Show what was kept instead, and why; the browser alone knows that there is no other."""
        name = self._zoomed
        self._picture.set_source(f'/frame/{name}')
        asked = f'fetch("/full/{name}").then(answer => answer.ok ? "" : answer.text())'
        try:
            why = str(await ui.run_javascript(asked, timeout=MOST_WAIT_S))
        except TimeoutError:  # the tab was closed
            return
        if name == self._zoomed:
            self._why_small.set_text(why)

    def _ask(self, card: Card) -> None:
        """Open the dialog for a frame, or for a thing."""
        picture = f'<img src="/frame/{card.name}" alt="" style="max-height:30vh;margin:auto">'
        say = partial(self._desk.label, card)
        self._dialog.ask(say, picture, thing=card.box is not None)

    def _refresh(self) -> None:
        shown = self._state.overview(self._camera)
        self._ticks += 1
        boxed = self._boxed.refresh(self._camera)
        self._live.set_visibility(not boxed)
        self._now.set_visibility(not boxed)  # what it takes the whole frame for
        if not shown.has_live:
            self._live.set_source('')  # not that of another camera
        elif not boxed and self._pace.ready:
            self._pace.sent()
            self._live.set_source(f'/live.jpg?camera={self._camera}&{self._ticks}')
        nothing = 'No prediction comes: does inference run, and the camera?'
        self._now.set_text(shown.seen or nothing)
        self._why.set_text(shown.doing)
        self._line.set_text(shown.line)
        self._update_wall()
        if self._ticks % 8 == 1:
            self._draw_chart()

    def _update_wall(self) -> None:
        """
        Draw what changed, and nothing else: a button must not vanish under a finger, nor move.

        A new card takes the place of one that made room.
        """
        cards = {card.name: card for card in self._state.cards()}
        self._empty.set_visibility(not cards)
        free = [self._drawn.pop(n)[0] for n in list(self._drawn) if n not in cards]
        for name, card in cards.items():
            look = (card.sent, card.answer, card.accepted, card.reason, card.predicted)
            if name in self._drawn:
                place, before = self._drawn[name]
                if before == look:
                    continue
            elif free:
                place = free.pop(0)
            else:
                with self._wall:
                    place = ui.card().classes('p-1 gap-1').props('data-testid=card')
            self._ripe_s.setdefault(name, time.monotonic() + LONGEST_EARLY_S)
            place.clear()
            with place:
                self._draw_card(card)
            self._drawn[name] = (place, look)
        for place in free:
            place.delete()
        self._ripe_s = {name: self._ripe_s[name] for name in cards}
        self._buttons = {name: self._buttons[name] for name in cards}
        for name, buttons in self._buttons.items():
            for button in buttons:
                button.set_enabled(self._is_ripe(name))

    def _is_ripe(self, name: str) -> bool:
        return time.monotonic() >= self._ripe_s[name]

    def _on_seen(self, name: str) -> None:
        """A browser shows the picture of a card: from a moment later on presses mean this card."""
        if name in self._ripe_s:
            self._ripe_s[name] = min(self._ripe_s[name], time.monotonic() + EARLY_S)

    def _draw_card(self, card: Card) -> None:
        picture = ui.image(f'/frame/{card.name}').classes('w-full rounded')
        picture.style('aspect-ratio: 4 / 3; cursor: zoom-in').props('data-testid=picture')
        picture.props['alt'] = card.reason
        picture.on('load', lambda: self._on_seen(card.name), args=[])
        buttons = self._buttons[card.name] = []
        picture.on('click', lambda: self._show(card.name))
        ui.label(card.reason).classes('text-xs opacity-70 leading-tight')
        if card.sent:
            text = f'{card.sent}: {card.answer or "sent"}'
            colour = 'text-positive' if card.accepted else 'text-warning'
            words = ui.label(text).classes(f'text-sm {colour} break-words max-w-full')
            words.props('data-testid=answer role=status')
            undo = ui.button('undo', on_click=lambda: self._desk.label(card, ''))
            buttons.append(undo.props('flat dense no-caps data-testid=undo'))
            return
        if card.answer:
            ui.label(card.answer).classes('text-xs').props('data-testid=answer role=status')
        with ui.row().classes('w-full gap-1'):
            if card.predicted:
                confirm = ui.button(
                    f'✓ {card.predicted}',
                    on_click=lambda: self._desk.label(card, card.predicted),
                )
                confirm.classes('grow max-w-full').props('no-caps data-testid=confirm')
                buttons.append(confirm)
            other = ui.button('other', on_click=lambda: self._ask(card)).classes('grow')
            buttons.append(other.props('outline no-caps data-testid=other'))
        for button in buttons:
            button.set_enabled(self._is_ripe(card.name))

    def _draw_chart(self) -> None:
        points = self._state.points()
        options = self._chart.options
        rows = [
            [[p.minutes, None if math.isnan(p.accuracy) else 100 * p.accuracy] for p in points],
            [[p.minutes, 100 * p.frozen] for p in points],
            [[p.minutes, None if math.isnan(p.energy_j) else p.energy_j] for p in points],
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
        known = self._state.overview().energy_source
        source = f' · energy: {known}' if known else ''
        options['title']['text'] = f'rounds: dotted, scenarios: solid{source}'
        self._chart.update()


def chart_options() -> dict[str, Any]:
    """Return the timeline without data."""
    words = {'fontSize': 11, 'color': MUTED}
    return {
        'animation': False,
        'textStyle': {'color': MUTED},
        'title': {
            'text': '',
            'top': 0,
            'textStyle': {'fontSize': 11, 'fontWeight': 'normal', 'color': MUTED},
            'left': 40,
        },
        'grid': {'left': 45, 'right': 50, 'top': 62, 'bottom': 35},
        'legend': {'top': 20, 'left': 40, 'itemWidth': 14, 'textStyle': words},
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
