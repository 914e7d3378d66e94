# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Settings of the core as checked, frozen dataclasses.

Each field carries its help text, unit and bounds; the nodes declare their ROS parameters from
here, so a default stands in one place only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from etuner_ros.core.errors import ConfigError

INPUT_SIZE = 160  # side of the network's square input, in px: the one default, see docs/engine.md


def setting(
    default: Any,
    text: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Return a dataclass field with its description and its closed bounds or its choices."""
    metadata = {'help': text, 'min': low, 'max': high, 'choices': choices}
    return field(default=default, metadata=metadata)


class Checked:
    """Mixin: refuses values outside the bounds or the choices of their field."""

    def __post_init__(self) -> None:
        """
        Check every field.

        :raises ConfigError: naming the field, what it allows and the value it got
        """
        for item in fields(self):  # type: ignore[arg-type]
            value, low, high = (
                getattr(self, item.name),
                item.metadata.get('min'),
                item.metadata.get('max'),
            )
            choices = item.metadata.get('choices', ())
            if choices and value not in choices:
                allowed = ', '.join(repr(c) for c in choices)
                raise ConfigError(f'{item.name} must be one of {allowed}, got {value!r}')
            if low is None and high is None:
                continue
            if (
                not isinstance(value, (int, float))
                or value != value
                or (low is not None and value < low)
                or (high is not None and value > high)
            ):
                bounds = f'between {low} and {high}' if high is not None else f'at least {low}'
                raise ConfigError(f'{item.name} must be {bounds}, got {value!r}')


@dataclass(frozen=True)
class LazyTuneConfig(Checked):
    """
    When to tune: LazyTune, arXiv 2401.16694 section "inter-tuning"; the exact rules are ours.
    """

    enabled: bool = setting(
        True,
        'merge rounds lazily; false starts a round on every labelled batch (the "immediate" '
        'baseline)',
    )
    min_batches: int = setting(
        1,
        'fewest batches that the progress of rounds makes one wait for; 1 = the paper. More where '
        'the instant head answers corrections at once. Requests go below, and with an economy '
        'of 0 a change of scenario and a new class, too',
        1,
        1000,
    )
    max_batches: int = setting(4, 'most batches that one round waits for', 1, 1000)
    economy: float = setting(
        0.0,
        'what rounds may cost: 0 = whenever LazyTune says so; more = a first one as a trial, then '
        'only while they win labels that the deployed network with the instant head gets wrong, '
        'in proportion to what a round takes',
        0.0,
        1.0,
    )
    gain_share: float = setting(
        0.5, 'target gain of the next round as a share of the last one', 0.0, 10.0
    )
    gain_floor: float = setting(
        0.01, 'least target gain, as a fraction of 1 (0.01 = one point of accuracy)', 1e-6, 1.0
    )
    request_decay: float = setting(
        0.3,
        'how much the r requests served since the last round lower the batches needed, by the '
        'factor (1 + r / 1000) ** -request_decay: 0.81 for 1,000, 0.49 for 10,000, 0.25 for '
        '100,000; 0 = not at all',
        0.0,
        10.0,
    )


@dataclass(frozen=True)
class SimFreezeConfig(Checked):
    """
    Which layers to train: SimFreeze, arXiv 2401.16694 section "intra-tuning"; 1 % is the paper's,
    the rest is ours.
    """

    enabled: bool = setting(True, 'freeze layers whose representation has settled')
    threshold: float = setting(
        0.01, 'largest move of CKA between two probes that counts as stable', 0.0, 1.0
    )
    relative_move: float = setting(
        0.1,
        'and as a share of the largest move of any block in this scenario; 1 = the paper, which '
        'does not look at it',
        0.0,
        1.0,
    )
    freeze_interval: int = setting(8, 'training iterations between two probes', 1, 100000)
    patience: int = setting(2, 'probes in a row that must be stable', 1, 100)
    min_iterations: int = setting(
        16, 'training iterations in a scenario before anything is frozen', 0, 1000000
    )
    probe_size: int = setting(32, 'images in the probe batch', 8, 1024)
    max_frozen_share: float = setting(
        0.6, 'largest share of the blocks that may be frozen, counted from the input', 0.0, 1.0
    )
    start_frozen_share: float = setting(
        0.0,
        'share of the blocks, from the input on, that is frozen from the start: what thousands of '
        'classes have taught need not be learned again; thaws by the same rule',
        0.0,
        1.0,
    )
    first_frozen_share: float = setting(
        0.3, 'that share before the first version that was trained here is live', 0.0, 1.0
    )
    max_new: int = setting(3, 'most blocks that freeze at one probe, the foremost first', 1, 10000)
    debiased: bool = setting(False, 'use the debiased HSIC estimator (probe_size of 64 and more)')


@dataclass(frozen=True)
class TrainConfig(Checked):
    """One round of fine-tuning."""

    learning_rate: float = setting(2e-4, 'Adam step size of the backbone', 1e-8, 1.0)
    head_learning_rate: float = setting(
        2e-3, 'Adam step size of the classification head', 1e-8, 1.0
    )
    final_rate: float = setting(
        1.0, 'share of the step size that a round falls to, evenly; 1 = constant', 0.0, 1.0
    )
    batch_size: int = setting(
        16, 'images in one training batch, new and replayed together', 2, 4096
    )
    new_share: float = setting(
        0.5, 'share of each training batch that is drawn from the new samples', 0.05, 1.0
    )
    scenario_share: float = setting(
        0.5, 'share of the replayed samples that is drawn from the current scenario', 0.0, 1.0
    )
    epochs: float = setting(8.0, 'passes over the new samples in one round', 0.1, 1000.0)
    easy_share: float = setting(
        1.0,
        'share of the new samples that were predicted right that each pass trains on; those '
        'predicted wrong are trained on in every pass',
        0.01,
        1.0,
    )
    max_iterations: int = setting(48, 'most training batches in one round', 1, 1000000)
    early_stop: float = setting(
        0.05,
        'a round ends when a pass lowers the loss of its new samples by less than this share; 0 '
        '= never early',
        0.0,
        1.0,
    )
    weight_decay: float = setting(1e-4, 'decoupled weight decay', 0.0, 1.0)
    gradient_clip: float = setting(5.0, 'largest norm of the gradient', 1e-3, 1e6)
    views: int = setting(
        4,
        'views of each sample that are trained on: the picture itself and random crops with flip '
        'and brightness, each computed once; 1 = the picture only, 0 = new ones each time, which '
        'no activation cache can keep',
        0,
        1000,
    )
    flip: bool = setting(
        False, 'mirror what samples start from, images or cached activations, half of the time'
    )
    batchnorm_statistics: bool = setting(
        False, 'let BatchNorm update its running statistics while training'
    )
    validation_share: float = setting(
        0.1, 'share of the labelled samples that is held back for validation', 0.0, 0.5
    )
    unlabelled_weight: float = setting(
        0.0,
        'weight of the SimSiam loss on frames that nobody labelled, beside that of labels; 0 = '
        'off',
        0.0,
        100.0,
    )
    unlabelled_frames: int = setting(
        300,
        'most frames without a label that are kept to learn from, evenly from all scenarios',
        2,
        100000,
    )
    replay_mb: float = setting(64.0, 'memory for replayed images (encoded), in MB', 1.0, 1e6)
    cache_mb: float = setting(
        256.0, 'memory for activations behind the frozen layers, in MB; 0 = no cache', 0.0, 1e6
    )
    cache_precision: str = setting(
        'float16',
        "'float32' is exact; 'float16' and 'uint8' take a half and a quarter of it",
        choices=('float32', 'float16', 'uint8'),
    )
    device: str = setting('auto', "'auto' takes CUDA where there is one; 'cpu', 'cuda', 'cuda:1'")
    mixed_precision: bool = setting(
        True, 'train in bfloat16 where the device is a GPU that has it; never on a CPU'
    )
    threads: int = setting(1, 'CPU threads of the training process', 1, 256)
    niceness: int = setting(
        10, 'niceness of the training process (0 = as important as the rest)', 0, 19
    )
    seed: int = setting(0, 'seed of batch order and augmentation', 0, 2**31 - 1)


@dataclass(frozen=True)
class HeadConfig(Checked):
    """The instant head: ridge regression on the features of the live backbone."""

    enabled: bool = setting(
        True, 'serve the instant head; false serves the head that rounds train by gradient'
    )
    ridge: float = setting(
        1.0,
        'penalty on weights, in mean feature variances times classes; with choose_ridge where the '
        'choice begins',
        1e-4,
        1e6,
    )
    choose_ridge: bool = setting(
        True,
        'choose that penalty by leave-one-out, once there are twelve labels a class: less the '
        'more labels there are',
    )
    balance: float = setting(
        1.0, 'weight of a sample is its class count to the power of minus this', 0.0, 1.0
    )
    within_class: bool = setting(
        True,
        'count less what pictures of one kind differ in (light, place, side), as learned from '
        'other kinds; for networks that the package has that of: efficientnet_lite0',
    )
    prior: float = setting(
        0.0,
        'how much it counts what is likely here and now, by labels, as far as frames that nobody '
        'labelled bear them out: exponent of the share of a class; 0 = all equally likely',
        0.0,
        2.0,
    )
    prior_memory: float = setting(
        64.0, 'labels after which what was labelled has faded to a third', 1.0, 1e6
    )
    unlabelled_weight: float = setting(
        0.5,
        'weight of a frame that nobody labelled, as what the head takes it for, beside 1 of a '
        'label; 0 = they are not learned from',
        0.0,
        10.0,
    )
    interval_s: float = setting(1.0, 'least time between two updates of the head, in s', 0.0, 1e6)
    max_samples: int = setting(
        1000, 'most samples that the head is rebuilt from after a round', 10, 1000000
    )


@dataclass(frozen=True)
class ScenarioConfig(Checked):
    """Scenario change detection from the appearance of inference requests."""

    warm_up: int = setting(
        40, 'requests that describe a new scenario before anything is declared', 5, 100000
    )
    memory: int = setting(
        1000, 'requests after which the description of a scenario fades', 10, 1000000
    )
    window: int = setting(24, 'recent requests that are compared with the scenario', 4, 10000)
    threshold: float = setting(
        2.6, 'score over which a change is suspected; it is near 1 within a scenario', 1.0, 1000.0
    )
    patience: int = setting(4, 'requests in a row over the threshold', 1, 1000)


@dataclass(frozen=True)
class GateConfig(Checked):
    """Whether a candidate may go live."""

    enabled: bool = setting(True, 'false lets every intact candidate go live')
    significance: float = setting(
        0.05,
        'one-sided level of the exact McNemar test that refuses a candidate that is worse than '
        'the live weights, or below them and worse than the best version so far',
        1e-6,
        0.5,
    )
    few_samples: int = setting(
        30, 'below this many validation samples few_significance holds instead', 0, 100000
    )
    few_significance: float = setting(
        0.2, 'level of the test with few samples, where it seldom finds anything', 1e-6, 0.5
    )
    very_few_samples: int = setting(
        12, 'below this many validation samples the mean must not drop either', 0, 100000
    )
    tolerated_drop: float = setting(
        0.0, 'drop of the mean that is tolerated with very few samples, as a fraction', 0.0, 1.0
    )


@dataclass(frozen=True)
class BudgetConfig(Checked):
    """How much tuning the robot can afford."""

    seconds_per_hour: float = setting(
        0.0, 'time that rounds may take in an hour, in s; 0 = no limit', 0.0, 3600.0
    )
    joules_per_hour: float = setting(
        0.0,
        'energy above idle that rounds may take in an hour, in J; counts where there is a meter; '
        '0 = no limit',
        0.0,
        1e9,
    )
    min_battery: float = setting(0.0, 'charge below which no round starts, in [0, 1]', 0.0, 1.0)
    battery_margin: float = setting(0.05, 'charge above that before rounds start again', 0.0, 1.0)
    max_temperature: float = setting(
        1000.0, 'temperature above which no round starts, in degrees Celsius', -50.0, 1000.0
    )
    temperature_margin: float = setting(
        5.0, 'degrees Celsius below that before rounds start again', 0.0, 100.0
    )


@dataclass(frozen=True)
class LabelValueConfig(Checked):
    """Which frames are worth a label."""

    count: int = setting(32, 'most frames that are asked about in one scene', 1, 10000)
    sample: int = setting(200, 'frames of the scene that are kept to choose from', 2, 10000)
    memory: int = setting(500, 'labelled frames whose features are kept', 1, 100000)
    reach: float = setting(
        0.3,
        'how far a label speaks for others: similarity falls to a third when the cosine of two '
        'features is less by this',
        0.01,
        10.0,
    )
    enough: float = setting(
        0.9,
        'share up to which labels must speak for a scene, of how its own frames speak for each '
        'other, before it counts as known; then only what is worth it is asked about',
        0.0,
        10.0,
    )
    worth: float = setting(
        0.015,
        'share of a known scene that a request must speak for; 0 asks always. The k-th request '
        'needs a k-th of it',
        0.0,
        1.0,
    )
