# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The command line `etuner`."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING

from etuner_ros import __version__
from etuner_ros.cli import choose, replay
from etuner_ros.core.config import INPUT_SIZE
from etuner_ros.core.errors import EtunerError
from etuner_ros.shared.answers import answer, shown

if TYPE_CHECKING:
    from etuner_ros.core.labels.store import LabelStore


def _deploy(arguments: argparse.Namespace) -> int:
    from etuner_ros.core.images.codec import Image, resize_square
    from etuner_ros.core.images.sources import open_source
    from etuner_ros.core.models.base_weights import check_name, write_base
    from etuner_ros.core.models.deploy import choose_exemplars, fit_head
    from etuner_ros.core.models.networks import build, pretrained_spec
    from etuner_ros.core.models.weights import pack_base

    check_name(arguments.output)
    model = build(
        pretrained_spec(arguments.architecture, arguments.input_size),
        arguments.weights or 'pretrained',
    )
    images: list[Image] = []
    labels: list[str] = []
    for frame in shown(open_source(arguments.source), 'reading pictures'):
        if frame.label and not (arguments.count and len(images) >= arguments.count):
            images.append(resize_square(frame.image, arguments.input_size))
            labels.append(frame.label)
    if len(set(labels)) < 2:
        raise EtunerError(
            f"'{arguments.source}' holds {len(set(labels))} labelled classes, at least 2 are "
            f'needed: <split>/<class>/*.jpg'
        )
    accuracy = fit_head(model, images, labels)
    exemplars = choose_exemplars(images, labels, arguments.exemplars)
    write_base(arguments.output, pack_base(model.state(), model.spec, model.unit_sizes, exemplars))
    answer(
        arguments.json,
        f'{arguments.output}: {len(model.classes)} classes from {len(images)} images, '
        f'{100 * accuracy:.1f} % of them right\n'
        f'use it with the parameter model.weights: {arguments.output.resolve()}',
        {'file': arguments.output, 'classes': model.classes, 'accuracy': accuracy},
    )
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    if arguments.things:
        from etuner_ros.demo.things import run_things

        rate = arguments.rate or 10.0
        shown = arguments.output, arguments.seed, rate, arguments.gap_s, arguments.stream
        return run_things(*shown, arguments.json)
    from etuner_ros.demo.run import run_demo

    return run_demo(
        arguments.output,
        arguments.seeds or [arguments.seed],
        arguments.rate or 7.0,
        arguments.stream,
        arguments.json,
    )


def _bench_costs(arguments: argparse.Namespace) -> int:
    from etuner_ros.bench.costs import measure, table
    from etuner_ros.core.files import recorded_stream

    stream = arguments.stream or recorded_stream()
    found = measure(stream, arguments.architecture, arguments.input_size, arguments.turns)
    answer(arguments.json, table(found), found)
    return 0


def _bench_scenarios(arguments: argparse.Namespace) -> int:
    from etuner_ros.bench.scenarios import HEADER, measure
    from etuner_ros.core.files import recorded_stream

    found = measure(arguments.stream or recorded_stream(), arguments.input_size, arguments.seeds)
    answer(arguments.json, '\n'.join(map(str, [HEADER, *found])), found)
    return 0


def _bench_proposals(arguments: argparse.Namespace) -> int:
    from etuner_ros.bench.proposals import measure, table
    from etuner_ros.core.files import own_proposer, recorded_stream

    recording = arguments.recording or recorded_stream().with_name('stream_things')
    found = measure(recording, own_proposer(), arguments.every)
    answer(arguments.json, table(found), found)
    return 0


def _fetch_proposer(arguments: argparse.Namespace) -> int:
    from etuner_ros.core.boxes.ssd_file import fetch

    path = fetch()
    answer(arguments.json, f'the proposer ssd lies in {path}', {'file': path})
    return 0


def _add_table(bench: argparse.ArgumentParser) -> None:
    """Add the options of the table."""
    add = bench.add_argument
    add('--output', type=Path, default=Path('results'), help='folder of the runs and the report')
    add('--quick', action='store_true', help='a small table in 3 minutes, for a first look')
    add('--grocery', type=Path, help='tar file of the grocery store photographs: NC and NIC')
    add('--images', type=Path, help='folder <scenario>/<class>/*.jpg, scenarios in name order')
    add('--core50', type=Path, help='folder of CORe50, s1/o1/*.png')
    add('--openloris', type=Path, help='folder of OpenLORIS-Object, train/<task>/<object>/*.jpg')
    add('--recording', type=Path, help='recording with ground truth instead of the one shipped')
    add('--long', type=Path, help="folder of what `make stream-long` rendered ('recordings')")
    add('--kind', default='NI', choices=('NI', 'NC', 'NIC'), help='of a folder of one scenario')
    add('--streams', nargs='+', help='only these streams')
    add('--methods', nargs='+', help='only these methods; default: all')
    add('--seeds', type=int, default=5, help='class orders, splits, arrivals, initialisations')
    add('--main-seeds', type=int, default=10, help='seeds of the main methods, if more')
    add(
        '--least-seeds',
        type=int,
        help='rows of fewer seeds are only named; default: 5, or --seeds if that is less',
    )
    add('--repeat', type=int, default=0, help='run seed 0 again so many times: what varies')
    add('--allow-dirty', action='store_true', help='look at a table of code not committed')
    add('--model', default='efficientnet_lite0', help="or a torchvision model's name")
    add(
        '--also',
        nargs='*',
        default=[],
        metavar='MODEL[=FILE]',
        help='also the main methods with these networks on recordings, one seed',
    )
    add('--weights', default='', help='state-dict file of a torchvision model')
    add('--input-size', type=int, default=INPUT_SIZE, help='side of the square input, in px')
    add('--batches', type=int, help='labelled batches of a visit at most')
    add('--requests', type=int, help='requests of a visit at most')
    add('--arrivals', default='poisson', help='poisson, uniform, normal, or a file of times')
    add('--load', type=float, default=0.5, help='share of the stream that `immediate` is busy')
    add('--processes', type=int, default=0, help='runs at a time; 0 = one for each core')
    add('--budget-min', type=float, default=float('inf'), help='start no run after so long, min')
    add('--time', action='store_true', help='also take seconds: serial, main methods in turns')
    add('--time-seeds', type=int, default=3, help='seeds that seconds are taken of')
    add('--search', action='store_true', help='settings are searched here: pictures of no report')
    bench.set_defaults(run=_bench_table)


def _bench_growth(arguments: argparse.Namespace) -> int:
    from etuner_ros.bench.growth import measure, table
    from etuner_ros.core.files import recorded_stream

    found = measure(arguments.output, arguments.stream or recorded_stream())
    answer(arguments.json, table(found), found)
    return 0


def _bench_cameras(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from etuner_ros.bench.cameras import measure, table
    from etuner_ros.core.files import recorded_stream

    stream = arguments.stream or recorded_stream()
    rows = measure(
        arguments.output, stream, arguments.cameras, arguments.separate, arguments.seconds
    )
    answer(arguments.json, table(rows), [asdict(row) for row in rows])
    return 0


def _bench_objects(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from etuner_ros.bench.objects import measure, table
    from etuner_ros.core.files import recorded_stream

    stream = recorded_stream()
    rows = measure(
        arguments.output,
        stream,
        arguments.recording or stream.with_name('stream_things'),
        arguments.precision,
        arguments.most,
        arguments.seconds,
        lambda line: print(line, file=sys.stderr, flush=True),
    )
    answer(arguments.json, table(rows), [asdict(row) for row in rows])
    return 0


def _bench_composed(arguments: argparse.Namespace) -> int:
    from etuner_ros.bench.composed import measure, table
    from etuner_ros.core.files import recorded_stream

    found = measure(
        arguments.stream or recorded_stream(),
        arguments.output,
        arguments.frames,
        arguments.repetitions,
        lambda line: print(line, file=sys.stderr, flush=True),
    )
    answer(arguments.json, table(found), found)
    return 0


def _bench_boxes(arguments: argparse.Namespace) -> int:
    from functools import partial

    from etuner_ros.bench.boxes import measure, table
    from etuner_ros.core.boxes.proposer import make_proposer
    from etuner_ros.core.files import home, recorded_stream

    config = recorded_stream().parent
    made = [make_proposer(kind, config / 'proposer' / 'own.onnx') for kind in arguments.proposer]
    found = measure(
        arguments.stream or config / 'stream_things',
        {p.name: partial(p.propose, most=arguments.most) for p in made},
        arguments.output,
        arguments.features or home('features'),
        arguments.seeds,
        arguments.labelled,
        arguments.every,
        dict(name.split('=', 1) for name in arguments.own_name),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    answer(arguments.json, table(found), found)
    return 0


def _bench_traffic(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from etuner_ros.bench.traffic import measure, table

    found = measure(arguments.output, arguments.heads, arguments.backbones)
    answer(arguments.json, table(found), asdict(found))
    return 0


def _bench_deflate(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from etuner_ros.bench.deflating import measure, table
    from etuner_ros.core.files import recorded_stream

    found = measure(arguments.output, arguments.stream or recorded_stream(), arguments.rounds)
    answer(arguments.json, table(found), asdict(found))
    return 0


def _bench_radio(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from etuner_ros.bench.radio import measure, table
    from etuner_ros.core.files import recorded_stream

    stream = arguments.stream or recorded_stream()
    limits = [float(limit) for limit in arguments.limits]
    found = measure(arguments.output, stream, arguments.mbit_s, limits, arguments.rounds)
    answer(arguments.json, table(found), [asdict(run) for run in found])
    return 0


def _bench_serving(arguments: argparse.Namespace) -> int:
    from etuner_ros.bench.serving import serve, table
    from etuner_ros.core.files import recorded_stream

    stream = arguments.stream or recorded_stream()
    found = serve(
        stream, arguments.output, arguments.frames, arguments.repetitions, arguments.swaps
    )
    answer(arguments.json, table(found), found)
    return 0


def _bench_engines(arguments: argparse.Namespace) -> int:
    from etuner_ros.bench.engines import measure, table
    from etuner_ros.core.files import recorded_stream

    stream = arguments.stream or recorded_stream()
    found = measure(stream, arguments.grocery, arguments.output, arguments.pixels, arguments.turns)
    answer(arguments.json, table(found), found)
    return 0


def _bench_switching(arguments: argparse.Namespace) -> int:
    from etuner_ros.bench.switching import bench
    from etuner_ros.bench.switching_report import table
    from etuner_ros.core.files import recorded_stream

    found = bench(
        arguments.table,
        arguments.network,
        arguments.stream or recorded_stream(),
        arguments.output,
        arguments.seeds,
        arguments.learner_steps,
        arguments.learners,
    )
    answer(arguments.json, table(found), found)
    return 0


def _soak(arguments: argparse.Namespace) -> int:
    from dataclasses import fields
    import tempfile

    from etuner_ros.bench.soak.phases import chosen
    from etuner_ros.bench.soak.report import summary
    from etuner_ros.bench.soak.run import soak
    from etuner_ros.bench.soak.stage import Plan
    from etuner_ros.core.files import recorded_stream

    names = chosen(arguments.only)
    given = {f.name: getattr(arguments, f.name) for f in fields(Plan)}
    plan = Plan(**{name: value for name, value in given.items() if value is not None})
    stream = arguments.stream or recorded_stream()
    with tempfile.TemporaryDirectory() as folder:
        report = soak(stream, arguments.output, Path(folder), plan, names)
    answer(arguments.json, summary(report), report.as_dict())
    return int(bool(report.broken))


def _doctor(arguments: argparse.Namespace) -> int:
    import json
    import os

    from etuner_ros.cli import doctor
    from etuner_ros.shared.shared_memory import clean

    removed = clean(os.getuid()) if arguments.clean else []
    found = doctor.examine(arguments.image_topic, not arguments.offline)
    if arguments.json:
        rows = [vars(f) for f in found]
        print(json.dumps({'findings': rows, 'removed': [str(p) for p in removed]}, indent=1))
    else:
        marks = {doctor.OK: '✔', doctor.WARNING: '!', doctor.ERROR: '✘', doctor.SKIPPED: '-'}
        if arguments.clean:
            print(f'{len(removed)} segments of shared memory removed')
        for finding in found:
            print(f'{marks[finding.state]} {finding.check}: {finding.text}')
            if finding.advice:
                print(f'    {finding.advice}')
    return int(any(f.state == doctor.ERROR for f in found))


def _label_store(arguments: argparse.Namespace) -> LabelStore:
    """Open the label store that the arguments name, or the only one there is."""
    from etuner_ros.core.errors import StoreError
    from etuner_ros.core.files import home
    from etuner_ros.core.labels.store import LabelStore

    path = arguments.store
    if path is None:
        found = sorted(home('labels').glob('*.db'))
        if len(found) != 1:
            names = ', '.join(map(str, found)) or f'none in {home("labels")}'
            raise StoreError(f'name the label store with --store; found: {names}')
        path = found[0]
    if arguments.action != 'import' and not path.exists():
        raise StoreError(f'there is no label store {path}')
    return LabelStore(path, set_aside=False)


def _labels(arguments: argparse.Namespace) -> int:
    import time

    from etuner_ros.core.labels.files import export, import_, LONGEST_LABEL
    from etuner_ros.core.labels.renaming import rename, RenameCode

    store = _label_store(arguments)
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
            count = export(
                store,
                arguments.folder,
                arguments.format,
                lambda samples: shown(samples, 'writing pictures', store.count()),
            )
            text = f'{count} labelled pictures in {arguments.folder}'
            answer(arguments.json, text, {'pictures': count, 'folder': arguments.folder})
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


def _models(arguments: argparse.Namespace) -> int:
    from etuner_ros.cli.remote import models

    return models(arguments)


def _watch(arguments: argparse.Namespace) -> int:
    from etuner_ros.cli.remote import watch

    return watch(arguments.namespace, arguments.json, arguments.count)


def _healthy(arguments: argparse.Namespace) -> int:
    from etuner_ros.cli.healthy import healthy

    return healthy(arguments.namespace, arguments.node, arguments.timeout_s, arguments.json)


def _bench_labels(arguments: argparse.Namespace) -> int:
    from etuner_ros.bench.datasets import grocery, recording
    from etuner_ros.bench.label_savings import measure, table
    from etuner_ros.core.files import recorded_stream

    streams = {'recording': (recording(arguments.stream or recorded_stream()), 'NI')}
    if arguments.grocery:
        for kind in ('NC', 'NIC'):
            pictures = grocery(arguments.grocery, reported=not arguments.search)
            streams[f'grocery {kind}'] = (pictures, kind)
    all_found = {}
    for name, (pictures, kind) in streams.items():
        all_found[name] = measure(pictures, kind, arguments.seeds)
        if not arguments.json:
            print(table(name, all_found[name]), flush=True)
    if arguments.json:
        answer(True, '', all_found)
    return 0


def _bench_choose(arguments: argparse.Namespace) -> int:
    from etuner_ros.bench.choose import run
    from etuner_ros.bench.choose_cases import data_sets
    from etuner_ros.bench.choose_score import table
    from etuner_ros.core.choose.candidates import candidates, PIXELS, PRECISIONS
    from etuner_ros.core.files import recorded_stream

    found = run(
        data_sets(arguments.stream or recorded_stream(), arguments.grocery),
        candidates(
            arguments.network, arguments.pixels or PIXELS, arguments.precision or PRECISIONS
        ),
        arguments.output,
        arguments.seeds,
        arguments.features,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    answer(arguments.json, table(found), found)
    return 0


def _bench_table(arguments: argparse.Namespace) -> int:
    from etuner_ros.bench.run import run_table

    return run_table(arguments)


def _add_everyday(commands: Any) -> None:
    """Add what people who run a robot use."""
    doctor = commands.add_parser('doctor', help='find what usually goes wrong; 1 = something is')
    doctor.add_argument('--image-topic', default='image_raw', help="the camera's topic")
    doctor.add_argument('--offline', action='store_true', help='leave the running graph out')
    doctor.add_argument(
        '--clean',
        action='store_true',
        help='remove what DDS left in shared memory: files of this user that no process maps',
    )
    doctor.set_defaults(run=_doctor)

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
    labels.set_defaults(run=_labels)

    models = commands.add_parser('models', help='list, swap, pin or export versions of weights')
    steps = models.add_subparsers(required=True, dest='action', metavar='ACTION')
    steps.add_parser('list', help='the stored versions')
    steps.add_parser('roll-back', help='make the parent of the live version live')
    for name, text in (
        ('swap', 'make a version live'),
        ('pin', 'keep a version for ever'),
        ('unpin', 'keep a version no longer than others'),
    ):
        steps.add_parser(name, help=text).add_argument('version', type=int)
    write = steps.add_parser('export', help='write a version for other programs')
    write.add_argument('version', type=int)
    write.add_argument('path', type=Path)
    write.add_argument('--format', default='torch', choices=('torch', 'onnx'))
    write.add_argument('--folder', type=Path, help='store; default: that of the running robot')
    for name, text in (('freeze', 'freeze layers'), ('thaw', 'thaw layers')):
        layers = steps.add_parser(name, help=text)
        layers.add_argument('names', nargs='+', help='names or patterns such as block1*')
        layers.add_argument('--pin', action='store_true', help='SimFreeze may not change them')
    for step in steps.choices.values():
        step.add_argument('--node', default='/model_manager', help='name of the node')
    models.set_defaults(run=_models)

    fetch = commands.add_parser(
        'fetch-proposer', help='fetch the SSD that says where things may be (npm, 32 MB)'
    )
    fetch.set_defaults(run=_fetch_proposer)

    watch = commands.add_parser('watch', help='a live view of a running robot')
    watch.add_argument('--namespace', default='', help='namespace of the robot')
    watch.add_argument('--count', type=int, default=0, help='stop after so many seconds')
    watch.set_defaults(run=_watch)

    healthy = commands.add_parser(
        'healthy', help='is inference alive, for programs that start it anew; 1 = it is not'
    )
    healthy.add_argument('--namespace', default='', help='namespace of the robot')
    healthy.add_argument('--node', default='inference', help='name of the node')
    healthy.add_argument('--timeout-s', type=float, default=10.0, help='wait so long, in s')
    healthy.set_defaults(run=_healthy)

    soak = commands.add_parser(
        'soak',
        help='swap weights, kill nodes, fill the disk, cut the power; 1 = a loss',
    )
    soak.add_argument('--output', type=Path, default=Path('results'), help='folder to write to')
    soak.add_argument('--stream', type=Path, help='labelled pictures')
    soak.add_argument(
        '--only', default='', help='phases, separated by commas; faults = those without kills'
    )
    # Without a value: as the phases have it (etuner_ros/bench/soak/stage.py, Plan).
    soak.add_argument('--swaps', type=int, help='swaps under a 30 Hz camera; 1000')
    soak.add_argument('--kills', type=int, help='at least so many; 200')
    soak.add_argument('--damaged', type=int, help='damaged files, at least so many; 28')
    soak.add_argument('--kill-minutes', type=float, help='at least so long; 9')
    soak.add_argument('--cuts', type=int, help='power cuts; 50')
    soak.add_argument('--calm-minutes', type=float, help='for the memory to be level, at most; 15')
    soak.add_argument('--radio-s', type=float, help='without radio; 60')
    soak.add_argument('--waiting-labels', type=int, help='while there is no radio; 200')
    soak.add_argument('--fault-s', type=float, help='that each other fault lasts; 15')
    soak.add_argument('--seed', type=int, help='of what is killed when; 0')
    soak.set_defaults(run=_soak)


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    whole = argparse.ArgumentParser(
        prog='etuner', description='Perception that keeps learning on the robot.'
    )
    whole.add_argument('--version', action='version', version=f'etuner_ros {__version__}')
    commands = whole.add_subparsers(required=True, metavar='COMMAND')

    demo = commands.add_parser(
        'demo', help='play the recorded stream and watch the robot learn from corrections'
    )
    demo.add_argument(
        '--output',
        type=Path,
        default=Path('demo_output'),
        help='folder for the page, the logs and the stores; emptied first',
    )
    demo.add_argument(
        '--seed', type=int, default=0, help="seed of the operator's choices and of the training"
    )
    demo.add_argument(
        '--seeds',
        type=int,
        nargs='+',
        help='several runs, one after the other, and a table over all',
    )
    demo.add_argument('--rate', type=float, default=0.0, help='pictures per second; 0 = 7, or 10')
    demo.add_argument(
        '--things', action='store_true', help='things in boxes, taught one by one by pointing'
    )
    demo.add_argument(
        '--gap-s', type=float, default=1.0, help='between two taps, with --things, in s'
    )
    demo.add_argument(
        '--stream',
        type=Path,
        help='another recording with ground truth; default: the one that comes with the package',
    )
    demo.set_defaults(run=_demo)

    deploy = commands.add_parser(
        'deploy',
        help='make base weights: a pretrained network with a head fitted to labelled images',
    )
    deploy.add_argument(
        '--source',
        required=True,
        help='folder <split>/<class>/*.jpg, or a recording with ground truth',
    )
    deploy.add_argument(
        '--output', type=Path, default=Path('base.safetensors'), help='file to write'
    )
    deploy.add_argument(
        '--architecture',
        default='efficientnet_lite0',
        help="efficientnet_lite0 or a torchvision classification model's name",
    )
    deploy.add_argument(
        '--input-size', type=int, default=INPUT_SIZE, help='side of the square input, in px'
    )
    deploy.add_argument(
        '--weights',
        default='',
        help='state-dict file of the architecture instead of its pretrained weights',
    )
    deploy.add_argument(
        '--count', type=int, default=0, help='use the first so many images only; 0 = all'
    )
    deploy.add_argument(
        '--exemplars',
        type=int,
        default=10,
        help='images per class that travel with the weights for replay',
    )
    deploy.set_defaults(run=_deploy)

    choose.add(commands)
    replay.add(commands)
    _add_everyday(commands)
    _add_benches(commands)
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


def _add_benches(commands: Any) -> None:
    """Add what measures."""
    bench = commands.add_parser(
        'bench',
        help='compare with every rival on streams of pictures; or measure single parts',
    )
    _add_table(bench)
    benches = bench.add_subparsers(metavar='PART')
    costs = benches.add_parser(
        'costs', help='what probes, cache and instant head cost, side by side on one thread'
    )
    costs.add_argument(
        '--stream',
        type=Path,
        help='recording or folder of labelled pictures; default: the recording of the package',
    )
    costs.add_argument(
        '--architecture',
        default='efficientnet_lite0',
        help="efficientnet_lite0 or a torchvision classification model's name",
    )
    costs.add_argument(
        '--input-size', type=int, default=INPUT_SIZE, help='side of the square input, in px'
    )
    costs.add_argument('--turns', type=int, default=15, help='turns that the median is taken of')
    costs.set_defaults(run=_bench_costs)

    scenarios = benches.add_parser(
        'scenarios', help='how soon changes of scenario are found, and how often there is none'
    )
    scenarios.add_argument(
        '--stream',
        type=Path,
        help='recording, or folder <scenario>/<kind>/*.jpg; default: the recording of the package',
    )
    scenarios.add_argument(
        '--input-size', type=int, default=INPUT_SIZE, help='side of the square input, in px'
    )
    scenarios.add_argument('--seeds', type=int, default=5, help='orders of the frames')
    scenarios.set_defaults(run=_bench_scenarios)

    savings = benches.add_parser(
        'labels', help='how many labels a good choice of frames saves, beside random ones'
    )
    savings.add_argument('--stream', type=Path, help='recording with ground truth')
    savings.add_argument('--grocery', type=Path, help='tar file of the grocery photographs')
    savings.add_argument('--search', action='store_true', help='kinds that are in no report')
    savings.add_argument('--seeds', type=int, default=5, help='orders of the frames')
    savings.set_defaults(run=_bench_labels)

    chosen = benches.add_parser(
        'choose', help='is what `etuner choose` takes close to the best in hindsight'
    )
    chosen.add_argument('--stream', type=Path, help='recording with ground truth')
    chosen.add_argument('--grocery', type=Path, help='tar file of the grocery photographs')
    chosen.add_argument('--output', type=Path, default=Path('results'), help='folder to write to')
    chosen.add_argument('--seeds', type=int, default=5, help='orders of each stream')
    chosen.add_argument('--network', action='append', default=[], metavar='NAME[=FILE]')
    chosen.add_argument('--pixels', type=int, nargs='+', help='sides of the input')
    chosen.add_argument('--precision', nargs='+', help='fp32, int8')
    chosen.add_argument(
        '--features', type=Path, help='folder where features are kept; default: below $ROS_HOME'
    )
    chosen.set_defaults(run=_bench_choose)

    proposals = benches.add_parser(
        'proposals', help='how many things are among the first boxes of each proposer'
    )
    proposals.add_argument(
        '--recording', type=Path, help='with region_truth; default: the one of the package'
    )
    proposals.add_argument('--every', type=int, default=1, help='take one frame of so many')
    proposals.set_defaults(run=_bench_proposals)

    growth = benches.add_parser(
        'growth', help='how cost grows with images, classes, depth, camera rate and cameras'
    )
    growth.add_argument('--stream', type=Path, help='labelled pictures for the cameras')
    growth.add_argument('--output', type=Path, default=Path('results'), help='folder to write to')
    growth.set_defaults(run=_bench_growth)
    cameras = benches.add_parser(
        'cameras', help='rate, latency and memory of several cameras, by one inference and by many'
    )
    cameras.add_argument('--cameras', type=int, nargs='*', default=[1, 2, 4, 6], help='by one')
    cameras.add_argument('--separate', type=int, nargs='*', default=[2], help='all nodes for each')
    cameras.add_argument('--seconds', type=float, default=30.0, help='that each is measured')
    cameras.add_argument('--stream', type=Path, help='labelled pictures for the cameras')
    cameras.add_argument('--output', type=Path, default=Path('results'), help='folder to write to')
    cameras.set_defaults(run=_bench_cameras)
    objects = benches.add_parser(
        'objects', help='milliseconds from camera to objects, and where they go'
    )
    objects.add_argument(
        '--recording', type=Path, help='with region_truth; default: the one of the package'
    )
    objects.add_argument(
        '--precision', nargs='+', default=['fp32', 'int8'], choices=['fp32', 'int8']
    )
    objects.add_argument(
        '--most', type=int, nargs='+', default=[10, 20], help='regions of an image'
    )
    objects.add_argument('--seconds', type=float, default=30.0, help='that each is measured')
    objects.add_argument('--output', type=Path, default=Path('results'), help='folder to write to')
    objects.set_defaults(run=_bench_objects)
    boxes = benches.add_parser(
        'boxes', help='what labels of boxes teach, beside those of images and other rivals'
    )
    boxes.add_argument('--stream', type=Path, help='recording that knows where things are')
    boxes.add_argument('--every', type=int, default=1, help='take one frame of so many')
    boxes.add_argument(
        '--proposer', nargs='+', default=['ssd'], help='all methods run on the first one'
    )
    boxes.add_argument('--output', type=Path, default=Path('results'), help='folder to write to')
    boxes.add_argument('--seeds', type=int, default=5, help='choices of labelled frames')
    boxes.add_argument(
        '--labelled', type=int, nargs='+', default=[30, 60, 120, 240], help='numbers of frames'
    )
    boxes.add_argument('--most', type=int, default=20, help='proposals of a frame')
    boxes.add_argument(
        '--own-name',
        action='append',
        default=[],
        metavar='ITS=OURS',
        help="a kind of the stream that the proposer has another name for, such as 'Mug=mug'",
    )
    boxes.add_argument(
        '--features', type=Path, help='folder where features are kept; default: below $ROS_HOME'
    )
    boxes.set_defaults(run=_bench_boxes)
    traffic = benches.add_parser(
        'traffic', help='bytes on the disk and on the topics, of new heads and of new backbones'
    )
    traffic.add_argument('--heads', type=int, default=71, help='new heads')
    traffic.add_argument('--backbones', type=int, default=20, help='new backbones')
    traffic.add_argument('--output', type=Path, default=Path('results'), help='folder to write to')
    traffic.set_defaults(run=_bench_traffic)

    deflate = benches.add_parser(
        'deflate', help='how much smaller the weights of rounds become on their way'
    )
    deflate.add_argument('--stream', type=Path, help='recording with ground truth')
    deflate.add_argument('--rounds', type=int, default=3, help='rounds whose weights are packed')
    deflate.add_argument('--output', type=Path, default=Path('results'), help='folder to write to')
    deflate.set_defaults(run=_bench_deflate)
    radio = benches.add_parser(
        'radio', help='a tuner at the other end of a slow radio: weights, labels and delays; root'
    )
    radio.add_argument('--stream', type=Path, help='labelled pictures for the camera')
    radio.add_argument('--mbit-s', type=float, default=20.0, help='rate of the radio')
    radio.add_argument(
        '--limits', type=float, nargs='+', default=[0.0, 10.0], help='transfer_mbit_s to compare'
    )
    radio.add_argument('--rounds', type=int, default=4, help='rounds to wait for')
    radio.add_argument('--output', type=Path, default=Path('results'), help='folder to write to')
    radio.set_defaults(run=_bench_radio)
    composed = benches.add_parser(
        'composed', help='memory and latency of the nodes in one process, beside one each'
    )
    composed.add_argument('--stream', type=Path, help='labelled pictures to publish')
    composed.add_argument(
        '--output', type=Path, default=Path('results'), help='folder to write to'
    )
    composed.add_argument('--frames', type=int, default=1800, help='of each turn')
    composed.add_argument('--repetitions', type=int, default=3, help='turns of both')
    composed.set_defaults(run=_bench_composed)

    engines = benches.add_parser(
        'engines', help='torch and onnxruntime side by side: milliseconds, and accuracy of int8'
    )
    engines.add_argument('--stream', type=Path, help='recording with ground truth')
    engines.add_argument('--grocery', type=Path, help='tar file of the grocery photographs')
    engines.add_argument('--output', type=Path, default=Path('results'), help='folder to write to')
    engines.add_argument('--pixels', type=int, nargs='+', default=[128, 224], help='input sizes')
    engines.add_argument('--turns', type=int, default=10, help='turns of all engines')
    engines.set_defaults(run=_bench_engines)

    serving = benches.add_parser(
        'serving', help='latency of predictions while the robot idles, tunes and swaps'
    )
    serving.add_argument('--stream', type=Path, help='labelled pictures to publish and to tune on')
    serving.add_argument('--output', type=Path, default=Path('results'), help='folder to write to')
    serving.add_argument(
        '--frames', type=int, default=3000, help='of each mode, over all repetitions'
    )
    serving.add_argument('--repetitions', type=int, default=3, help='turns of all modes')
    serving.add_argument(
        '--swaps',
        type=int,
        default=1000,
        help='of each engine, under the camera; 0 leaves them out',
    )
    serving.set_defaults(run=_bench_serving)

    switching = benches.add_parser(
        'switching',
        help='the choice of variants on made days, beside fixed ones and a learned one',
    )
    switching.add_argument(
        '--table',
        type=Path,
        help='measured variants (JSON); default: measure them here, on --stream',
    )
    switching.add_argument('--network', default='', help='of a table of several networks')
    switching.add_argument('--stream', type=Path, help='recording to measure accuracy on')
    switching.add_argument(
        '--output', type=Path, default=Path('results'), help='folder to write to'
    )
    switching.add_argument(
        '--seeds', type=int, nargs='+', default=[0, 1], help='ten days of each are played'
    )
    switching.add_argument(
        '--learner-steps',
        type=int,
        default=200000,
        help='decisions that A2C learns from; 0 = leave it out',
    )
    switching.add_argument('--learners', type=int, default=2, help='of which the best one counts')
    switching.set_defaults(run=_bench_switching)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parsed = parser().parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except EtunerError as error:
        print(f'etuner: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == '__main__':
    sys.exit(main())
