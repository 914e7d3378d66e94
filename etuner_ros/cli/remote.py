# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of the command line that talk to a running robot: `etuner models`, `etuner watch`."""

from __future__ import annotations

import argparse
from collections import deque
from contextlib import redirect_stdout
import math
from pathlib import Path
import sys
import time
from typing import Any

from rclpy.node import Node

from etuner_ros.cli.visiting import visitor
from etuner_ros.core.errors import EtunerError
from etuner_ros.core.files import models_home
from etuner_ros.core.models.export import export_version
from etuner_ros.msg import LabelReceipt, Prediction, TunerStatus
from etuner_ros.nodes.messages import tuner_state
from etuner_ros.nodes.qos import LATCHED, reliable
from etuner_ros.shared.answers import answer, json_text
from etuner_ros.srv import ListVersions, PinVersion, RollBack, SetFrozenLayers, SwapModel

ANSWER_S = 5.0
RATE_S = 2.0  # over which predictions are counted


def ask(kind: Any, name: str, **fields: Any) -> Any:
    """
    Call a service of a running node.

    :raises EtunerError: when it is not there, does not answer, or refuses
    """
    with visitor() as (node, executor):
        client = node.create_client(kind, name)
        end = time.monotonic() + ANSWER_S
        while not client.service_is_ready():
            if time.monotonic() > end:
                raise EtunerError(f'{name} is not there: does the robot run, and is --node right?')
            executor.spin_once(timeout_sec=0.05)
        future = client.call_async(kind.Request(**fields))
        executor.spin_until_future_complete(future, timeout_sec=ANSWER_S)
        found = future.result()
    if found is None:
        raise EtunerError(f'{name} did not answer within {ANSWER_S:.0f} s')
    if getattr(found, 'error_code', 0):
        raise EtunerError(found.error_msg)
    return found


def models(arguments: argparse.Namespace) -> int:
    """Run `etuner models`."""
    node, action = arguments.node.rstrip('/'), arguments.action
    if action == 'list':
        _print_versions(ask(ListVersions, f'{node}/list_versions'), arguments.json)
    elif action == 'swap':
        text = ask(SwapModel, f'{node}/swap', version=arguments.version).error_msg
        answer(arguments.json, text, {'live': arguments.version})
    elif action == 'roll-back':
        version = ask(RollBack, f'{node}/roll_back').version
        answer(arguments.json, f'version {version} is live', {'live': version})
    elif action in ('pin', 'unpin'):
        fields = {'version': arguments.version, 'pinned': action == 'pin'}
        text = ask(PinVersion, f'{node}/pin_version', **fields).error_msg
        answer(arguments.json, text, fields)
    elif action in ('freeze', 'thaw'):
        found = ask(
            SetFrozenLayers,
            f'{node}/set_frozen_layers',
            names=arguments.names,
            frozen=action == 'freeze',
            pinned=arguments.pin,
        )
        text = f'{found.error_msg}: {", ".join(found.changed) or "none"}'
        answer(arguments.json, text, {'changed': list(found.changed)})
    else:
        folder = arguments.folder or _store_folder(node)
        with redirect_stdout(sys.stderr):  # of torch, whose exporter tells its steps
            export_version(folder, arguments.version, arguments.format, arguments.path.resolve())
        text = f'{arguments.path}: version {arguments.version}, {arguments.format}'
        answer(arguments.json, text, {'file': arguments.path, 'version': arguments.version})
    return 0


def _store_folder(node: str) -> Path:
    found = ask(ListVersions, f'{node}/list_versions')
    folder = models_home(node.rpartition('/')[0]) / found.base_sha256[:16]
    if not folder.is_dir():
        raise EtunerError(f'the store is not in {folder} on this computer; name it with --folder')
    return folder


def _print_versions(found: Any, as_json: bool) -> None:
    rows = [
        {
            'version': version,
            'live': version == found.live,
            'pinned': pinned,
            'parent': parent,
            'accuracy': None if math.isnan(accuracy) else round(accuracy, 4),
            'made_by': 'instant head' if head else 'round' if version else 'deployment',
            'reason': reason,
        }
        for version, pinned, parent, accuracy, head, reason in zip(
            found.versions,
            found.pinned,
            found.parents,
            found.accuracies,
            found.head_only,
            found.reasons,
        )
    ]
    if as_json:
        print(json_text({'base_sha256': found.base_sha256, 'versions': rows}))
        return
    print(f'{"":2}{"version":>7} {"parent":>6} {"accuracy":>8}  {"made by":12} why')
    for row in rows:
        mark = ('*' if row['live'] else ' ') + ('p' if row['pinned'] else ' ')
        accuracy = '-' if row['accuracy'] is None else f'{100 * row["accuracy"]:.0f} %'
        print(
            f'{mark}{row["version"]:7} {row["parent"]:6} {accuracy:>8}  {row["made_by"]:12} '
            f'{row["reason"]}'
        )
    print('* live, p pinned')


class Watcher:
    """What a running robot says, in a few lines."""

    def __init__(self, node: Node) -> None:
        self.status: TunerStatus | None = None
        self.prediction: Prediction | None = None
        self.times: deque[float] = deque()  # of predictions in the last RATE_S
        self.accepted = self.refused = 0
        self.right: deque[bool] = deque(maxlen=100)
        self.last_refusal = ''
        node.create_subscription(Prediction, 'predictions', self._on_prediction, reliable(50))
        node.create_subscription(TunerStatus, 'tuner/status', self._on_status, LATCHED)
        node.create_subscription(LabelReceipt, 'label_receipts', self._on_receipt, reliable(50))

    def _on_prediction(self, message: Prediction) -> None:
        self.prediction = message
        self.times.append(time.monotonic())
        self._forget_old()

    def _forget_old(self) -> None:
        while self.times and time.monotonic() - self.times[0] > RATE_S:
            self.times.popleft()

    def _on_status(self, message: TunerStatus) -> None:
        self.status = message

    def _on_receipt(self, message: LabelReceipt) -> None:
        if message.code == LabelReceipt.ACCEPTED:
            self.accepted += 1
            self.right.append(message.label == message.predicted_label)
        else:
            self.refused += 1
            self.last_refusal = message.message

    def facts(self) -> dict[str, Any]:
        """Return everything as plain values; None for what was not heard yet."""
        self._forget_old()
        seen, status = self.prediction, self.status
        return {
            'rate_hz': round(len(self.times) / RATE_S, 1),
            'label': seen.labels[0] if seen and seen.labels else None,
            'confidence': round(seen.confidence, 3) if seen else None,
            'version': seen.model_version if seen else None,
            'latency_ms': round(seen.latency_ms, 1) if seen else None,
            'novelty': round(seen.novelty, 2) if seen else None,
            'state': tuner_state(status) if status else None,
            'reason': status.reason if status else None,
            'scenario': status.scenario if status else None,
            'rounds': status.rounds if status else None,
            'labels_compared': status.labels_compared if status else None,
            'labels_won': status.labels_won if status else None,
            'labels_lost': status.labels_lost if status else None,
            'layers_frozen': status.layers_frozen if status else None,
            'layers_total': status.layers_total if status else None,
            'progress': round(status.progress, 3) if status else None,
            'tuning_s': round(status.tuning_s, 1) if status else None,
            'labels_accepted': self.accepted,
            'labels_refused': self.refused,
            'right_of_labelled': round(sum(self.right) / len(self.right), 3)
            if self.right
            else None,
            'last_refusal': self.last_refusal or None,
        }


def panel(facts: dict[str, Any]) -> Any:
    """Return the live view."""
    from rich.markup import escape
    from rich.panel import Panel
    from rich.table import Table

    # What people and robots say may hold brackets, which are markup here.
    facts = {name: escape(v) if isinstance(v, str) else v for name, v in facts.items()}

    def bar(share: float | None) -> str:
        if share is None or not math.isfinite(share):  # messages may hold anything
            share = 0.0
        filled = round(30 * min(max(share, 0.0), 1.0))
        return f'[green]{"━" * filled}[/green][dim]{"━" * (30 - filled)}[/dim]'

    table = Table.grid(padding=(0, 2))
    table.add_column(justify='right', style='bold')
    table.add_column()
    if facts['label'] is None and not facts['rate_hz']:
        table.add_row('predictions', '[yellow]none heard: does inference run, on images?[/yellow]')
    else:
        table.add_row('sees', f'{facts["label"] or "?"}  v{facts["version"]}')
        table.add_row('confidence', f'{bar(facts["confidence"])} {facts["confidence"]:.0%}')
        table.add_row('predictions', f'{facts["rate_hz"]} Hz, {facts["latency_ms"]} ms old')
    if facts['state'] is None:
        table.add_row('tuner', '[yellow]not heard[/yellow]')
    else:
        reason = facts['reason'].removeprefix(f'{facts["state"]}: ')
        table.add_row('tuner', f'{facts["state"]}  {reason}')
        if facts['state'] == 'tuning':
            table.add_row('round', f'{bar(facts["progress"])} {facts["progress"]:.0%}')
        frozen, total = facts['layers_frozen'], facts['layers_total']
        table.add_row('frozen', f'{"■" * frozen}{"□" * (total - frozen)} {frozen} of {total}')
        text = f'{facts["rounds"]} rounds, {facts["tuning_s"]} s, scenario {facts["scenario"]}'
        table.add_row('so far', text)
        if facts['labels_compared']:
            text = f'{facts["labels_won"]} won, {facts["labels_lost"]} lost by rounds'
            table.add_row('new labels', f'{text}, of {facts["labels_compared"]}')
    share = facts['right_of_labelled']
    right = '' if share is None else f', {share:.0%} were right'
    text = f'{facts["labels_accepted"]} accepted{right}, {facts["labels_refused"]} refused'
    table.add_row('labels', text)
    if facts['last_refusal']:
        table.add_row('', f'[yellow]{facts["last_refusal"]}[/yellow]')
    return Panel(table, title='etuner watch', width=88)


def watch(namespace: str, as_json: bool, count: int) -> int:
    """Run `etuner watch`."""
    from rich.live import Live

    with visitor(namespace) as (node, executor):
        watcher = Watcher(node)
        ticks = 0

        def spin(seconds: float) -> None:
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                executor.spin_once(timeout_sec=left)

        if as_json or not sys.stdout.isatty():
            while not count or ticks < count:
                spin(1.0)
                ticks += 1
                print(json_text(watcher.facts(), None), flush=True)
            return 0
        with Live(panel(watcher.facts()), refresh_per_second=4) as live:
            while not count or ticks < 4 * count:
                spin(0.25)
                ticks += 1
                live.update(panel(watcher.facts()))
    return 0
