# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark's report: one self-contained HTML page, a Markdown table, and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

import jinja2

from etuner_ros.bench.methods.registry import SEARCHED
from etuner_ros.bench.pictures import cost_figure, curve_figure, pareto_figure
from etuner_ros.bench.runs import Run
from etuner_ros.bench.table import repeatability, SIMPLE, what_rounds_add
from etuner_ros.demo.report import svg

Row = dict[str, Any]

# Title, key of a row, digits, whether the sign is always said.
COLUMNS = (
    ('final, %', 'final', 1, False),
    ('regret', 'regret_accuracy', 1, True),
    ('regret, final', 'regret_final', 1, True),
    ('on return, %', 'on_return', 1, False),
    ('wrong of a new kind', 'new_kind_requests', 1, False),
    ('forgetting', 'forgetting', 1, False),
    ('rounds', 'rounds', 1, False),
    ('refused', 'refused', 1, False),
    ('trained', 'trained_share', 2, False),
    ('frozen', 'most_frozen', 0, False),
    ('operations', 'flops_vs_immediate', 3, False),
    ('with fixed parts', 'busy_with_fixed_vs_immediate', 3, False),
    ('time', 'time_vs_immediate', 3, False),
)


@dataclass(frozen=True)
class Tables:
    """What a report is made of."""

    rows: Sequence[Row]
    runs: Sequence[Run]
    timed: Sequence[Run] = ()
    least_seeds: int = 1  # rows of fewer are only named
    main: str = ''  # network that they count for; of others one seed is run, and shown

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Streams and networks that have rows."""
        return list(dict.fromkeys((r['stream'], r['model']) for r in self.rows if r['seeds']))

    def shown(self, stream: str, model: str) -> list[Row]:
        """Return the rows of a stream with seeds enough."""
        least = self.least(model)
        return [r for r in self._of(stream, model) if r['seeds'] >= least]

    def left_out(self, stream: str, model: str) -> str:
        """Return the names of the others, with the seeds that they have."""
        least = self.least(model)
        few = [r for r in self._of(stream, model) if r['seeds'] < least]
        return ', '.join(f'{r["method"]} ({r["seeds"]} seeds)' for r in few)

    def least(self, model: str) -> int:
        """Return the seeds that a row of a network needs to be shown."""
        return max(self.least_seeds, 1) if self.main in ('', model) else 1

    def _of(self, stream: str, model: str) -> list[Row]:
        return [r for r in self.rows if (r['stream'], r['model']) == (stream, model)]

    @property
    def findings(self) -> dict[str, list[str]]:
        """What rounds add over the head alone, by stream and network."""
        said = {f'{s}, {m}': what_rounds_add(self.runs, s, m) for s, m in self.pairs}
        return {title: lines for title, lines in said.items() if lines}

    @property
    def note(self) -> str:
        """Of which code it is, where that can not be had again."""
        dirty = {r['dirty'] for r in self.rows if r['seeds']} - {''}
        if not dirty:
            return ''
        return 'A first look: made by code that is not committed, so nothing here can be cited.'

    def regrets(self) -> tuple[list[str], list[list[str]]]:
        """Return titles and lines of the table of regrets: methods down, streams across."""
        found: dict[str, dict[tuple[str, str], Row]] = {}
        for pair in self.pairs:
            for row in self.shown(*pair):
                if row['regret_accuracy'] is not None:
                    found.setdefault(row['method'], {})[pair] = row
        lines = []
        for method, rows in found.items():
            lines.append([method, *(_both(rows.get(pair)) for pair in self.pairs)])
        several = len({m for _, m in self.pairs}) > 1
        return ['method', *(f'{s}, {m}' if several else s for s, m in self.pairs)], lines


def _number(value: Any, digits: int = 1, sign: bool = False) -> str:
    if value is None:
        return '-'
    return f'{value:+.{digits}f}' if sign else f'{value:.{digits}f}'


def _both(row: Row | None) -> str:
    """Return the two regrets of a row."""
    if row is None:
        return '-'
    return ' / '.join(_number(row[f'regret_{k}'], sign=True) for k in ('accuracy', 'final'))


def _with_interval(value: Any, half: Any, sign: bool = False) -> str:
    return _number(value, sign=sign) + ('' if half is None else f' ± {half:.1f}')


def cells(row: Row) -> list[str]:
    """Return a row of a stream's table as text, in the order of `titles`."""
    return [
        row['method'],
        str(row['seeds']),
        _with_interval(row['accuracy'], row['accuracy_ci95']),
        _with_interval(row['delta_vs_immediate'], row['delta_ci95'], sign=True)
        + (f' ({row["delta_seeds"]})' if 0 < row['delta_seeds'] < row['seeds'] else ''),
        *(_number(row[key], digits, sign) for _, key, digits, sign in COLUMNS),
    ]


def titles() -> list[str]:
    """Return the titles of a stream's table."""
    return ['method', 'seeds', 'accuracy, %', 'against immediate', *(c[0] for c in COLUMNS)]


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return '\n'.join(
        '| ' + ' | '.join(line) + ' |' for line in (head, ['---'] * len(head), *lines)
    )


def markdown(tables: Tables, stream: str, model: str) -> str:
    """Return what rounds add on a stream, its table, and who is left out of it."""
    lines = []
    for row in tables.shown(stream, model):
        name, *rest = cells(row)
        lines.append([f'**{name}**' if name == 'shipped' else name, *rest])
    parts = [f'{s}.' for s in what_rounds_add(tables.runs, stream, model)]
    parts.append(_table(titles(), lines))
    left = tables.left_out(stream, model)
    if left:
        parts.append(f'Left out, with fewer than {tables.least(model)} seeds: {left}.')
    return '\n\n'.join(parts)


def repeated(runs: Sequence[Run]) -> list[str]:
    """Return, in words, how much runs of the same differ."""
    return [
        f'{r["stream"]}, {r["method"]}: {r["answers_differ"]} of {r["answers"]} answers differ in '
        f'{r["pairs"]} runs of the same, accuracy by {r["accuracy_differs"]:.2f} points and '
        f'operations by {100 * r["operations_differ"]:.2f} % at most'
        for r in repeatability(runs)
    ]


def write(folder: Path, tables: Tables, facts: Row) -> None:
    """
    Write summary.json, table.md, figures as PNG and report.html.

    :param facts: command, commit, versions, machine; printed on the page
    """
    folder.mkdir(parents=True, exist_ok=True)
    repeats = repeated(tables.runs)
    head, lines = tables.regrets()
    (folder / 'summary.json').write_text(json.dumps(list(tables.rows), indent=1) + '\n')
    (folder / 'machine.json').write_text(json.dumps(facts, indent=1) + '\n')
    parts = ['<!-- ' + '; '.join(f'{k}: {v}' for k, v in facts.items()) + ' -->']
    parts += [tables.note] if tables.note else []
    parts += [f'**{t}**: {"; ".join(said)}.' for t, said in tables.findings.items()]
    if lines:
        parts += [f'## Regret\n\n{regret_text(tables)}', _table(head, lines)]
    parts += [f'## {s}, {m}\n\n{markdown(tables, s, m)}' for s, m in tables.pairs]
    searched = _table(['method', 'tried'], [[k, v] for k, v in SEARCHED.items()])
    parts.append(f'## Searched\n\n{searched}')
    if repeats:
        parts.append('## The same again\n\n' + '\n'.join(f'- {r}' for r in repeats))
    (folder / 'table.md').write_text('\n\n'.join(parts) + '\n')
    template = Path(__file__).resolve().parent.parent / 'templates' / 'bench.html'
    page = jinja2.Template(template.read_text(), autoescape=True).render(
        note=tables.note,
        findings=tables.findings,
        regret_text=regret_text(tables),
        regret_head=head,
        regrets=lines,
        titles=titles(),
        sections=[_section(folder, tables, s, m) for s, m in tables.pairs],
        searched=SEARCHED,
        repeats=repeats,
        facts=facts,
    )
    (folder / 'report.html').write_text(page)


def regret_text(tables: Tables) -> str:
    """Return what regret is measured against: those of the simple methods that were run."""
    there = {row['method'] for row in tables.rows if row['seeds']}
    best = ', '.join(name for name in SIMPLE if name in there)
    return (
        f'Points by which the best of {best or "the simple methods"} is ahead on that stream, of '
        f'accuracy over the stream / of final accuracy over all kinds, the method itself aside; '
        f'negative: ahead of all of them.'
    )


def _section(folder: Path, tables: Tables, stream: str, model: str) -> Row:
    """Return what the page says of a stream; its pictures are also written as files."""
    rows = tables.shown(stream, model)
    drawn = {}
    front = pareto_figure(rows, tables.runs, stream) if len(rows) > 2 else None
    if front is not None:
        drawn['pareto'] = front
    drawn['stream'] = curve_figure(tables.runs, stream, model)
    drawn['cost'] = cost_figure(tables.runs, stream, model, 'flops')
    figures = []
    for name, figure in drawn.items():
        file = folder / f'{name}_{stream}_{model}.png'
        figure.savefig(file, dpi=100, bbox_inches='tight')
        figures.append(svg(figure))
    if any((r.stream, r.model) == (stream, model) for r in tables.timed):
        figures.append(svg(cost_figure(tables.timed, stream, model, 'seconds')))
    return {
        'title': f'{stream}, {model}',
        'rows': [cells(row) for row in rows],
        'left_out': tables.left_out(stream, model),
        'figures': figures,
    }
