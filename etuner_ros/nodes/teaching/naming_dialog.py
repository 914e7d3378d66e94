# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The dialog in which a person says what something is."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui

from etuner_ros.core.boxes.readout import BACKGROUND
from etuner_ros.nodes.teaching.state import TeachingState

MOST_OFFERED = 60  # classes with a button
# Enter that ends a composition is of the input method (Safari tells it by the key code alone).
TYPED = '(e) => { if (!e.isComposing && e.keyCode !== 229) emit(); }'


class NamingDialog:
    """
    Asks what a frame or a thing is: buttons of what is known, a field for what is new.

    :param closed: is called when it closes, however that comes
    """

    def __init__(self, state: TeachingState, closed: Callable[[], None]) -> None:
        self._state = state
        self._reply: Callable[[str], None] = lambda label: None
        self._undo: Callable[[], None] | None = None
        with ui.dialog() as self._dialog, ui.card().classes('w-full'):
            ui.label('What is it?').classes('text-lg')
            self._picture = ui.html('', sanitize=False).classes('w-full')
            self._first = ui.row().classes('w-full gap-2')
            self._choices = ui.row().classes('gap-2')
            self._typed = (
                ui.input('something new')
                .classes('w-full')
                .props('outlined clearable data-testid=typed')
                # Else phones make other names of them: Mug, and mug.
                .props('autocapitalize=off autocorrect=off spellcheck=false')
            )
            self._typed.on('keydown.enter', self._say_typed, js_handler=TYPED)
            with ui.row().classes('w-full justify-end'):
                ui.button('cancel', on_click=self._dialog.close).props('flat')
                ui.button('send', on_click=self._say_typed).props('data-testid=send')
        self._dialog.on_value_change(lambda event: None if event.value else closed())

    def ask(
        self,
        reply: Callable[[str], None],
        picture: str = '',
        predicted: str = '',
        thing: bool = False,
        said: str = '',
        undo: Callable[[], None] | None = None,
    ) -> None:
        """
        Open it.

        :param reply: is told the label
        :param picture: SVG of what is asked about
        :param predicted: what the robot takes it for; empty where that is no answer
        :param thing: it is a thing by its box, which may be none
        :param said: what was said of it before, for `undo`
        :param undo: takes that back
        """
        self._reply, self._undo = reply, undo
        self._typed.set_value('')
        self._typed.set_autocomplete(self._state.classes())
        self._picture.set_content(picture)
        self._first.clear()
        with self._first:
            if predicted:
                ui.button(f'✓ {predicted}', on_click=lambda: self._say(predicted)).props(
                    'no-caps data-testid=thing-confirm'
                )
            if thing:
                ui.button('not a thing', on_click=lambda: self._say(BACKGROUND)).props(
                    'flat no-caps data-testid=no-thing'
                )
            if undo is not None:
                ui.button(f'undo “{said}”', on_click=self._take_back).props(
                    'flat no-caps data-testid=thing-undo'
                )
        self._choices.clear()
        with self._choices:
            for label in self._state.classes()[:MOST_OFFERED]:
                ui.button(label, on_click=lambda label=label: self._say(label)).props(
                    'outline no-caps'
                )
        self._dialog.open()

    def _say_typed(self) -> None:
        self._say(self._typed.value or '')

    def _say(self, label: str) -> None:
        if label.strip():
            self._reply(label.strip())
            self._dialog.close()

    def _take_back(self) -> None:
        if self._undo is not None:
            self._undo()
        self._dialog.close()
