# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What the nodes say on /diagnostics, as metrics by the conventions of Prometheus: base units
(seconds, bytes, shares of 1), counters that end in `_total`.

The table below is all that is exported; config/grafana.json is tested against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
import re
import threading
import time

HARDWARE_ID = 'etuner_ros'  # what our nodes write into their status
# Nothing but a name that ROS allows: whoever publishes on /diagnostics makes up no labels.
STATUS_NAME = re.compile(r'((?:/[A-Za-z_][A-Za-z0-9_]*)*)/([A-Za-z_][A-Za-z0-9_]*): etuner')
LONGEST_NAME = 256
NUMBER = re.compile(r'-?[0-9]{1,30}(?:\.[0-9]{1,30})?')  # neither 'nan' nor 'none' nor '1_000'
TRUTH = {'True': 1.0, 'False': 0.0}
SILENT_S = 5.0  # five diagnostics that did not come: a node that is dead, or hangs
FORGET_S = 3600.0  # a node that was silent for so long was taken away on purpose
MOST_NODES = 100
LABELS = ('namespace', 'node')


@dataclass(frozen=True)
class Metric:
    """
    One metric, and where it comes from.

    :param key: of the diagnostics; empty for what is told of the diagnostics themselves
    :param scale: what makes base units of it
    :param beside: a key that must be there, too: tells nodes apart that use the same key
    :param part: which one, where a value holds several
    """

    name: str
    help: str
    key: str = ''
    scale: float = 1.0
    beside: str = ''
    part: int = 0

    @property
    def counts(self) -> bool:
        """Whether it is a counter."""
        return self.name.endswith('_total')


UP = Metric('etuner_node_up', 'Whether diagnostics of the node came within 5 s')
LEVEL = Metric(
    'etuner_node_level', 'Level of its last diagnostics: 0 OK, 1 WARN, 2 ERROR, 3 STALE'
)
AGE = Metric('etuner_node_diagnostics_age_seconds', 'Since its last diagnostics')
PAIR = 'accuracy before, after'
TABLE = (
    Metric('etuner_problems_total', 'Problems that the node has met', 'problems'),
    Metric('etuner_active', 'Whether a lifecycle node is active', 'active'),
    # camera
    Metric('etuner_pictures_published_total', 'Pictures of the camera', 'pictures published'),
    # inference
    Metric('etuner_frames_total', 'Frames that were predicted', 'frames'),
    Metric('etuner_frames_unreadable_total', 'Frames that could not be read', 'unreadable frames'),
    Metric(
        'etuner_frames_unanswered_total',
        'Frames that came before the model',
        'frames before the model came',
    ),
    Metric('etuner_frame_age_seconds', 'From stamp to arrival', 'frame age ms', 1e-3),
    Metric('etuner_latency_seconds', 'From stamp to answer, last frame', 'latency ms', 1e-3),
    Metric('etuner_inference_seconds', 'In the network, last frame', 'inference ms', 1e-3),
    Metric('etuner_full_pictures_bytes', 'Full pictures in memory', 'full pictures MB', 1e6),
    Metric('etuner_object_images_total', 'Images whose regions were named', 'images with objects'),
    Metric('etuner_regions_late_total', 'Regions whose image was gone', 'regions too late'),
    Metric('etuner_regions_near_total', 'Named in the next image', 'regions in a near image'),
    Metric('etuner_regions_left_out_total', 'Regions that were not named', 'regions left out'),
    Metric('etuner_regions_as_before_total', 'Regions that looked as before', 'regions as before'),
    Metric('etuner_model_version', 'Version that serves', 'model version'),
    Metric('etuner_classes', 'Classes of that version', 'classes'),
    Metric('etuner_swaps_total', 'Versions that were swapped in', 'swaps'),
    Metric('etuner_warming_up', 'Whether an engine is made ready', 'warming up'),
    # tuner
    Metric('etuner_rounds_total', 'Rounds that ended with a verdict, either way', 'rounds'),
    Metric('etuner_rounds_refused_total', 'Rounds that were refused', 'refused', beside='rounds'),
    Metric(
        'etuner_labels_compared',
        'New labels that both networks were asked',
        'labels compared',
    ),
    Metric('etuner_labels_won', 'Right by the live network alone', 'labels won by rounds'),
    Metric('etuner_labels_lost', 'Right by the deployed one alone', 'labels lost by rounds'),
    Metric('etuner_head_updates_total', 'Heads that went live', 'head updates'),
    Metric(
        'etuner_frames_unlabelled_total',
        'Frames without a label that the worker got',
        'frames without a label seen',
    ),
    Metric('etuner_tuning_seconds_total', 'Time that rounds took', 'tuning s'),
    Metric('etuner_last_round_seconds', 'Time that the last round took', 'last round s'),
    Metric('etuner_accuracy_before_ratio', 'Held-back labels, before the last round', PAIR),
    Metric('etuner_accuracy_after_ratio', 'Held-back labels, after the last round', PAIR, part=1),
    Metric(
        'etuner_rounds_energy_joules_total',
        'Energy of all rounds above idle',
        'energy of all rounds J',
    ),
    Metric('etuner_idle_watts', 'Power between rounds', 'idle W'),
    Metric('etuner_temperature_celsius', 'Hottest thermal zone', 'temperature'),
    Metric('etuner_worker_memory_bytes', 'Resident memory of the worker', 'worker MB', 1e6),
    Metric('etuner_batch_size', 'Images in a training batch', 'batch size'),
    Metric('etuner_batches_waiting', 'Labelled batches that wait', 'batches waiting'),
    Metric('etuner_batches_needed', 'Labelled batches for a round', 'batches needed'),
    # label_collector
    Metric('etuner_frames_kept', 'Frames that can be labelled', 'frames kept'),
    Metric('etuner_frames_kept_bytes', 'Memory of those frames', 'frames kept MB', 1e6),
    Metric(
        'etuner_labels_accepted_total',
        'Labels that were stored',
        'labels accepted',
        beside='labels refused',
    ),
    Metric('etuner_labels_refused_total', 'Labels that were refused', 'labels refused'),
    Metric('etuner_labels_waiting', 'Labels that wait for a batch', 'labels waiting for a batch'),
    Metric('etuner_labels_disputed', 'Frames that people disagree about', 'labels disputed'),
    Metric('etuner_pictures_stored_bytes', 'Pictures on the disk', 'pictures stored MB', 1e6),
    # model_manager
    Metric('etuner_live_version', 'Version that was announced', 'live version'),
    Metric('etuner_versions', 'Versions in the store', 'versions'),
    Metric('etuner_versions_pinned', 'Versions that are pinned', 'versions pinned'),
    Metric('etuner_versions_damaged', 'Versions that are damaged', 'versions damaged'),
    Metric(
        'etuner_candidates_accepted_total',
        'Candidates that passed the gate',
        'accepted',
        beside='versions',
    ),
    Metric(
        'etuner_candidates_refused_total',
        'Candidates that the gate refused',
        'refused',
        beside='versions',
    ),
    Metric('etuner_layers_frozen', 'Layers that are frozen', 'layers frozen'),
    Metric('etuner_layers_pinned', 'Layers that are pinned', 'layers pinned'),
)
KEYS = {m.key for m in TABLE} | {m.beside for m in TABLE if m.beside}


def number(text: str, part: int = 0) -> float | None:
    """
    Return the number in a value of the diagnostics, None for anything else.

    >>> number('12.500'), number('True'), number('none'), number('nan'), number('0.8, 0.9', 1)
    (12.5, 1.0, None, None, 0.9)
    """
    pieces = text[:LONGEST_NAME].split(', ')
    piece = pieces[part] if part < len(pieces) else ''
    return TRUTH.get(piece, float(piece) if NUMBER.fullmatch(piece) else None)


@dataclass
class Family:
    """A metric and its values by (namespace, node)."""

    metric: Metric
    values: list[tuple[tuple[str, str], float]] = field(default_factory=list)


@dataclass
class _Heard:
    """The last that a node said."""

    at: float
    level: int
    figures: dict[str, float]


class Metrics:
    """
    Keeps what each node said last; called by the executor and by the threads of the page.

    :param clock: steady, in s
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._nodes: dict[tuple[str, str], _Heard] = {}  # the one heard longest ago first

    def __len__(self) -> int:
        return len(self._nodes)

    def hear(
        self, name: str, hardware_id: str, level: int, values: Iterable[tuple[str, str]]
    ) -> None:
        """Take one status in; what is not of our nodes is left out."""
        found = STATUS_NAME.fullmatch(name) if len(name) <= LONGEST_NAME else None
        if found is None or hardware_id != HARDWARE_ID:
            return
        said = {key: value for key, value in values if key in KEYS}
        figures: dict[str, float] = {}
        for metric in TABLE:
            if metric.beside and metric.beside not in said:
                continue
            value = number(said.get(metric.key, ''), metric.part)
            if value is not None and not (metric.counts and value < 0):
                figures[metric.name] = value * metric.scale
        node = (found[1] or '/', found[2])
        with self._lock:
            self._nodes.pop(node, None)
            self._nodes[node] = _Heard(self._clock(), level, figures)
            # The ones heard longest ago go: one that lives comes back within a second.
            while len(self._nodes) > MOST_NODES:
                del self._nodes[next(iter(self._nodes))]

    def families(self) -> list[Family]:
        """Return all metrics as they are now; of a silent node only that it is."""
        now = self._clock()
        families = {m.name: Family(m) for m in (UP, LEVEL, AGE, *TABLE)}
        with self._lock:
            for node in [n for n, h in self._nodes.items() if now - h.at > FORGET_S]:
                del self._nodes[node]
            for node, heard in self._nodes.items():
                age = max(0.0, now - heard.at)
                alive = age <= SILENT_S
                families[UP.name].values.append((node, float(alive)))
                families[AGE.name].values.append((node, age))
                if alive:
                    families[LEVEL.name].values.append((node, float(heard.level)))
                    for name, value in heard.figures.items():
                        families[name].values.append((node, value))
        return list(families.values())
