# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`etuner labels`: look at, check, export, import or rename labels."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
from typing import Any

from etuner_ros.core.errors import EtunerError, StoreError
from etuner_ros.shared.answers import answer, shown


def add(commands: Any) -> None:
    """Add the command."""
    labels = commands.add_parser('labels', help='look at, check, export, import or rename labels')
    actions = labels.add_subparsers(required=True, dest='action', metavar='ACTION')
    stats = actions.add_parser('stats', help='what is stored of each class')
    export = actions.add_parser('export', help='write all labelled pictures')
    export.add_argument('folder', type=Path, help='empty or new folder')
    export.add_argument('--format', default='folder', choices=('folder', 'coco', 'labelstudio'))
    take = actions.add_parser('import', help='take labelled pictures; a running robot learns them')
    take.add_argument('folder', type=Path, help='folder <label>/*.jpg, COCO or Label Studio JSON')
    take.add_argument('--author', default='import', help='who the labels are from')
    rename = actions.add_parser('rename', help='call a label otherwise; an existing one: merge')
    rename.add_argument('label')
    rename.add_argument('new_label')
    check = actions.add_parser('check', help='read the whole store, all pictures too')
    for action in (stats, export, take, rename, check):
        action.add_argument('--store', type=Path, help='database; default: the only one there is')
    labels.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do what is asked with the label store."""
    import time

    from etuner_ros.core.labels.files import export, import_, LONGEST_LABEL
    from etuner_ros.core.labels.renaming import rename, RenameCode
    from etuner_ros.core.labels.store import LabelStore

    path = _store_path(arguments)
    is_new = not path.exists()
    if is_new and arguments.action != 'import':
        raise StoreError(f'there is no label store {path}')
    if arguments.action == 'import' and not arguments.folder.exists():
        raise StoreError(f'{arguments.folder} does not exist')  # before a store is made for it
    store = LabelStore(path, set_aside=False)
    try:
        if arguments.action == 'stats':
            found = [vars(s) for s in store.statistics()]
            disputed = store.count_disputed()
            lines = [f'{"label":24} {"frames":>7} {"right":>6} {"learned":>8} {"MB":>7}']
            lines += [
                f'{row["label"]:24} {row["frames"]:7} {row["confirmed"]:6} '
                f'{row["learned"]:8} {row["image_bytes"] / 1e6:7.1f}'
                for row in found
            ]
            text = '\n'.join([*lines, f'{disputed} disputed'])
            answer(arguments.json, text, {'classes': found, 'disputed': disputed})
        elif arguments.action == 'check':
            damage = store.check()
            answer(arguments.json, damage or 'all can be read', {'damage': damage})
            return 1 if damage else 0
        elif arguments.action == 'export':
            written = export(
                store,
                arguments.folder,
                arguments.format,
                lambda samples: shown(samples, 'writing pictures', store.count()),
            )
            for problem in written.problems:
                print(f'left out: {problem}', file=sys.stderr)
            text = f'{written.pictures} labelled pictures in {arguments.folder}'
            answer(arguments.json, text, {**vars(written), 'folder': arguments.folder})
        elif arguments.action == 'import':
            result = import_(
                store,
                arguments.folder,
                arguments.author,
                time.time_ns(),
                watch=lambda pairs: shown(pairs, 'reading pictures'),
            )
            for problem in result.problems or []:
                print(f'left out: {problem}', file=sys.stderr)
            lines = [f'{result.added} labels taken, {result.known} were known']
            lines += [f'a new label store: {path}'] if is_new else []
            lines += [
                f'{count} contradict {other!r} and are not learned from; `--author {other}` '
                f'replaces what that one said'
                for other, count in result.disputed.items()
            ]
            answer(arguments.json, '\n'.join(lines), result)
        else:
            renamed = rename(store, arguments.label, arguments.new_label, LONGEST_LABEL)
            if renamed.code != RenameCode.NONE:
                raise EtunerError(renamed.text)
            changed = renamed.changed
            answer(arguments.json, f'{changed} frames changed', {'changed': changed})
    finally:
        store.close()
    return 0


def _store_path(arguments: argparse.Namespace) -> Path:
    """Return the label store that the arguments name, or the only one there is."""
    from etuner_ros.core.files import home

    path: Path | None = arguments.store
    if path is None:
        found = sorted(home('labels').glob('*.db'))
        if len(found) != 1:
            names = ', '.join(map(str, found)) or 'none'
            usual = home('labels') / 'label_collector.db'
            raise StoreError(
                f'name the label store with --store; found: {names} (a robot without a namespace '
                f'has {usual})'
            )
        path = found[0]
    return path
