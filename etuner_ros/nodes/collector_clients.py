# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Asks label collectors for what the feed of the tuner wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rclpy.exceptions import InvalidServiceNameException
from rclpy.node import Node

from etuner_ros.core.tune.batch_feed import Ask, BatchFeed
from etuner_ros.msg import LabelledBatch, LabelledSample
from etuner_ros.nodes.health import Health
from etuner_ros.nodes.messages import short
from etuner_ros.srv import GetBatches, GetReplay


class CollectorClients:
    """
    Two clients for each collector of a feed: `~/get_batches` and `~/get_replay`.

    :param take: takes a batch that the worker has not had
    :param replay: takes samples of a collector that the live weights have learned, and which
        labels are called otherwise since
    """

    def __init__(
        self,
        node: Node,
        feed: BatchFeed,
        health: Health,
        take: Callable[[LabelledBatch], None],
        replay: Callable[[str, Sequence[LabelledSample], list[tuple[str, str]]], None],
    ) -> None:
        self._node, self._feed, self._health = node, feed, health
        self._take, self._replay = take, replay
        self._clients: dict[tuple[str, bool], Any] = {}
        self._futures: dict[tuple[str, bool], Any] = {}

    def ask(self, has_credit: bool) -> None:
        """Ask for all that the feed wants now, and let go of those that it has forgotten."""
        for ask in self._feed.asks(has_credit):
            client = self._client(ask)
            if client is None:
                continue
            if not client.service_is_ready():
                self._feed.on_missing(ask)
                continue
            key = (ask.collector, ask.replay)
            if key in self._futures:
                client.remove_pending_request(self._futures[key])
            self._futures[key] = client.call_async(self._request(ask))
            self._futures[key].add_done_callback(lambda f, ask=ask: self._on_answer(ask, f))
        for key in [k for k in self._clients if k[0] not in self._feed.collectors]:
            self._futures.pop(key, None)
            self._node.destroy_client(self._clients.pop(key))

    @staticmethod
    def _request(ask: Ask) -> Any:
        if ask.replay:
            return GetReplay.Request(
                up_to_batch_id=ask.up_to,
                since_batch_id=ask.since,
                count=ask.count,
                skip=ask.skip,
            )
        return GetBatches.Request(from_batch_id=ask.first, limit=ask.limit)

    def _client(self, ask: Ask) -> Any:
        key = (ask.collector, ask.replay)
        if key not in self._clients:
            kind, name = (GetReplay, 'get_replay') if ask.replay else (GetBatches, 'get_batches')
            try:
                client = self._node.create_client(kind, f'{ask.collector}/{name}')
            except (InvalidServiceNameException, ValueError):
                self._health.problem(f'no collector can be called {short(ask.collector)!r}')
                self._feed.forget(ask.collector)
                return None
            self._clients[key] = client
        return self._clients[key]

    def _on_answer(self, ask: Ask, future: Any) -> None:
        if self._futures.get((ask.collector, ask.replay)) is future:
            del self._futures[ask.collector, ask.replay]
        answer = None if future.cancelled() else future.result()
        if answer is None:
            self._health.problem(f'{ask.collector} did not answer')
            self._feed.on_missing(ask)
        elif answer.error_code:
            self._health.problem(answer.error_msg)
            self._feed.on_failure(ask)
        elif ask.replay:
            count, last = len(answer.samples), answer.last_batch_id
            if self._feed.on_replay(ask, count, answer.total, last):
                first = ask.skip == 0  # labels are renamed once, before the first samples
                renamed = zip(answer.renamed_from, answer.renamed_to) if first else ()
                self._replay(ask.collector, answer.samples, list(renamed))
        else:
            by_id = {batch.batch_id: batch for batch in answer.batches}
            last, samples = answer.last_batch_id, sum(len(b.samples) for b in answer.batches)
            for batch_id in self._feed.on_batches(ask, sorted(by_id), last, samples):
                self._take(by_id[batch_id])
