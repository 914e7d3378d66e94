# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What `etuner` refuses before it begins, and how it ends when it is told to."""

from __future__ import annotations

from dataclasses import replace
import os
from pathlib import Path
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
from test_offline import Item, raw, record
from test_recordings import truth

from etuner_ros.cli.main import main
from etuner_ros.core.images.codec import encode_jpeg


def fill(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for i in range(2):
        (folder / f'{i}.jpg').write_bytes(encode_jpeg(np.full((24, 32, 3), 40 * i, np.uint8)))
    return folder


@pytest.mark.parametrize('source', ['/dev/video0', '0', ''])
def test_deploy_takes_nothing_that_never_ends_or_is_nothing(tmp_path, capsys, source):
    output = str(tmp_path / 'base.safetensors')
    assert main(['deploy', '--source', source, '--output', output]) == 1
    assert 'give a folder <label>/*.jpg or a recording' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('name', 'shown'),
    [('caf\udce9', "'caf\\udce9', whose name is not UTF-8"), ('a\x07', 'not print')],
)
@pytest.mark.parametrize('command', ['deploy', 'choose'])
def test_a_folder_that_can_be_no_label_is_named_before_anything_is_fitted(
    tmp_path, capsys, command, name, shown
):
    for label in ('mug', name):
        fill(tmp_path / 'pictures' / label)
    output = tmp_path / 'base.safetensors'
    arguments = ['--source', str(tmp_path / 'pictures'), '--output', str(output)]
    assert main([command, *arguments]) == 1
    said = capsys.readouterr().err
    assert shown in said
    assert said.endswith('rename it\n')
    assert not output.exists()


def test_deploy_takes_the_named_images_of_a_recording_and_says_what_it_left_out(tmp_path, capsys):
    items: list[Item] = []
    for number in range(6):
        bright = np.full((60, 80, 3), 200 if number % 2 else 20, np.uint8)
        other = truth(number, ('mug', 'duck')[number % 2])
        items += [(number, 'ground_truth', other), (number, 'image_raw', raw(number, bright))]
        items += [(number, 'rear', raw(number, bright))]
    items += [(7.0, 'rear', replace(raw(7, bright), step=1))]
    bag, output = record(tmp_path / 'bag', items), tmp_path / 'base.safetensors'
    arguments = ['deploy', '--source', str(bag), '--output', str(output), '--input-size', '32']
    assert main([*arguments, '--image-topic', '/rear']) == 0
    said = capsys.readouterr()
    assert '1 messages of rear are damaged and left out' in said.err
    assert '2 classes from 6 images' in said.out
    assert main([*arguments, '--image-topic', '/front']) == 1
    assert "no images on '/front'" in capsys.readouterr().err


def test_folders_of_one_name_in_two_spellings_are_one_class(tmp_path, capsys):
    for label in ('T\u00fcr', 'Tu\u0308r', 'mug'):
        fill(tmp_path / 'pictures' / label)
    output = tmp_path / 'base.safetensors'
    arguments = ['--source', str(tmp_path / 'pictures'), '--output', str(output)]
    assert main(['deploy', *arguments, '--input-size', '32']) == 0
    assert '2 classes from 6 images' in capsys.readouterr().out


@pytest.mark.parametrize('size', ['0', '-5', '31', '100000'])
def test_an_input_that_no_node_takes_is_refused(tmp_path, capsys, size):
    output = str(tmp_path / 'base.safetensors')
    arguments = ['deploy', '--source', str(tmp_path), '--output', output, '--input-size', size]
    assert main(arguments) == 1
    assert f'--input-size must be between 32 and 1024, got {size}' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('command', 'words'),
    [
        ('deploy --source x --output y --count -1', 'at least 0, got -1'),
        ('deploy --source x --output y --exemplars -1', 'at least 0, got -1'),
        ('choose --labels -5', 'at least 0, got -5'),
        ('choose --threads 0', 'at least 1, got 0'),
        ('watch --count -1', 'at least 0, got -1'),
        ('healthy --timeout-s -3', 'above 0, got -3'),
    ],
)
def test_numbers_that_mean_nothing_are_refused(capsys, command, words):
    with pytest.raises(SystemExit):
        main(command.split())
    assert words in capsys.readouterr().err


def test_a_store_is_made_by_an_import_that_has_something_and_is_named(tmp_path, capsys):
    store = tmp_path / 'robot' / 'new.db'
    assert main(['labels', 'import', str(tmp_path / 'nothere'), '--store', str(store)]) == 1
    assert 'nothere does not exist' in capsys.readouterr().err
    assert not store.exists()
    (tmp_path / 'pictures' / 'cup').mkdir(parents=True)
    picture = tmp_path / 'pictures' / 'cup' / 'a.png'
    cv2.imwrite(str(picture), np.full((40, 40, 3), 90, np.uint8))
    for line in (f'a new label store: {store}\n', ''):
        assert main(['labels', 'import', str(tmp_path / 'pictures'), '--store', str(store)]) == 0
        said = capsys.readouterr().out
        assert said.endswith(line or 'were known\n')


@pytest.mark.parametrize('version', ['4294967296', '-1', 'x'])
@pytest.mark.parametrize('action', [['swap'], ['pin'], ['unpin'], ['export']])
def test_a_version_that_messages_have_no_room_for_is_refused(capsys, action, version):
    with pytest.raises(SystemExit) as ended:
        main(['models', *action, version, *(['out'] if action == ['export'] else [])])
    assert ended.value.code == 2
    assert '0 to 4294967295' in capsys.readouterr().err


def test_marks_that_a_terminal_has_no_letters_for_end_no_command():
    environment = {**os.environ, 'PYTHONIOENCODING': 'latin-1'}
    command = [sys.executable, '-m', 'etuner_ros.cli.main', 'doctor', '--offline']
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert 'Traceback' not in done.stderr.decode()
    assert '\\u2714 python: ' in done.stdout.decode('latin-1')


WAITING = """
import sys, time
from etuner_ros.cli import choose, main

def run(arguments):
    try:
        print('here', flush=True)
        time.sleep(60)
        return 0
    finally:
        print('closed', flush=True)

choose.run = run
sys.exit(main.main(['choose']))
"""
# As from a terminal, though the tests may run in the background, where some are ignored.
HEARD = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""


@pytest.mark.parametrize(
    ('number', 'code'), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_that_ends_a_command_lets_it_close_what_is_open(number, code):
    process = subprocess.Popen(
        [sys.executable, '-c', HEARD + WAITING],
        stdout=subprocess.PIPE,
        text=True,
        cwd=os.getcwd(),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == 'here\n'
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert said == 'closed\n'
    assert process.returncode == code


def test_a_command_that_ignores_the_end_of_its_terminal_goes_on():
    shorter = WAITING.replace('60', '2')
    process = subprocess.Popen(
        ['nohup', sys.executable, '-c', shorter],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=os.getcwd(),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == 'here\n'
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0
