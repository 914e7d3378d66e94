#!/usr/bin/env python3
# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The map of the code: rooms, their modules, and who imports whom, as the files are now.

Which rooms there are and what each may import says the first table of docs/architecture.md, and
nothing else does. The page of the site gets the picture and the table of parts from here;
test/core/test_map.py checks the imports. Alone it prints the parts, and writes the picture:
`python3 tools/docs_map.py [map.svg]`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
import re
import sys

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / 'docs' / 'architecture.md'
PACKAGE = 'etuner_ros'
ROS = ('ament_index_python', 'rcl_interfaces', 'rclpy', 'std_srvs')

# Sizes of the picture, in px.
CHARACTER = 6.3  # of a module's name, at 11 px
LINE = 15
COLUMN = 9  # most modules below each other in a box
ROW_GAP = 46
BOX_GAP = 22
LANE = 12  # for an arrow that passes a row


@dataclass(frozen=True)
class Room:
    """
    One folder of the package, without the folders in it.

    :param name: the folder below etuner_ros
    :param purpose: what is in it
    :param may_import: names of rooms
    :param outside: of 'ROS' and 'torch' what it may import, and in which files ('' = all)
    """

    name: str
    purpose: str
    may_import: frozenset[str]
    outside: Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Module:
    """A file of the package and what it imports, at its top and anywhere."""

    name: str
    path: Path
    room: str
    lines: int
    purpose: str
    at_top: frozenset[str]
    imports: frozenset[str]

    @property
    def short(self) -> str:
        """Name within its room."""
        return self.path.stem


# Rules and facts


def rooms(page: Path = PAGE) -> dict[str, Room]:
    """Return the rooms by name, as the table of the page has them."""
    found = {}
    section = page.read_text().split('\n## Rooms\n')[1].split('\n## ')[0]
    for row in re.findall(r'^\| `.*\|$', section, flags=re.MULTILINE):
        name, purpose, imports, outside = (cell.strip() for cell in row.strip('|').split('|'))
        outer = {}
        for part in filter(None, outside.split('; ')):
            what, _, where = part.partition(' in ')
            outer[what] = frozenset(re.findall(r'`(.*?)`', where)) or frozenset([''])
        name = name.strip('`')
        found[name] = Room(name, purpose, frozenset(re.findall(r'`(.*?)`', imports)), outer)
    return found


def modules(root: Path = ROOT) -> dict[str, Module]:
    """Return the modules of the package by their full names."""
    paths = {dotted(path, root): path for path in sorted((root / PACKAGE).rglob('*.py'))}
    found = {}
    for name, path in paths.items():
        text = path.read_text()
        tree = ast.parse(text)
        folder = path.parent.relative_to(root / PACKAGE).as_posix()
        room = folder if folder != '.' else PACKAGE if path.stem == '__init__' else path.stem
        purpose = re.split(r'(?<=\.)\s', ' '.join((ast.get_docstring(tree) or '').split()))[0]
        found[name] = Module(
            name,
            path,
            room,
            len(text.splitlines()),
            purpose,
            frozenset(imported(top_level(tree), paths)),
            frozenset(imported(ast.walk(tree), paths)),
        )
    return found


def dotted(path: Path, root: Path) -> str:
    """Return the name by which a file is imported."""
    parts = path.relative_to(root).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def imported(nodes: Iterator[ast.AST], known: Mapping[str, Path]) -> Iterator[str]:
    """Return the full names of what the import statements among some nodes import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f'{node.module}.{alias.name}'
                yield whole if whole in known else node.module


def top_level(tree: ast.Module) -> Iterator[ast.AST]:
    """Return the nodes that run when a module is imported, those for type checkers left out."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        yield node
        waiting.extend(ast.iter_child_nodes(node))


def outer(name: str) -> str:
    """Return 'ROS' or 'torch' for a module of theirs, '' for any other."""
    first, _, rest = name.partition('.')
    if first in ROS or first.endswith('_msgs'):
        return 'ROS'
    if first == PACKAGE and rest.split('.')[0] in ('msg', 'srv', 'action'):
        return 'ROS'
    return 'torch' if first in ('torch', 'torchvision') else ''


def offences(rules: Mapping[str, Room], parts: Mapping[str, Module]) -> list[str]:
    """Return what modules import that their room may not."""
    found = []
    for part in parts.values():
        if part.room == PACKAGE:
            continue
        if part.room not in rules:
            found.append(f'{part.name}: the table has no room {part.room}')
            continue
        rule = rules[part.room]
        for name in sorted(part.imports):
            if name in parts:
                target = parts[name].room
                if target not in (part.room, PACKAGE) and target not in rule.may_import:
                    found.append(f'{part.name} imports {name}; {part.room} may not')
            elif (what := outer(name)) and not rule.outside.get(what, frozenset()) & {
                '',
                part.path.name,
            }:
                found.append(f'{part.name} imports {name}; {part.room} may not use {what}')
    return found


def circles(graph: Mapping[str, frozenset[str]]) -> list[list[str]]:
    """Return groups of nodes that reach each other (Tarjan), as sorted lists."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in number:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], number[other])
        if low[node] == number[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1 or node in graph[node]:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in number:
            visit(node)
    return found


def room_graph(parts: Mapping[str, Module]) -> dict[str, set[str]]:
    """Return which rooms each room imports."""
    graph: dict[str, set[str]] = {
        part.room: set() for part in parts.values() if part.room != PACKAGE
    }
    for part in parts.values():
        for name in part.imports & parts.keys():
            if part.room in graph and parts[name].room not in (part.room, PACKAGE):
                graph[part.room].add(parts[name].room)
    return graph


# The page


def filled(page: str) -> str:
    """Return the page with the picture and the table of parts in their places."""
    parts = modules()
    for place, made in (
        ('picture', f'<div>\n{picture(parts)}</div>\n'),
        ('parts', table_of_parts(rooms(), parts)),
    ):
        head, _, tail = page.partition(f'<!-- the {place} -->\n')
        _, _, rest = tail.partition('\n\n')  # what stands there in the repository goes
        page = f'{head}{made}\n{rest}'
    return page


def table_of_parts(rules: Mapping[str, Room], parts: Mapping[str, Module]) -> str:
    """Return each module with its lines and what it is for, by room."""
    rows = ['| room | file | lines | what it is for |', '|---|---|---|---|']
    for room in rules:
        own = contents(room, parts)
        rows.append(f'| **{room}** | | **{sum(p.lines for p in own)}** | |')
        for part in own:
            text = part.purpose.replace('|', '\\|').replace('<', '&lt;').replace('*', '\\*')
            rows.append(f'| | `{part.path.name}` | {part.lines} | {text} |')
    return '\n'.join(rows) + '\n'


def contents(room: str, parts: Mapping[str, Module]) -> list[Module]:
    """Return the modules of a room that hold more than a docstring."""
    return [p for p in parts.values() if p.room == room and (p.short != '__init__' or p.imports)]


# The picture


@dataclass
class Box:
    """A room in the picture, or, without modules, a place where an arrow passes a row."""

    room: str
    parts: list[Module]
    x: float = 0.0
    y: float = 0.0

    @property
    def columns(self) -> list[list[Module]]:
        """Modules in columns of about the same length."""
        count = -(-len(self.parts) // COLUMN)
        each = -(-len(self.parts) // count) if count else 1
        return [self.parts[i : i + each] for i in range(0, len(self.parts), each)]

    def column_width(self, column: list[Module]) -> float:
        """Return the room that the longest line of a column takes."""
        return max(len(f'{p.short} {p.lines}') for p in column) * CHARACTER + 16

    @property
    def title(self) -> str:
        """Name and lines."""
        return f'{self.room}  ({sum(p.lines for p in self.parts)} lines)'

    @property
    def width(self) -> float:
        """Width in px."""
        if not self.parts:
            return LANE
        inner = sum(self.column_width(c) for c in self.columns)
        return max(inner, len(self.title) * 7.4) + 20

    @property
    def height(self) -> float:
        """Height in px."""
        return 38 + LINE * max(len(c) for c in self.columns) if self.parts else 0.0

    @property
    def middle(self) -> float:
        """X of its middle."""
        return self.x + self.width / 2


def downward(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return a graph without the imports that close a circle of rooms."""
    found: dict[str, set[str]] = {}

    def visit(room: str, above: tuple[str, ...]) -> None:
        if room not in found:
            found[room] = graph[room] - {room, *above}
            for other in sorted(found[room]):
                visit(other, (*above, room))

    for room in sorted(graph):
        visit(room, ())
    return found


def needed(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return a graph without circles less the arrows that follow from others."""
    reach: dict[str, set[str]] = {}
    for room in sorted(graph, key=levels(graph).__getitem__):
        reach[room] = graph[room].union(*(reach[other] for other in graph[room]))
    return {
        room: {o for o in below if not any(o in reach[other] for other in below)}
        for room, below in graph.items()
    }


def levels(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """Return how far above those that import nothing each room of a graph without circles is."""
    found: dict[str, int] = {}

    def level(room: str) -> int:
        if room not in found:
            found[room] = max((level(other) + 1 for other in graph[room]), default=0)
        return found[room]

    for room in graph:
        level(room)
    return found


def picture(parts: Mapping[str, Module]) -> str:
    """Return the rooms as boxes and their imports as arrows, an SVG."""
    graph = room_graph(parts)
    down = downward(graph)
    height = levels(down)
    rows: list[list[Box]] = [[] for _ in range(max(height.values()) + 1)]
    for room in sorted(graph):
        rows[height[room]].append(Box(room, contents(room, parts)))
    boxes = {box.room: box for row in rows for box in row}
    ways: list[list[Box]] = []
    for room, below in sorted(needed(down).items()):
        for other in sorted(below):
            way = [boxes[room]]
            for between in range(height[room] - 1, height[other], -1):
                lane = Box('', [])
                rows[between].append(lane)
                way.append(lane)
            ways.append([*way, boxes[other]])
    arrange(rows, ways)
    return drawn(rows, ways, graph)


def arrange(rows: list[list[Box]], ways: list[list[Box]]) -> None:
    """Give each box its place: rows from the top, in a row by the middle of its neighbours."""
    near: dict[int, list[Box]] = {id(box): [] for row in rows for box in row}
    for way in ways:
        for one, other in zip(way, way[1:]):
            near[id(one)].append(other)
            near[id(other)].append(one)
    widest = max(sum(b.width + BOX_GAP for b in row) for row in rows) - BOX_GAP

    def spread(row: list[Box]) -> None:
        x = (widest - sum(b.width + BOX_GAP for b in row) + BOX_GAP) / 2
        for box in row:
            box.x = x
            x += box.width + BOX_GAP

    for row in rows:
        spread(row)
    for _ in range(12):
        for order in (rows, rows[::-1]):
            for row in order:
                row.sort(
                    key=lambda b: (
                        sum(n.middle for n in near[id(b)]) / len(near[id(b)])
                        if near[id(b)]
                        else b.middle
                    )
                )
                spread(row)
    y = 4.0
    for row in rows[::-1]:
        tallest = max(b.height for b in row)
        for box in row:
            box.y = y if not box.parts else y + (tallest - box.height) / 2
        y += tallest + ROW_GAP


def drawn(rows: list[list[Box]], ways: list[list[Box]], graph: Mapping[str, set[str]]) -> str:
    """Return the SVG of boxes that have their places."""
    every = [box for row in rows for box in row]
    width = max(b.x + b.width for b in every) + 4
    height = max(b.y + b.height for b in every) + 4
    tall = {id(box): max(b.height for b in row) for row in rows for box in row}
    lines = [
        f'<svg class="map" xmlns="http://www.w3.org/2000/svg" viewBox="-4 0 {width + 4:.0f} '
        f'{height:.0f}" width="{width + 4:.0f}" role="img" '
        'aria-label="rooms of the code and who imports whom" '
        'font-family="system-ui, Helvetica, sans-serif" font-size="11">',
        '<style>.map{max-width:100%;height:auto;--ink:var(--md-typeset-color,#333)}'
        '.map text{fill:var(--ink)}.map .w{stroke:var(--ink);opacity:.75;fill:none}'
        '.map .b{fill:#12805c;fill-opacity:.13;stroke:#12805c}'
        '.map .h{fill:var(--ink)}</style>',
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" '
        'markerHeight="8" orient="auto-start-reverse">'
        '<path class="h" d="M0 1 10 5 0 9z"/></marker></defs>',
    ]
    outs = {id(b): [w for w in ways if w[0] is b] for b in every}
    ins = {id(b): [w for w in ways if w[-1] is b] for b in every}

    def port(box: Box, way: list[Box], own: list[list[Box]], end: int) -> float:
        order = sorted(own, key=lambda w: w[end].middle)
        place = next(i for i, w in enumerate(order) if w is way)
        return box.x + box.width * (place + 1) / (len(order) + 1)

    for way in ways:
        first, last = way[0], way[-1]
        x = port(first, way, outs[id(first)], 1)
        points = [f'M{x:.0f} {first.y + first.height:.0f}']
        y = first.y + first.height
        for box in way[1:-1]:
            points.append(curve(x, y, box.middle, box.y))
            x, y = box.middle, box.y + tall[id(box)]
            points.append(f'L{x:.0f} {y:.0f}')
        points.append(curve(x, y, port(last, way, ins[id(last)], -2), last.y - 1))
        both = ' marker-start="url(#tip)"' if first.room in graph[last.room] else ''
        lines.append(f'<path class="w" d="{"".join(points)}" marker-end="url(#tip)"{both}/>')
    for box in every:
        if not box.parts:
            continue
        lines.append(
            f'<rect class="b" x="{box.x:.0f}" y="{box.y:.0f}" width="{box.width:.0f}" '
            f'height="{box.height:.0f}" rx="7"/>'
            f'<text x="{box.x + 10:.0f}" y="{box.y + 20:.0f}" font-size="13" font-weight="600">'
            f'{escape(box.title)}</text>'
        )
        x = box.x + 10
        for column in box.columns:
            for i, part in enumerate(column):
                lines.append(
                    f'<text x="{x:.0f}" y="{box.y + 40 + LINE * i:.0f}">{escape(part.short)} '
                    f'<tspan opacity=".6">{part.lines}</tspan></text>'
                )
            x += box.column_width(column)
    return '\n'.join([*lines, '</svg>\n'])


def curve(x: float, y: float, to_x: float, to_y: float) -> str:
    """Return a path that leaves and arrives upright."""
    half = (y + to_y) / 2
    return f'C{x:.0f} {half:.0f} {to_x:.0f} {half:.0f} {to_x:.0f} {to_y:.0f}'


def main() -> None:
    """Print the parts; write the picture where an argument says."""
    parts = modules()
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(picture(parts))
    print(table_of_parts(rooms(), parts), end='')


if __name__ == '__main__':
    main()
