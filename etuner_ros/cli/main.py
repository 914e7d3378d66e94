# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The command line `etuner`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
import io
import signal
import sqlite3
import sys
import threading
from typing import Any

from etuner_ros import __version__
from etuner_ros.cli import bench, choose, demo, deploy, labels, replay, robot
from etuner_ros.core.errors import EtunerError

COMMANDS = (demo, deploy, choose, replay, labels, robot, bench)  # as `etuner --help` lists them


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    whole = argparse.ArgumentParser(
        prog='etuner', description='Perception that keeps learning on the robot.'
    )
    whole.add_argument('--version', action='version', version=f'etuner_ros {__version__}')
    commands = whole.add_subparsers(required=True, metavar='COMMAND')
    for command in COMMANDS:
        command.add(commands)
    _add_json(whole)
    whole.set_defaults(json=False)
    return whole


def _add_json(parser_: argparse.ArgumentParser) -> None:
    """Give every command --json."""
    below = [a for a in parser_._actions if isinstance(a, argparse._SubParsersAction)]
    for command in (c for action in below for c in action.choices.values()):
        _add_json(command)
    if parser_.get_default('run') or not below:
        help_ = 'answer in JSON, for programs'
        parser_.add_argument('--json', action='store_true', default=argparse.SUPPRESS, help=help_)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not where a program caught it in its own
            # Names and marks that its encoding has no letters for end no command.
            stream.reconfigure(errors='backslashreplace')
    parsed = parser().parse_args(arguments)
    try:
        with _stopped_by_signals():
            return int(parsed.run(parsed))
    except _expected() as error:
        print(f'etuner: {_words(error)}', file=sys.stderr)
        return 1
    except Stopped as stopped:
        return 128 + stopped.number
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


class Stopped(KeyboardInterrupt):
    """
    A signal that ends us came: what is open is closed as after Ctrl-C.

    :ivar number: of the signal
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Turn SIGTERM, and the SIGHUP of a terminal that closes, into `Stopped`."""

    def stop(number: int, _frame: object) -> None:
        raise Stopped(number)

    before: dict[int, Any] = {}
    main_thread = threading.current_thread() is threading.main_thread()
    try:
        for ending in (signal.SIGTERM, signal.SIGHUP):
            # Of nohup SIGHUP is ignored; a thread may set no handlers.
            if main_thread and signal.getsignal(ending) == signal.SIG_DFL:
                before[ending] = signal.signal(ending, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _expected() -> tuple[type[Exception], ...]:
    """Return what can go wrong without a mistake of ours."""
    # What rclpy raises for a name that nothing can have, where rclpy is in use.
    name = getattr(sys.modules.get('rclpy.exceptions'), 'NameValidationException', EtunerError)
    return EtunerError, OSError, sqlite3.Error, name


def _words(error: Exception) -> str:
    """Return what went wrong in a line."""
    if isinstance(error, OSError) and error.strerror:
        return f'{error.filename}: {error.strerror}' if error.filename else error.strerror
    if isinstance(error, EtunerError | sqlite3.Error):
        return str(error)
    # In rclpy's last line it points at a character.
    return ' '.join(str(error).split()).removesuffix(' ^') or type(error).__name__


if __name__ == '__main__':
    sys.exit(main())
