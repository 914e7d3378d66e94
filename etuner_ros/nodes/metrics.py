# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`metrics`: what the nodes say on /diagnostics, as a page that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
import socket
from socketserver import ThreadingMixIn
import threading
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from diagnostic_msgs.msg import DiagnosticArray
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from rclpy.node import Node

from etuner_ros.core.config import Checked, setting
from etuner_ros.core.errors import ConfigError
from etuner_ros.core.metrics import LABELS, Metrics
from etuner_ros.nodes.health import guarded, Health
from etuner_ros.nodes.messages import short
from etuner_ros.nodes.parameters import declare
from etuner_ros.nodes.qos import reliable
from etuner_ros.nodes.running import run


@dataclass(frozen=True)
class MetricsSettings(Checked):
    """Parameters of the metrics page."""

    host: str = setting(
        '127.0.0.1', 'address to listen on; 0.0.0.0 = all: whoever reaches it reads the figures'
    )
    port: int = setting(9464, 'TCP port', 1, 65535)


class Figures(Collector):
    """Gives the library what was heard, when the page is read."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Return all metrics."""
        for family in self._metrics.families():
            metric = family.metric
            kind = CounterMetricFamily if metric.counts else GaugeMetricFamily
            made = kind(metric.name, metric.help, labels=LABELS)
            for labels, value in family.values:
                made.add_metric(labels, value)
            yield made


class Request(WSGIRequestHandler):
    """One reader, who does not keep a thread by saying nothing and is not logged."""

    timeout = 5.0

    def log_message(self, *arguments: Any) -> None:
        """Say nothing: there is a reader every few seconds."""


class Server(ThreadingMixIn, WSGIServer):
    """The library's own has no time-out and can not be closed in its older releases."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ':' in host else socket.AF_INET
        super().__init__((host, port), Request)

    def handle_error(self, *arguments: Any) -> None:
        """Say nothing: a reader has gone away."""


class MetricsNode(Node):
    """
    Serves http://host:port/metrics in the text format of Prometheus.

    Subscribes `/diagnostics` (DiagnosticArray), of all namespaces.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('metrics', **options)
        settings = self.settings = declare(self, '', MetricsSettings)
        self.metrics = Metrics()
        registry = CollectorRegistry(auto_describe=True)
        registry.register(Figures(self.metrics))
        try:
            self._server = Server(settings.host, settings.port)
        except (OSError, UnicodeError) as error:
            raise ConfigError(
                f'metrics can not be served on {short(settings.host)}:{settings.port} '
                f'({getattr(error, "strerror", None) or error}); choose another port or host, '
                'or end what is there'
            ) from error
        self._server.set_app(make_wsgi_app(registry))
        self._thread = threading.Thread(
            target=self._server.serve_forever, name='metrics', daemon=True
        )
        self._thread.start()
        self.health = Health(self, self._diagnostics)
        self.create_subscription(
            DiagnosticArray, '/diagnostics', self._on_diagnostics, reliable(100)
        )
        self.get_logger().info(f'metrics on http://{settings.host}:{settings.port}/metrics')

    def _diagnostics(self) -> Mapping[str, object]:
        return {'nodes heard': len(self.metrics)}

    @guarded
    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = ((item.key, item.value) for item in status.values)
            self.metrics.hear(status.name, status.hardware_id, ord(status.level), values)

    def close(self) -> None:
        """Close the page."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2.0)


def main() -> int:
    """Run the node."""
    return run(MetricsNode)
