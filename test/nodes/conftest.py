# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures: the teaching page as a process of its own, and a real browser."""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import shutil
import signal
import socket
import subprocess
import sys
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from ament_index_python.packages import get_package_prefix
from helpers import Graph
import pytest

BROWSER, DRIVER = shutil.which('chromium'), shutil.which('chromedriver')
TOKEN = 'a token of a test'


@pytest.fixture
def page(ros: Graph, tmp_path: Path) -> Iterator[str]:
    """Run the node as a process; return the address of its page."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    executable = Path(get_package_prefix('etuner_ros')) / 'lib' / 'etuner_ros' / 'teacher'
    command = [sys.executable, str(executable), '--ros-args', '-r', f'__ns:={ros.namespace}']
    for name, value in (('port', port), ('token', f'"{TOKEN}"'), ('author', 'ann')):
        command += ['-p', f'{name}:={value}']
    environment = {**os.environ, 'ROS_DOMAIN_ID': str(ros.domain), 'HOME': str(tmp_path)}
    environment.pop('PYTEST_CURRENT_TEST', None)  # the library of the page looks for it
    process = subprocess.Popen(command, env=environment, cwd=tmp_path)
    address = f'http://127.0.0.1:{port}/'

    def answers() -> bool:
        try:
            urlopen(address, timeout=1.0)
        except HTTPError as error:
            return error.code == 401
        except (URLError, OSError):
            return False
        raise AssertionError('the page opened without its token')

    try:
        ros.until(answers, 'the page')
        yield f'{address}?token={TOKEN.replace(" ", "%20")}'
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def browser() -> Iterator[Any]:
    """Return a headless Chromium; its library is not there on a robot."""
    webdriver = pytest.importorskip('selenium.webdriver')
    if not (BROWSER and DRIVER):
        pytest.skip('chromium and chromium-driver are not installed')
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ('--headless=new', '--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu'):
        options.add_argument(flag)
    options.add_argument('--window-size=1280,900')
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()
