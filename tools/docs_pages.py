#!/usr/bin/env python3
# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Pages of the documentation site that are made from what they describe: home page, interfaces,
parameters, commands. A hook of MkDocs, see mkdocs.yml.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from dataclasses import fields
import importlib
import os
from pathlib import Path
import re
import sys
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r'(\]\()([^)#\s]+)')
NODES = (
    'camera',
    'inference',
    'label_collector',
    'tuner',
    'model_manager',
    'teacher',
    'operator',
    'proposer',
    'metrics',
)
PAGES = {
    'README.md': 'index.md',
    'SECURITY.md': 'security.md',
    'CONTRIBUTING.md': 'contributing.md',
    'results/table.md': 'results.md',
}
FOLDERS = {
    'msg': 'reference/interfaces.md',
    'srv': 'reference/interfaces.md',
    'action': 'reference/interfaces.md',
}


def place(target: str) -> str:
    """Return where a path of the repository is on the site."""
    target = target.rstrip('/')
    if target in PAGES or target in FOLDERS:
        return PAGES.get(target) or FOLDERS[target]
    return target.removeprefix('docs/') if target.startswith('docs/') else f'files/{target}'


def moved(text: str, source: str) -> str:
    """
    Return a page with its links to files of the repository led to their place on the site.

    :param source: path of the page in the repository
    """
    here = os.path.dirname(place(source))

    def lead(match: re.Match[str]) -> str:
        target = match[2]
        if target.startswith(('http:', 'https:', 'mailto:')):
            return match[0]
        path = os.path.normpath(os.path.join(os.path.dirname(source), target))
        return match[1] + os.path.relpath(place(path), here or '.')

    return LINK.sub(lead, text)


def linked(text: str, source: str) -> Iterator[str]:
    """Return the files of the repository that a page links to and that no page stands for."""
    for target in LINK.findall(text):
        if not target[1].startswith(('http:', 'https:', 'mailto:')):
            path = os.path.normpath(os.path.join(os.path.dirname(source), target[1]))
            if place(path).startswith('files/') and (ROOT / path).is_file():
                yield path


# Interfaces


def interfaces() -> str:
    """Return the page of messages, services and actions."""
    parts = ['# Messages, services, actions\n']
    for kind, title in (('msg', 'Messages'), ('srv', 'Services'), ('action', 'Actions')):
        parts.append(f'\n## {title}\n')
        for file in sorted((ROOT / kind).glob(f'*.{kind}')):
            parts.append(f'\n### {file.stem}\n\n{interface(file.read_text(), kind)}')
    return ''.join(parts)


def interface(text: str, kind: str) -> str:
    """Return what a definition file says as Markdown."""
    names = {'msg': [''], 'srv': ['Request', 'Response'], 'action': ['Goal', 'Result', 'Feedback']}
    parts = []
    for title, section in zip(names[kind], re.split(r'^---$', text, flags=re.MULTILINE)):
        words, rows = [], []
        for line in section.strip().splitlines():
            code, _, comment = line.partition('#')
            if code.strip():
                sort, name = code.split(None, 1)
                rows.append([f'`{sort}`', f'`{name.strip()}`', comment.strip()])
            elif comment.strip() and not rows:
                words.append(comment.strip())
            elif comment.strip():
                rows[-1][2] += ' ' + comment.strip()
        parts.append(' '.join(words))
        if title:
            parts.append(f'*{title}*' + ('' if rows else ': nothing'))
        if rows:
            parts.append(table(('type', 'name', 'meaning'), rows))
    return '\n\n'.join(p for p in parts if p) + '\n'


def table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    """Return a table as Markdown."""
    lines = [list(head), ['---'] * len(head), *rows]

    def cell(text: str) -> str:
        text = text.replace('|', '\\|')
        return text if text.startswith('`') else text.replace('<', '&lt;').replace('*', '&#42;')

    return '\n'.join('| ' + ' | '.join(map(cell, row)) + ' |' for row in lines)


# Parameters


def declared(node: str) -> Iterator[tuple[str, Any, bool]]:
    """Return name, dataclass field and whether it can be set while the node runs, of each one."""
    module = importlib.import_module(f'etuner_ros.nodes.{node}')
    tree = ast.parse(Path(str(module.__file__)).read_text())
    yield from _declared_in(module, tree)
    for found in ast.walk(tree):  # parts of a node may declare parameters, too
        if isinstance(found, ast.ImportFrom) and str(found.module).startswith('etuner_ros.nodes.'):
            part = importlib.import_module(str(found.module))
            yield from _declared_in(part, ast.parse(Path(str(part.__file__)).read_text()))


def _declared_in(module: Any, tree: ast.Module) -> Iterator[tuple[str, Any, bool]]:
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and getattr(call.func, 'id', '') == 'declare':
            _, prefix, kind, *rest = call.args
            settings = getattr(module, kind.id)  # type: ignore[attr-defined]
            live = getattr(module, rest[1].id) if len(rest) > 1 else None  # type: ignore[attr-defined]
            for field in fields(settings):
                name = '.'.join(filter(None, [ast.literal_eval(prefix), field.name]))
                yield name, field, bool(rest) and (live is None or field.name in live)


def allowed(field: Any) -> str:
    """Return which values a parameter takes."""
    low, high = field.metadata.get('min'), field.metadata.get('max')
    if field.metadata.get('choices'):
        return ', '.join(f'`{c}`' for c in field.metadata['choices'])
    if low is None and high is None:
        return ''
    return f'{low} to {high}' if high is not None else f'from {low}'


def parameters() -> str:
    """Return the page of parameters."""
    parts = [
        '# Parameters\n\n`config/etuner.yaml` sets those that differ from their default, for all '
        'nodes. Times are in seconds where a name ends in `_s`. A value that does not fit is '
        'rejected with the reason. The lifecycle nodes also have `autostart` (default `false`; '
        'the file says `true`).\n'
    ]
    for node in NODES:
        rows = [
            [
                f'`{name}`',
                f'`{str(f.default).lower() if isinstance(f.default, bool) else f.default!r}`',
                allowed(f),
                'yes' if live else '',
                f.metadata['help'],
            ]
            for name, f, live in declared(node)
        ]
        head = ('parameter', 'default', 'values', 'at run time', 'meaning')
        parts.append(f'\n## {node}\n\n{table(head, rows)}\n')
    return ''.join(parts)


# Commands


def commands() -> str:
    """Return the page of the command line."""
    from etuner_ros.cli.main import parser

    os.environ['COLUMNS'] = '100'
    parts = ['# The command line\n']

    def add(one: argparse.ArgumentParser) -> None:
        parts.append(f'\n## {one.prog}\n\n```text\n{one.format_help().strip()}\n```\n')
        for action in one._actions:
            if isinstance(action, argparse._SubParsersAction):
                for below in action.choices.values():
                    add(below)

    add(parser())
    return ''.join(parts)


# Hooks


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made, and the files that pages link to."""
    from mkdocs.structure.files import File

    readme = (ROOT / 'README.md').read_text()
    made = {
        'reference/interfaces.md': interfaces(),
        'reference/parameters.md': parameters(),
        'reference/commands.md': commands(),
        'index.md': moved(readme, 'README.md'),
    }
    texts = {'README.md': readme}
    for source in list(PAGES)[1:]:
        texts[source] = (ROOT / source).read_text()
        made[PAGES[source]] = moved(texts[source], source)
    for page in (ROOT / 'docs').glob('*.md'):
        texts[f'docs/{page.name}'] = page.read_text()
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    for path in sorted({p for source, text in texts.items() for p in linked(text, source)}):
        files.append(File.generated(config, f'files/{path}', abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links of the pages in docs/ to the site; fill the map of the code."""
    if page.file.generated_by:
        return markdown
    if page.file.src_uri == 'architecture.md':
        sys.path.insert(0, str(ROOT / 'tools'))
        markdown = importlib.import_module('docs_map').filled(markdown)
    return moved(markdown, f'docs/{page.file.src_uri}')
