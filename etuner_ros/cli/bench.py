# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`etuner bench` and `etuner soak`: what measures."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
from typing import Any

from etuner_ros.cli.numbers import positive, whole
from etuner_ros.core.config import INPUT_SIZE
from etuner_ros.shared.answers import answer

OUTPUT = Path('bench_output')  # not results, which in a checkout holds what is published


def add(commands: Any) -> None:
    """Add the commands."""
    bench = commands.add_parser(
        'bench',
        help='compare with every rival on streams of pictures; or measure single parts',
    )
    add_table(bench)
    benches = bench.add_subparsers(metavar='PART')
    for part in PARTS:
        part(benches)
    _add_soak(commands)


def _pair(text: str) -> tuple[str, str]:
    """Return two names."""
    its, _, ours = text.partition('=')
    if not its or not ours:
        raise argparse.ArgumentTypeError(f"two names, such as 'Mug=mug', got '{text}'")
    return its, ours


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _write_to(part: argparse.ArgumentParser) -> None:
    part.add_argument('--output', type=Path, default=OUTPUT, help='folder to write to')


def _keep_features(part: argparse.ArgumentParser) -> None:
    text = 'folder where features are kept; default: below $ROS_HOME'
    part.add_argument('--features', type=Path, help=text)


def add_table(bench: argparse.ArgumentParser) -> None:
    """Add the options of the table."""
    add = bench.add_argument
    add('--output', type=Path, default=OUTPUT, help='folder of the runs and the report')
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
    add(
        '--seeds',
        type=whole(1),
        default=5,
        help='of which pictures are deployed and labelled when, order of places on return, groups '
        'of kinds (NC, NIC), arrivals and initialisation; never of which pictures are for labels '
        'and which for requests; of a video, of which frames are labelled',
    )
    add('--main-seeds', type=whole(1), default=10, help='seeds of the main methods, if more')
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
    add('--batches', type=whole(1), help='labelled batches of a visit at most')
    add('--requests', type=whole(1), help='requests of a visit at most')
    add('--arrivals', default='poisson', help='poisson, uniform, normal, or a file of times')
    add('--load', type=positive, default=0.5, help='share of the stream that `immediate` is busy')
    add('--processes', type=int, default=0, help='runs at a time; 0 = one for each core')
    add('--budget-min', type=float, default=float('inf'), help='start no run after so long, min')
    add('--time', action='store_true', help='also take seconds: serial, main methods in turns')
    add('--time-seeds', type=int, default=3, help='seeds that seconds are taken of')
    add('--search', action='store_true', help='settings are searched here: pictures of no report')
    bench.set_defaults(run=_table)


def _table(arguments: argparse.Namespace) -> int:
    from etuner_ros.bench.run import run_table

    return run_table(arguments)


def _add_costs(benches: Any) -> None:
    costs = benches.add_parser(
        'costs', help='what probes, cache and instant head cost, side by side on one thread'
    )
    costs.add_argument(
        '--stream',
        type=Path,
        help='recording or folder of labelled pictures, 216 at least; default: the recording of '
        'the package',
    )
    costs.add_argument(
        '--architecture',
        default='efficientnet_lite0',
        help="efficientnet_lite0 or a torchvision classification model's name",
    )
    costs.add_argument(
        '--input-size', type=int, default=INPUT_SIZE, help='side of the square input, in px'
    )
    costs.add_argument(
        '--turns', type=whole(1), default=15, help='turns that the median is taken of'
    )
    costs.set_defaults(run=_costs)


def _costs(arguments: argparse.Namespace) -> int:
    from etuner_ros.bench.costs import measure, table
    from etuner_ros.core.files import recorded_stream

    stream = arguments.stream or recorded_stream()
    found = measure(stream, arguments.architecture, arguments.input_size, arguments.turns)
    answer(arguments.json, table(found), found)
    return 0


def _add_scenarios(benches: Any) -> None:
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
    scenarios.add_argument('--seeds', type=whole(1), default=5, help='orders of the frames')
    scenarios.set_defaults(run=_scenarios)


def _scenarios(arguments: argparse.Namespace) -> int:
    from etuner_ros.bench.scenarios import HEADER, measure
    from etuner_ros.core.files import recorded_stream

    found = measure(arguments.stream or recorded_stream(), arguments.input_size, arguments.seeds)
    answer(arguments.json, '\n'.join(map(str, [HEADER, *found])), found)
    return 0


def _add_labels(benches: Any) -> None:
    savings = benches.add_parser(
        'labels', help='how many labels a good choice of frames saves, beside random ones'
    )
    savings.add_argument('--stream', type=Path, help='recording with ground truth')
    savings.add_argument('--grocery', type=Path, help='tar file of the grocery photographs')
    savings.add_argument('--search', action='store_true', help='kinds that are in no report')
    savings.add_argument('--seeds', type=whole(1), default=5, help='orders of the frames')
    savings.set_defaults(run=_labels)


def _labels(arguments: argparse.Namespace) -> int:
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


def _add_choose(benches: Any) -> None:
    chosen = benches.add_parser(
        'choose', help='is what `etuner choose` takes close to the best in hindsight'
    )
    chosen.add_argument('--stream', type=Path, help='recording with ground truth')
    chosen.add_argument('--grocery', type=Path, help='tar file of the grocery photographs')
    _write_to(chosen)
    chosen.add_argument('--seeds', type=whole(1), default=5, help='orders of each stream')
    chosen.add_argument('--network', action='append', default=[], metavar='NAME[=FILE]')
    chosen.add_argument('--pixels', type=int, nargs='+', help='sides of the input')
    chosen.add_argument('--precision', nargs='+', help='fp32, int8')
    _keep_features(chosen)
    chosen.set_defaults(run=_choose)


def _choose(arguments: argparse.Namespace) -> int:
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
        say=_say,
    )
    answer(arguments.json, table(found), found)
    return 0


def _add_proposals(benches: Any) -> None:
    proposals = benches.add_parser(
        'proposals', help='how many things are among the first boxes of each proposer'
    )
    proposals.add_argument(
        '--recording', type=Path, help='with region_truth; default: the one of the package'
    )
    proposals.add_argument('--every', type=whole(1), default=1, help='take one frame of so many')
    proposals.set_defaults(run=_proposals)


def _proposals(arguments: argparse.Namespace) -> int:
    from etuner_ros.bench.proposals import measure, table
    from etuner_ros.core.files import own_proposer, recorded_stream

    recording = arguments.recording or recorded_stream().with_name('stream_things')
    found = measure(recording, own_proposer(), arguments.every)
    answer(arguments.json, table(found), found)
    return 0


def _add_growth(benches: Any) -> None:
    growth = benches.add_parser(
        'growth', help='how cost grows with images, classes, depth, camera rate and cameras'
    )
    growth.add_argument('--stream', type=Path, help='labelled pictures for the cameras')
    _write_to(growth)
    growth.set_defaults(run=_growth)


def _growth(arguments: argparse.Namespace) -> int:
    from etuner_ros.bench.growth import measure, table
    from etuner_ros.core.files import recorded_stream

    found = measure(arguments.output, arguments.stream or recorded_stream())
    answer(arguments.json, table(found), found)
    return 0


def _add_cameras(benches: Any) -> None:
    cameras = benches.add_parser(
        'cameras', help='rate, latency and memory of several cameras, by one inference and by many'
    )
    cameras.add_argument('--cameras', type=int, nargs='*', default=[1, 2, 4, 6], help='by one')
    cameras.add_argument('--separate', type=int, nargs='*', default=[2], help='all nodes for each')
    cameras.add_argument('--seconds', type=float, default=30.0, help='that each is measured')
    cameras.add_argument('--stream', type=Path, help='labelled pictures for the cameras')
    _write_to(cameras)
    cameras.set_defaults(run=_cameras)


def _cameras(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from etuner_ros.bench.cameras import measure, table
    from etuner_ros.core.files import recorded_stream

    stream = arguments.stream or recorded_stream()
    rows = measure(
        arguments.output, stream, arguments.cameras, arguments.separate, arguments.seconds
    )
    answer(arguments.json, table(rows), [asdict(row) for row in rows])
    return 0


def _add_objects(benches: Any) -> None:
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
    _write_to(objects)
    objects.set_defaults(run=_objects)


def _objects(arguments: argparse.Namespace) -> int:
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
        _say,
    )
    answer(arguments.json, table(rows), [asdict(row) for row in rows])
    return 0


def _add_boxes(benches: Any) -> None:
    boxes = benches.add_parser(
        'boxes', help='what labels of boxes teach, beside those of images and other rivals'
    )
    boxes.add_argument('--stream', type=Path, help='recording that knows where things are')
    boxes.add_argument('--every', type=whole(1), default=1, help='take one frame of so many')
    boxes.add_argument(
        '--proposer', nargs='+', default=['ssd'], help='all methods run on the first one'
    )
    _write_to(boxes)
    boxes.add_argument('--seeds', type=whole(1), default=5, help='choices of labelled frames')
    boxes.add_argument(
        '--labelled', type=int, nargs='+', default=[30, 60, 120, 240], help='numbers of frames'
    )
    boxes.add_argument('--most', type=int, default=20, help='proposals of a frame')
    boxes.add_argument(
        '--own-name',
        type=_pair,
        action='append',
        default=[],
        metavar='ITS=OURS',
        help="a kind of the stream that the proposer has another name for, such as 'Mug=mug'",
    )
    _keep_features(boxes)
    boxes.set_defaults(run=_boxes)


def _boxes(arguments: argparse.Namespace) -> int:
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
        dict(arguments.own_name),
        say=_say,
    )
    answer(arguments.json, table(found), found)
    return 0


def _add_traffic(benches: Any) -> None:
    traffic = benches.add_parser(
        'traffic', help='bytes on the disk and on the topics, of new heads and of new backbones'
    )
    traffic.add_argument('--heads', type=int, default=71, help='new heads')
    traffic.add_argument('--backbones', type=int, default=20, help='new backbones')
    _write_to(traffic)
    traffic.set_defaults(run=_traffic)


def _traffic(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from etuner_ros.bench.traffic import measure, table

    found = measure(arguments.output, arguments.heads, arguments.backbones)
    answer(arguments.json, table(found), asdict(found))
    return 0


def _add_deflate(benches: Any) -> None:
    deflate = benches.add_parser(
        'deflate', help='how much smaller the weights of rounds become on their way'
    )
    deflate.add_argument('--stream', type=Path, help='recording with ground truth')
    deflate.add_argument(
        '--rounds', type=whole(1), default=3, help='rounds whose weights are packed'
    )
    _write_to(deflate)
    deflate.set_defaults(run=_deflate)


def _deflate(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from etuner_ros.bench.deflating import measure, table
    from etuner_ros.core.files import recorded_stream

    found = measure(arguments.output, arguments.stream or recorded_stream(), arguments.rounds)
    answer(arguments.json, table(found), asdict(found))
    return 0


def _add_radio(benches: Any) -> None:
    radio = benches.add_parser(
        'radio', help='a tuner at the other end of a slow radio: weights, labels and delays; root'
    )
    radio.add_argument('--stream', type=Path, help='labelled pictures for the camera')
    radio.add_argument('--mbit-s', type=float, default=20.0, help='rate of the radio')
    radio.add_argument(
        '--limits', type=float, nargs='+', default=[0.0, 10.0], help='transfer_mbit_s to compare'
    )
    radio.add_argument('--rounds', type=int, default=4, help='rounds to wait for')
    _write_to(radio)
    radio.set_defaults(run=_radio)


def _radio(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from etuner_ros.bench.radio import measure, table
    from etuner_ros.core.files import recorded_stream

    stream = arguments.stream or recorded_stream()
    limits = [float(limit) for limit in arguments.limits]
    found = measure(arguments.output, stream, arguments.mbit_s, limits, arguments.rounds)
    answer(arguments.json, table(found), [asdict(run) for run in found])
    return 0


def _add_composed(benches: Any) -> None:
    composed = benches.add_parser(
        'composed', help='memory and latency of the nodes in one process, beside one each'
    )
    composed.add_argument('--stream', type=Path, help='labelled pictures to publish')
    _write_to(composed)
    composed.add_argument('--frames', type=int, default=1800, help='of each turn')
    composed.add_argument('--repetitions', type=int, default=3, help='turns of both')
    composed.set_defaults(run=_composed)


def _composed(arguments: argparse.Namespace) -> int:
    from etuner_ros.bench.composed import measure, table
    from etuner_ros.core.files import recorded_stream

    found = measure(
        arguments.stream or recorded_stream(),
        arguments.output,
        arguments.frames,
        arguments.repetitions,
        _say,
    )
    answer(arguments.json, table(found), found)
    return 0


def _add_engines(benches: Any) -> None:
    engines = benches.add_parser(
        'engines', help='torch and onnxruntime side by side: milliseconds, and accuracy of int8'
    )
    engines.add_argument('--stream', type=Path, help='recording with ground truth')
    engines.add_argument('--grocery', type=Path, help='tar file of the grocery photographs')
    _write_to(engines)
    engines.add_argument('--pixels', type=int, nargs='+', default=[128, 224], help='input sizes')
    engines.add_argument('--turns', type=int, default=10, help='turns of all engines')
    engines.set_defaults(run=_engines)


def _engines(arguments: argparse.Namespace) -> int:
    from etuner_ros.bench.engines import measure, table
    from etuner_ros.core.files import recorded_stream

    stream = arguments.stream or recorded_stream()
    found = measure(stream, arguments.grocery, arguments.output, arguments.pixels, arguments.turns)
    answer(arguments.json, table(found), found)
    return 0


def _add_serving(benches: Any) -> None:
    serving = benches.add_parser(
        'serving', help='latency of predictions while the robot idles, tunes and swaps'
    )
    serving.add_argument('--stream', type=Path, help='labelled pictures to publish and to tune on')
    _write_to(serving)
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
    serving.set_defaults(run=_serving)


def _serving(arguments: argparse.Namespace) -> int:
    from etuner_ros.bench.serving import serve, table
    from etuner_ros.core.files import recorded_stream

    stream = arguments.stream or recorded_stream()
    found = serve(
        stream, arguments.output, arguments.frames, arguments.repetitions, arguments.swaps
    )
    answer(arguments.json, table(found), found)
    return 0


def _add_switching(benches: Any) -> None:
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
    _write_to(switching)
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
    switching.set_defaults(run=_switching)


def _switching(arguments: argparse.Namespace) -> int:
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


def _add_soak(commands: Any) -> None:
    soak = commands.add_parser(
        'soak',
        help='swap weights, kill nodes, fill the disk, cut the power; 1 = a loss',
    )
    _write_to(soak)
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
        report = soak(stream, arguments.output, Path(folder), plan, names, _say)
    answer(arguments.json, summary(report), report.as_dict())
    return int(bool(report.broken))


PARTS = (
    _add_costs,
    _add_scenarios,
    _add_labels,
    _add_choose,
    _add_proposals,
    _add_growth,
    _add_cameras,
    _add_objects,
    _add_boxes,
    _add_traffic,
    _add_deflate,
    _add_radio,
    _add_composed,
    _add_engines,
    _add_serving,
    _add_switching,
)
