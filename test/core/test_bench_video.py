# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Streams in video order, and which streams the benchmark offers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from etuner_ros.bench.datasets import Picture
from etuner_ros.bench.run import sources
from etuner_ros.bench.streams import make_stream, nearest_mean, Setting
from etuner_ros.cli.bench import add_table
from etuner_ros.cli.main import main
from etuner_ros.core.errors import ConfigError

SETTING = Setting('NI', order='video', batch_size=8)
PLACES = ('hall', 'yard', 'hall', 'shop', 'yard', 'shop')


def _video() -> list[Picture]:
    """Six visits of 480 frames; twelve frames of a kind follow each other."""
    return [
        Picture(f'{i:06}', f'kind {i // 12 % 5}', PLACES[i // 480], i % 2 == 0, b'')
        for i in range(480 * len(PLACES))
    ]


def test_a_video_plays_as_recorded() -> None:
    frames = _video()
    stream = make_stream(frames[::-1], SETTING, 0)
    assert stream == make_stream(frames, SETTING, 0)
    assert stream != make_stream(frames, SETTING, 1)
    assert stream.names == ('hall', 'yard', 'shop')
    assert stream.visits == (0, 1, 0, 2, 1, 2)
    assert list(stream.deployment) == frames[:240]
    asked = [e for e in stream.events if not e.labelled]
    labelled = [p.name for e in stream.events if e.labelled for p in e.pictures]
    names = [e.pictures[0].name for e in asked]
    assert names == sorted(names)
    assert sorted(names + labelled) == [p.name for p in frames[240:]]  # each frame once
    assert {e.visit for e in stream.events} == set(range(6))
    for event in asked:  # an even rate
        number = int(event.pictures[0].name) - 240
        assert event.time == pytest.approx(number * stream.starts[1] / 240)
        assert stream.visits[event.visit] == event.scenario


def test_what_is_tested_in_a_video_is_never_labelled_and_spread_over_all_visits() -> None:
    frames = _video()
    tests = make_stream(frames, SETTING, 0).tests
    assert [len(group) for group in tests] == [72, 96, 96]
    tested = {p.name for group in tests for p in group}
    for seed in range(5):
        stream = make_stream(frames, SETTING, seed)
        assert {p.name for group in stream.tests for p in group} == tested
        assert not tested & {p.name for e in stream.events if e.labelled for p in e.pictures}
        assert not tested & {p.name for p in stream.deployment}
        late = {int(p.name) >= 960 for p in stream.tests[0][-30:]}
        assert late == {False, True}


def test_a_person_corrects_a_few_frames_and_then_none_for_long() -> None:
    counts = []
    for seed in range(10):
        stream = make_stream(_video(), SETTING, seed)
        batches = [e for e in stream.events if e.labelled]
        assert all(len(e.pictures) == 8 for e in batches[:-1])
        numbers = [int(p.name) for e in batches for p in e.pictures]
        assert numbers == sorted(numbers)
        gaps = np.diff(numbers)
        assert np.median(gaps) <= 3
        assert gaps.max() > 100
        counts.append(len(numbers))
    assert np.mean(counts) == pytest.approx(0.01 * 2640, rel=0.2)


def test_mostly_wrong_answers_are_corrected() -> None:
    """The reference is wrong about a tenth of the frames, and knows what was labelled before."""
    calls: list[int] = []

    def wrong_for(known: Sequence[Picture], asked: Sequence[Picture]) -> list[bool]:
        calls.append(len(known))
        assert not {p.name for p in known} & {p.name for p in asked}
        return [int(p.name) // 12 % 10 == 3 for p in asked]

    numbers = [
        int(p.name)
        for seed in range(10)
        for e in make_stream(_video(), SETTING, seed, wrong_for).events
        if e.labelled
        for p in e.pictures
    ]
    assert 0.7 < np.mean([n // 12 % 10 == 3 for n in numbers]) < 0.95
    assert calls[0] == 240
    assert calls[1] > 240


def test_nearest_mean_is_wrong_about_what_it_does_not_know() -> None:
    rows = {'kind 0': [1.0, 0.0, 0.0], 'kind 1': [0.0, 1.0, 0.0], 'kind 2': [0.0, 0.9, 1.0]}
    wrong_for = nearest_mean(lambda pictures: np.array([rows[p.label] for p in pictures]))
    frames = [Picture(str(i), f'kind {i % 3}', 'hall', True, b'') for i in range(9)]
    assert wrong_for([*frames[0:2], *frames[3:5]], frames[6:]) == [False, False, True]
    assert wrong_for(frames[:6], frames[6:]) == [False, False, False]


def test_video_order_needs_a_recording_long_enough() -> None:
    named = [Picture(f'hall/{i}', f'kind {i % 2}', 'hall', True, b'') for i in range(40)]
    with pytest.raises(ConfigError, match='numbered'):
        make_stream(named, SETTING, 0)
    with pytest.raises(ConfigError, match='too few'):
        make_stream(_video()[:20], SETTING, 0)
    with pytest.raises(ConfigError, match='shuffled or video'):
        make_stream(named, Setting('NI', order='backwards'), 0)


def _offered(capsys: pytest.CaptureFixture[str], *arguments: str) -> set[str]:
    """Return the streams that the command names when it is asked for one that there is not."""
    assert main(['bench', '--streams', 'nonesuch', *arguments]) == 1
    return set(capsys.readouterr().err.partition('there are: ')[2].strip().split(', '))


def test_streams_of_the_command_line(tmp_path: Path, capsys) -> None:
    for name in ('long', 'video', 'video_search'):
        (tmp_path / name).mkdir()
    rendered = ('--long', str(tmp_path))
    photographs = ('--grocery', 'grocery.tar')
    folder = ('--images', str(tmp_path))
    shops = {f'grocery_{k}' for k in ('nc', 'nc_again', 'nic', 'nic_again', 'nc_long')}
    assert _offered(capsys, *photographs, *folder) == {*shops, 'images_ni', 'images_ni_again'}
    assert _offered(capsys, *folder, *rendered) == {
        *('images_ni', 'images_ni_again', 'sim_ni_long', 'sim_ni_video'),
    }
    found = _offered(capsys, *photographs, *rendered, '--search', '--recording', str(tmp_path))
    assert found == {
        *(f'grocery_search{name.removeprefix("grocery")}' for name in shops),
        *('grocery_products_nc', 'grocery_products_nc_again'),
        *('sim_search', 'sim_search_again', 'sim_search_video'),
    }
    assert main(['bench', '--images', str(tmp_path), '--long', str(tmp_path / 'video')]) == 1
    assert 'make stream-long' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ('--batches 0', 'at least 1, got 0'),
        ('--requests 0', 'at least 1, got 0'),
        ('--seeds 0', 'at least 1, got 0'),
        ('--load 0', 'above 0, got 0'),
        ('--load nan', 'above 0, got nan'),
        ('--batches few', "invalid whole number value: 'few'"),
        ('proposals --every 0', 'at least 1, got 0'),
        ('boxes --every 0', 'at least 1, got 0'),
        ('boxes --own-name Mug', "two names, such as 'Mug=mug', got 'Mug'"),
        ('deflate --rounds 0', 'at least 1, got 0'),
    ],
)
def test_numbers_that_mean_nothing_are_refused(capsys, arguments: str, words: str) -> None:
    with pytest.raises(SystemExit):
        main(['bench', *arguments.split()])
    assert words in capsys.readouterr().err


def test_a_folder_of_several_scenarios_is_not_parted_into_others(tmp_path: Path, capsys) -> None:
    for place in ('hall', 'yard'):
        (tmp_path / place / 'cup').mkdir(parents=True)
        (tmp_path / place / 'cup' / '0.jpg').touch()
    folder = ('--images', str(tmp_path))
    assert _offered(capsys, *folder) == {'images_ni', 'images_ni_again'}
    assert main(['bench', *folder, '--kind', 'NC']) == 1
    assert '2 scenarios (hall, yard), which are played as they are' in capsys.readouterr().err
    (tmp_path / 'yard' / 'cup' / '0.jpg').unlink()
    assert _offered(capsys, *folder, '--kind', 'NC') == {'images_nc', 'images_nc_again'}


def test_a_quick_look_leaves_out_what_takes_long_unless_it_is_named(tmp_path: Path) -> None:
    (tmp_path / 'long').mkdir()
    parser = argparse.ArgumentParser()
    add_table(parser)
    paths = ['--images', str(tmp_path), '--grocery', 'grocery.tar']
    quick = sources(parser.parse_args([*paths, '--quick']))
    assert [s.name for s in quick] == ['images_ni', 'grocery_nc', 'grocery_nic']
    named = sources(parser.parse_args([*paths, '--quick', '--streams', 'images_ni_again']))
    assert [(s.name, s.setting.visits, s.setting.batches) for s in named] == [
        ('images_ni_again', 2, 2)
    ]
    paths += ['--long', str(tmp_path)]
    with pytest.raises(ConfigError, match='a --quick look takes no --long streams'):
        sources(parser.parse_args([*paths, '--quick']))
    long = sources(parser.parse_args([*paths, '--quick', '--streams', 'sim_ni_long']))
    assert [s.name for s in long] == ['sim_ni_long']
    stays = {s.name: s.setting for s in sources(parser.parse_args(paths))}
    assert len(stays) == 8
    assert stays['grocery_nic_again'] == Setting('NIC', visits=2)
    pictures = [
        Picture(f'{i:06}', f'kind {i % 12}', f'place {i // 720}', i // 12 % 2 == 0, b'')
        for i in range(3600)
    ]
    assert make_stream(pictures, stays['sim_ni_long'], 0).batches >= 80
