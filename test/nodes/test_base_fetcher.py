# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Base weights are fetched in the end, whatever happens on the way."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.task import Future

from etuner_ros.core.files import replace_file
from etuner_ros.core.models import base_download
from etuner_ros.core.models.base_weights import cached
from etuner_ros.core.models.weights import sha256
from etuner_ros.nodes import base_fetcher
from etuner_ros.nodes.base_fetcher import BaseFetcher
from etuner_ros.srv import GetModel

WHOLE = b'weights' * 100


@pytest.fixture
def node(ros):
    from rclpy.node import Node

    return ros.add(lambda **options: Node('receiver', **options))


def serve(ros, answers: list[str]) -> list[int]:
    """Serve base weights in two pieces; `answers` says what goes wrong first."""
    asked: list[int] = []

    def answer(request, response):
        asked.append(request.offset)
        trouble = answers.pop(0) if answers else ''
        if trouble == 'refused':
            response.error_code, response.error_msg = response.UNKNOWN, 'not here'
        else:
            piece = WHOLE[request.offset : request.offset + 400]
            response.data, response.size = piece, len(WHOLE)
            if trouble == 'damaged':
                response.data = b'x' * len(piece)
        return response

    ros.probe.create_service(GetModel, 'model_manager/get_model', answer)
    return asked


def test_a_service_that_comes_later_is_asked(ros, node):
    found: list[Path | None] = []
    fetcher = BaseFetcher(node, found.append)
    fetcher.fetch(sha256(WHOLE))
    asked = serve(ros, [])
    ros.until(lambda: found, 'the base weights')
    assert found == [cached(sha256(WHOLE))]
    assert found[0].read_bytes() == WHOLE
    assert asked == [0, 400]
    fetcher.close()


@pytest.mark.parametrize('trouble', ['refused', 'damaged'])
def test_what_failed_is_tried_again(ros, node, trouble):
    found: list[Path | None] = []
    serve(ros, [trouble])
    fetcher = BaseFetcher(node, found.append)
    fetcher.fetch(sha256(WHOLE))
    ros.until(lambda: found and found[-1], 'the base weights')
    assert found[0] is None, 'the attempt that failed'
    assert cached(sha256(WHOLE)).read_bytes() == WHOLE
    fetcher.close()


def test_what_a_full_disk_has_no_room_for_is_kept_later_and_not_fetched_again(
    ros, node, monkeypatch
):
    found: list[Path | None] = []
    asked, tries, logs = serve(ros, []), [], ros.logs()

    def replace(path: Path, data: bytes) -> None:
        tries.append(path)
        if len(tries) < 3:
            raise OSError(errno.ENOSPC, 'No space left on device')
        replace_file(path, data)

    monkeypatch.setattr(base_fetcher, 'replace_file', replace)
    fetcher = BaseFetcher(node, found.append)
    fetcher.fetch(sha256(WHOLE))
    ros.until(lambda: len(tries) == 1, 'the full disk')
    fetcher.fetch(sha256(WHOLE))  # as often as somebody asks
    ros.until(lambda: found and found[-1], 'the base weights')
    assert found[:-1] == [None, None]
    assert cached(sha256(WHOLE)).read_bytes() == WHOLE
    assert asked == [0, 400]
    ros.until(lambda: any('could not be kept' in m.msg for m in logs), 'a word on the disk')
    fetcher.close()


def test_of_a_link_that_carries_no_large_piece_in_time_smaller_ones_are_asked_for(
    ros, node, monkeypatch
):
    monkeypatch.setattr(base_download, 'ANSWER_S', 0.3)
    monkeypatch.setattr(base_download, 'FIRST_PAUSE_S', 0.1)
    asked: list[int] = []

    async def answer(request, response):
        asked.append(request.length)
        if request.length > 2**20:
            await Future()  # it comes when nobody waits for it any more
        response.data, response.size = WHOLE, len(WHOLE)
        return response

    ros.probe.create_service(
        GetModel, 'model_manager/get_model', answer, callback_group=ReentrantCallbackGroup()
    )
    found: list[Path | None] = []
    fetcher = BaseFetcher(node, found.append)
    fetcher.fetch(sha256(WHOLE))
    ros.until(lambda: found and found[-1], 'the base weights')
    assert asked == [2**22, 2**21, 2**20]
    fetcher.close()


def test_other_base_weights_are_wanted_meanwhile(ros, node):
    found: list[Path | None] = []
    fetcher = BaseFetcher(node, found.append)
    fetcher.fetch('0' * 64)
    fetcher.fetch(sha256(WHOLE))
    serve(ros, [])
    ros.until(lambda: found, 'the base weights')
    assert found == [cached(sha256(WHOLE))]
    fetcher.close()


def test_a_damaged_file_in_the_cache_is_fetched_anew(ros, node):
    path = cached(sha256(WHOLE))
    path.parent.mkdir(parents=True)
    path.write_bytes(b'half')
    found: list[Path | None] = []
    serve(ros, [])
    fetcher = BaseFetcher(node, found.append)
    fetcher.fetch(sha256(WHOLE))
    ros.until(lambda: found, 'the base weights')
    assert path.read_bytes() == WHOLE
    fetcher.close()
