# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`etuner replay` learns again from a real recording, and says what it could not use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
import errno
import json
from pathlib import Path
import re
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from etuner_ros.bench.shipped import parameters_file, shipped_recipe
from etuner_ros.cli.main import main
from etuner_ros.core.images.bags import known_types
from etuner_ros.core.images.codec import encode_jpeg
from etuner_ros.core.models.weights import read_base
from etuner_ros.offline.settings import read_settings

STORE = known_types()
Item = tuple[float, str, Any]  # seconds, topic, message


def made(kind: str, **fields: Any) -> Any:
    """Return a message; fields that are not named are zero or empty."""
    values = {
        name: fields[name] if name in fields else empty(node, detail)
        for name, (node, detail) in STORE.fielddefs[kind][1]
    }
    return STORE.types[kind](**values)


def empty(node: Any, detail: Any) -> Any:
    if node.name == 'BASE':
        return {'string': '', 'bool': False}.get(detail[0], 0.0 if 'float' in detail[0] else 0)
    if node.name == 'NAME':
        return made(detail)
    return np.zeros(0, np.uint8) if detail[0][1][0] == 'uint8' else []


def header(number: int) -> Any:
    stamp = made('builtin_interfaces/msg/Time', sec=100 + number)
    return made('std_msgs/msg/Header', stamp=stamp, frame_id='eye')


def compressed(number: int, image: np.ndarray) -> Any:
    data = np.frombuffer(encode_jpeg(image), np.uint8)
    kind = 'sensor_msgs/msg/CompressedImage'
    return made(kind, header=header(number), format='jpeg', data=data)


def raw(number: int, image: np.ndarray) -> Any:
    height, width = image.shape[:2]
    return made(
        'sensor_msgs/msg/Image',
        header=header(number),
        height=height,
        width=width,
        encoding='bgr8',
        step=3 * width,
        data=image[..., ::-1].reshape(-1),
    )


def correction(number: int, label: str, width: float = 0.0) -> Any:
    box = made('etuner_ros/msg/Box', width=width, height=width)
    kind = 'etuner_ros/msg/LabelCorrection'
    return made(kind, header=header(number), label=label, author='ann', box=box)


def record(
    path: Path, items: Sequence[Item], plugin: StoragePlugin = StoragePlugin.SQLITE3
) -> Path:
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        topics: dict[str, Any] = {}
        for seconds, topic, message in sorted(items, key=lambda item: item[0]):
            kind = message.__msgtype__
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, kind, typestore=STORE)
            data = STORE.serialize_cdr(message, kind)
            writer.write(topics[topic], 10**18 + int(seconds * 1e9), data)
    return path


@pytest.fixture
def replayed(deployed: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return what replays a recording: exit code, facts, what is said on standard error."""

    def run(bag: Path, *options: str) -> tuple[int, dict[str, Any], str]:
        code = main(['replay', str(bag), '--weights', str(deployed), '--json', *options])
        said = capsys.readouterr()
        return code, json.loads(said.out or '{}'), said.err

    return run


@pytest.mark.parametrize(
    ('plugin', 'camera', 'topic'),
    [
        (StoragePlugin.SQLITE3, raw, '/image_raw'),
        (StoragePlugin.MCAP, compressed, '/robot/image_raw/compressed'),
    ],
)
def test_what_people_said_is_learned_again(
    tmp_path, frames, deployed, replayed, plugin, camera, topic
):
    items: list[Item] = []
    for number, frame in enumerate(frames[:60]):
        items.append((number, topic, camera(number, frame.image)))
        items.append((number, '/annotated', raw(number, frame.image)))
        items.append((number + 0.5, '/labels', correction(number, frame.label)))
    bag = record(tmp_path / 'bag', items, plugin)
    parameters = tmp_path / 'mine.yaml'
    parameters.write_text(
        'tuner:\n  ros__parameters:\n    lazy_tune: {economy: 0.0, min_batches: 2}\n'
        '    train.max_iterations: 2\n'
    )
    weights, picture = tmp_path / 'learned.safetensors', tmp_path / 'learned.png'
    options = ('--params-file', str(parameters), '--output', str(weights))
    code, found, _ = replayed(bag, *options, '--picture', str(picture))
    assert code == 0
    assert (found['frames'], found['labels'], found['not_taken']) == (60, 60, {})
    labels = {frame.label for frame in frames[:60]}
    assert {kind: count for kind, (count, *_) in found['kinds'].items()}.keys() == labels
    assert set(found['classes']) >= labels, 'kinds that the deployed model did not know are known'
    assert found['right_last_third'] > found['right_first_third']
    assert found['right_last_third'] > found['untuned_right_last_third']
    taught = labels - set(read_base(deployed).spec.classes)
    assert taught
    assert {kind for kind in labels if not found['kinds'][kind][2]} >= taught, 'never untuned'
    assert found['untuned_right_before_label'] > 0, 'the kinds that it was deployed with'
    assert found['heads'] > 0
    assert found['rounds']
    assert all('batches' in r['reason'] and r['verdict'] for r in found['rounds'])
    learned = read_base(weights)
    assert set(learned.spec.classes) == set(found['classes'])
    assert {label for label, _ in learned.exemplars} >= labels
    assert len(learned.state['head.bias']) == len(learned.spec.classes)
    assert picture.read_bytes().startswith(b'\x89PNG')
    # What was learned can be begun with, and knows what it was taught; rounds can be left out.
    with parameters.open('a') as file:
        file.write('    rounds: false\n')
    code, again, _ = replayed(bag, '--weights', str(weights), '--params-file', str(parameters))
    assert not again['rounds']
    assert code == 0
    assert again['right_first_third'] > found['right_first_third']


@pytest.mark.parametrize('camera', [raw, compressed])
def test_where_nothing_is_learned_the_untuned_weights_are_right_as_often(
    tmp_path, frames, replayed, camera
):
    items: list[Item] = []
    for number, frame in enumerate(frames[:40]):
        topic = '/image_raw' if camera is raw else '/image_raw/compressed'
        items.append((number, topic, camera(number, frame.image)))
        items.append((number + 0.5, '/labels', correction(number, frame.label)))
    parameters = tmp_path / 'still.yaml'
    parameters.write_text(
        'tuner:\n  ros__parameters:\n    rounds: false\n    head.enabled: false\n'
    )
    _, found, _ = replayed(record(tmp_path / 'bag', items), '--params-file', str(parameters))
    assert 0.0 < found['right_before_label'] < 1.0
    assert all(right == untuned for _, right, untuned in found['kinds'].values())


def test_the_recorded_truth_can_play_the_labels(tmp_path, frames, replayed):
    items: list[Item] = []
    for number, frame in enumerate(frames[:32]):
        truth = made(
            'etuner_ros/msg/GroundTruth',
            header=header(number),
            label=frame.label,
            scenario=frame.scenario,
        )
        items += [(number, 'ground_truth', truth)]
        items += [(number + 0.01, 'image_raw/compressed', compressed(number, frame.image))]
    bag = record(tmp_path / 'bag', items)
    code, found, _ = replayed(bag, '--labels-from', 'ground_truth', '--every', '4')
    assert code == 0
    assert (found['frames'], found['labels']) == (32, 8)
    code, _, said = replayed(bag)
    assert code == 1
    assert '--labels-from ground_truth' in said


def test_frames_and_labels_of_our_own_topics_are_enough(tmp_path, frames, replayed):
    items: list[Item] = []
    for number, frame in enumerate(frames[:16]):
        image = compressed(number, frame.image)
        kept = made(
            'etuner_ros/msg/PredictedFrame',
            header=header(number),
            source='front',
            frame_uid=900 + number,
            image=image,
        )
        sample = made(
            'etuner_ros/msg/LabelledSample',
            header=header(number),
            source='front',
            frame_uid=900 + number,
            label=frame.label,
            author='ann',
            image=image,
        )
        batch = made('etuner_ros/msg/LabelledBatch', batch_id=number + 1, samples=[sample])
        if number % 2:  # of the others the frame was not recorded, the batch holds it
            items.append((number, 'predicted_frame', kept))
        items.append((number + 0.5, 'labelled_batches', batch))
        items.append((number + 0.6, 'labelled_batches', batch))
    code, found, _ = replayed(record(tmp_path / 'bag', items))
    assert code == 0
    assert (found['labels'], found['not_taken']) == (16, {})


def test_a_damaged_picture_in_a_batch_ends_nothing_and_the_others_are_learned(
    tmp_path, frames, replayed
):
    def sample(number: int, image: Any, label: str) -> Any:
        kind = 'etuner_ros/msg/LabelledSample'
        return made(kind, header=header(number), label=label, author='ann', image=image)

    whole = compressed(1, frames[1].image)
    cut = replace(whole, data=whole.data[:200])  # its header is whole
    empty_one = replace(whole, data=np.zeros(0, np.uint8))
    samples = [sample(1, whole, 'mug'), sample(2, cut, 'mug'), sample(3, empty_one, 'mug')]
    samples.append(sample(1, empty_one, ''))  # taken back: it needs none
    batch = made('etuner_ros/msg/LabelledBatch', batch_id=1, samples=samples)
    items: list[Item] = [
        (0.0, 'image_raw/compressed', compressed(0, frames[0].image)),
        (0.5, 'labelled_batches', batch),
    ]
    code, found, _ = replayed(record(tmp_path / 'bag', items))
    assert code == 0
    assert (found['labels'], found['unreadable']) == (1, {'labelled_batches': 2})


def test_of_batches_alone_what_was_said_last_of_a_frame_is_learned(tmp_path, frames, replayed):
    mugs = [frame for frame in frames if frame.label == 'mug'][:12]
    trays = [frame for frame in frames if frame.label == 'tray'][:12]

    def batch(number: int, label: str, author: str) -> Any:
        sample = made(
            'etuner_ros/msg/LabelledSample',
            header=header(number),
            label=label,
            author=author,
            image=compressed(number, (mugs + trays)[number].image),
        )
        return made('etuner_ros/msg/LabelledBatch', samples=[sample])

    items: list[Item] = []
    for number, frame in enumerate(mugs + trays):
        items.append((number, 'image_raw/compressed', compressed(number, frame.image)))
        first = 'bird' if frame.label == 'mug' else 'plate'
        items.append((number + 0.5, 'labelled_batches', batch(number, first, 'ann')))
        # All of it was wrong, and corrected by somebody else, or taken back.
        right = {'mug': 'cup', 'tray': 'tin'}[frame.label] if number % 2 else ''
        items.append((number + 30.5, 'labelled_batches', batch(number, right, 'bob')))
    weights = tmp_path / 'learned.safetensors'
    code, found, _ = replayed(record(tmp_path / 'bag', items), '--output', str(weights))
    assert (code, found['not_taken']) == (0, {})
    kinds = {label for label, _ in read_base(weights).exemplars}
    assert kinds >= {'cup', 'tin'}
    assert not kinds & {'bird', 'plate'}


def test_a_label_that_was_renamed_is_learned_by_its_new_name(tmp_path, frames, replayed):
    ducks = [frame for frame in frames if frame.label == 'mug'][:12]
    others = [frame for frame in frames if frame.label == 'tray'][:12]
    items: list[Item] = []
    for number, frame in enumerate(x for pair in zip(ducks, others) for x in pair):
        label = 'tray' if frame.label == 'tray' else 'bird'
        items.append((number, 'image_raw/compressed', compressed(number, frame.image)))
        items.append((number + 0.5, 'labels', correction(number, label)))
    renamed = {'renamed_from': ['bird'], 'renamed_to': ['duck']}
    batch = made('etuner_ros/msg/LabelledBatch', batch_id=1, **renamed)
    items.append((21.6, 'labelled_batches', batch))  # while some of it wait for their batch
    weights = tmp_path / 'learned.safetensors'
    bag = record(tmp_path / 'bag', [i for i in items if i[0] < 22.0])
    code, found, _ = replayed(bag, '--output', str(weights))
    assert code == 0
    assert 'duck' in found['classes']
    kinds = {label for label, _ in read_base(weights).exemplars}
    assert kinds >= {'duck', 'tray'}
    assert 'bird' not in kinds


def test_what_could_not_be_used_is_counted_with_the_reason(tmp_path, frames, deployed, capsys):
    image = frames[0].image
    broken = compressed(7, image)
    broken = replace(broken, data=np.frombuffer(b'no picture', np.uint8))
    items: list[Item] = [
        (0.0, 'image_raw/compressed', compressed(0, image)),
        (0.1, 'image_raw/compressed', broken),
        (0.2, 'labels', correction(0, 'mug')),
        (0.3, 'labels', correction(0, 'mug')),
        (0.4, 'labels', correction(50, 'mug')),
        (0.5, 'labels', correction(51, 'duck')),
        (0.6, 'labels', correction(0, 'duck', width=8.0)),
    ]
    bag = record(tmp_path / 'some', items)
    assert main(['replay', str(bag), '--weights', str(deployed)]) == 0
    said = capsys.readouterr().out
    assert '1 frames and 1 labels' in said
    assert '2 labels not taken: their frames are not in the recording' in said
    assert '1 labels not taken: said before by the same author' in said
    assert '1 labels not taken: they are of boxes' in said
    assert '1 messages of image_raw/compressed are damaged' in said
    bag = record(tmp_path / 'none', [items[0], *items[4:]])
    assert main(['replay', str(bag), '--weights', str(deployed)]) == 1
    assert 'nothing was learned' in capsys.readouterr().out


def test_shares_of_no_labels_are_null_as_json_has_no_nan(tmp_path, frames, deployed, capsys):
    items = [(0.0, 'image_raw', raw(0, frames[0].image)), (0.1, 'labels', correction(50, 'mug'))]
    bag = record(tmp_path / 'bag', items)
    assert main(['replay', str(bag), '--weights', str(deployed), '--json']) == 1
    no_json: list[str] = []
    found = json.loads(capsys.readouterr().out, parse_constant=no_json.append)
    assert no_json == []
    assert (found['labels'], found['right_before_label']) == (0, None)


@pytest.mark.parametrize(
    ('items', 'words'),
    [
        ([], 'holds no messages'),
        ([(0.0, 'labels', correction(0, 'mug'))], 'neither images nor predicted_frame.*labels'),
        ([(0.0, 'annotated', raw(0, np.zeros((8, 8, 3), np.uint8)))], 'neither images nor'),
        ([(0.0, 'image_raw', raw(0, np.zeros((8, 8, 3), np.uint8)))], 'no labels.*record.txt'),
    ],
    ids=['empty', 'no images', 'only drawn images', 'no labels'],
)
def test_a_recording_without_what_is_needed_says_what_is_missing(tmp_path, replayed, items, words):
    code, found, said = replayed(record(tmp_path / 'bag', items))
    assert code == 1
    assert not found
    assert re.search(words, said), said


def test_a_recording_or_topic_that_is_not_there_and_damage_are_named(tmp_path, frames, replayed):
    assert "'nowhere' does not exist" in replayed(Path('nowhere'))[2]
    bag = record(
        tmp_path / 'bag',
        [
            (0.0, 'image_raw', raw(0, frames[0].image)),
            (0.1, 'labels', correction(0, 'mug')),
        ],
    )
    assert "no images on '/other'" in replayed(bag, '--image-topic', '/other')[2]
    wrong = tmp_path / 'wrong.yaml'
    wrong.write_text('tuner:\n  ros__parameters:\n    train: {epochs: many}\n')
    assert 'train.epochs must be a float' in replayed(bag, '--params-file', str(wrong))[2]
    (bag / 'bag.db3').write_bytes(b'no database')
    assert 'can not be read' in replayed(bag)[2]


def test_files_that_could_not_be_written_in_the_end_are_said_before_it_begins(tmp_path, replayed):
    (tmp_path / 'file').touch()
    below = tmp_path / 'file' / 'below'
    for option, value, words in (
        ('--picture', tmp_path / 'picture.txt', 'picture.txt is none'),
        ('--picture', below / 'picture.png', 'can not be written'),
        ('--output', below / 'learned.safetensors', 'can not be written'),
    ):
        code, _, said = replayed(Path('nowhere'), option, str(value))
        assert (code, words in said) == (1, True), said
    kept = tmp_path / 'kept.svg'
    kept.write_text('an earlier one')
    replayed(Path('nowhere'), '--picture', str(kept))
    assert kept.read_text() == 'an earlier one'


@pytest.mark.parametrize(
    'failing', ['core.models.base_weights.write_base', 'offline.report.picture']
)
def test_what_was_learned_is_said_also_when_the_disk_is_full_in_the_end(
    tmp_path, frames, replayed, monkeypatch, failing
):
    items: list[Item] = []
    for number, frame in enumerate(frames[:4]):
        items.append((number, 'image_raw', raw(number, frame.image)))
        items.append((number + 0.5, 'labels', correction(number, frame.label)))

    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(f'etuner_ros.{failing}', write)
    files = '--output', str(tmp_path / 'a.safetensors'), '--picture', str(tmp_path / 'a.png')
    code, found, said = replayed(record(tmp_path / 'bag', items), *files)
    assert code == 1
    assert found['labels'] == 4
    assert said.endswith('etuner: No space left on device\n')


def test_what_came_before_a_damaged_place_is_learned_said_and_written(
    tmp_path, frames, deployed, capsys
):
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 255, (60, 80, 3), np.uint8) for _ in range(6)]
    items: list[Item] = []
    for number, image in enumerate(images):
        items.append((number, 'image_raw', raw(number, image)))
        items.append((number + 0.5, 'labels', correction(number, 'mug')))
    bag = record(tmp_path / 'bag', items)
    data = bytearray((bag / 'bag.db3').read_bytes())
    # A large message lies in pages each of which begins with the number of the next one.
    place = data.index(images[4][..., ::-1].tobytes()[6000:6100]) // 4096 * 4096
    data[place : place + 4] = b'\xff' * 4
    (bag / 'bag.db3').write_bytes(data)
    weights = tmp_path / 'learned.safetensors'
    options = ['--weights', str(deployed), '--output', str(weights)]
    assert main(['replay', str(bag), *options]) == 0
    said = capsys.readouterr().out
    assert '4 frames and 4 labels' in said
    assert 'the recording is damaged, and was read up to 3.5 s of 5.5 s' in said
    assert 'mug' in read_base(weights).spec.classes


def test_labels_of_images_whose_stamps_repeat_are_of_the_frames_that_have_numbers(
    tmp_path, frames, replayed
):
    items: list[Item] = []
    for number, frame in enumerate(frames[:6]):
        image = replace(compressed(number, frame.image), header=header(0))
        labelled = replace(correction(0, frame.label), source='front', frame_uid=900 + number)
        kept = made(
            'etuner_ros/msg/PredictedFrame',
            header=header(0),
            source='front',
            frame_uid=900 + number,
            image=image,
        )
        items.append((number, 'image_raw/compressed', image))
        items.append((number + 0.1, 'predicted_frame', kept))
        items.append((number + 0.5, 'labels', labelled))
    code, found, said = replayed(record(tmp_path / 'bag', items))
    assert code == 0
    assert (found['frames'], found['labels']) == (6, 6)
    bare = [i for i in items if i[1] != 'predicted_frame']
    code, _, said = replayed(record(tmp_path / 'bare', bare))
    assert code == 1
    assert 'stamps of image_raw/compressed repeat' in said
    unnumbered = [(t, n, replace(m, frame_uid=0) if n == 'labels' else m) for t, n, m in items]
    assert replayed(record(tmp_path / 'unnumbered', unnumbered))[0] == 1
    # A frame that came twice, of which nobody said anything, does no harm.
    twice = [(0.0, 'image_raw', raw(0, frames[0].image)), (0.1, 'image_raw', raw(0, picture_of()))]
    twice += [(1.0, 'image_raw', raw(1, frames[1].image)), (1.1, 'labels', correction(1, 'mug'))]
    code, found, _ = replayed(record(tmp_path / 'twice', twice))
    assert (code, found['labels']) == (0, 1)


def test_a_few_labels_of_images_whose_stamps_repeat_are_left_out_and_counted(
    tmp_path, frames, deployed, replayed, capsys
):
    items: list[Item] = [(0.5, 'image_raw', raw(0, picture_of()))]
    for number, frame in enumerate(frames[:10]):
        items.append((number, 'image_raw', raw(number, frame.image)))
        items.append((number + 0.6, 'labels', correction(number, frame.label)))
    code, found, _ = replayed(record(tmp_path / 'few', items))
    assert (code, found['labels'], found['not_taken']) == (0, 9, {'REPEATED_STAMP': 1})
    assert main(['replay', str(tmp_path / 'few'), '--weights', str(deployed)]) == 0
    said = capsys.readouterr()
    first, _, third = said.err.splitlines()[:3]
    assert first == 'looking whether stamps of images repeat'
    assert third.startswith('1 of 10 labels are left out: stamps of image_raw repeat')
    assert '1 labels not taken: other images have the stamp of theirs' in said.out
    # More than a tenth: nothing is left out, it is refused.
    many = [*items, (1.5, 'image_raw', raw(1, picture_of()))]
    code, _, said = replayed(record(tmp_path / 'many', many))
    assert code == 1
    assert 'stamps of image_raw repeat' in said
    # Labels of another camera, and of boxes, say nothing of these images.
    for number in range(8):
        other = replace(correction(0, f'kind{number}'), source='rear', frame_uid=7 + number)
        items.append((20.0 + number, 'labels', other))
        items.append((20.5 + number, 'labels', correction(0, f'thing{number}', width=8.0)))
    code, found, _ = replayed(record(tmp_path / 'others', items))
    assert (code, found['labels'], found['not_taken']['REPEATED_STAMP']) == (0, 9, 1)


def test_the_truth_of_images_whose_stamps_repeat_is_left_out_of_what_is_played(
    tmp_path, frames, replayed
):
    items: list[Item] = [(7.5, 'image_raw', raw(7, picture_of()))]
    for number, frame in enumerate(frames[:24]):
        truth = made('etuner_ros/msg/GroundTruth', header=header(number), label=frame.label)
        items.append((number, 'image_raw', raw(number, frame.image)))
        items.append((number + 0.6, 'ground_truth', truth))
    bag = record(tmp_path / 'bag', items)
    for every, labels, left_out in (('1', 23, 1), ('5', 4, 0)):
        code, found, _ = replayed(bag, '--labels-from', 'ground_truth', '--every', every)
        assert (code, found['labels']) == (0, labels)
        assert found['not_taken'].get('REPEATED_STAMP', 0) == left_out
    code, _, said = replayed(bag, '--labels-from', 'ground_truth', '--every', '8')
    assert code == 1, 'of three labels one is of an image whose stamp repeats'
    assert 'repeat' in said


def picture_of() -> np.ndarray:
    return np.full((60, 80, 3), 90, np.uint8)


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'tuner:\n  ros__parameters:\n    model.input_size: abc\n', 'must be a int, got .abc.'),
        (b'tuner:\n  ros__parameters:\n    model: {input_size: 8}\n', 'between 32 and 1024'),
        (b'tuner:\n  ros__parameters:\n    model: {weights: }\n', 'must be a str, got None'),
        (b'tuner: \xff\xfe', 'is no file of parameters: '),
        (b'tuner: {a', 'is no file of parameters: '),
    ],
)
def test_a_file_of_parameters_that_does_not_fit_is_one_line(tmp_path, capsys, content, words):
    items = [(0.0, 'image_raw', raw(0, picture_of())), (0.1, 'labels', correction(0, 'mug'))]
    bag = record(tmp_path / 'bag', items)
    (tmp_path / 'mine.yaml').write_bytes(content)
    assert main(['replay', str(bag), '--params-file', str(tmp_path / 'mine.yaml')]) == 1
    said = capsys.readouterr().err
    assert re.search(words, said), said
    assert said.count('\n') == 1
    assert main(['replay', str(bag), '--input-size', '0']) == 1
    assert '--input-size must be between 32 and 1024, got 0' in capsys.readouterr().err


def test_the_settings_are_those_that_the_benchmark_measures():
    ours, theirs = read_settings([parameters_file()]), shipped_recipe()
    recipe = theirs.recipe
    assert (ours.lazy, ours.head, ours.sim_freeze) == (recipe.lazy, recipe.head, recipe.sim_freeze)
    assert (ours.gate, ours.scenario) == (recipe.gate, theirs.scenario)
    assert ours.collector.batch_size == theirs.batch_size
    device = ours.train.device
    assert ours.train == replace(recipe.train, device=device, threads=ours.train.threads)
