# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One round of fine-tuning as an iterator over training batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
import math
import zlib

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from etuner_ros.core.config import TrainConfig
from etuner_ros.core.cost import BACKWARD, counted_as, FORWARD, OPTIMISER
from etuner_ros.core.identity import Scenario
from etuner_ros.core.images.codec import Image
from etuner_ros.core.learn.replay import Replay
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.models.networks import Classifier

LEAST_SPAN = 6  # batches


@dataclass(frozen=True)
class Step:
    """One training batch that was done."""

    iteration: int  # counted from 1
    total: int  # planned; equal to `iteration` in the last step, whether planned or stopped early
    loss: float
    trained: tuple[str, ...] = ()  # samples of the batch, new and replayed, by id


def make_optimiser(
    model: Classifier, config: TrainConfig, extra: torch.nn.Module | None = None
) -> torch.optim.Optimizer:
    """
    Return Adam with decoupled weight decay: one step size for the backbone, a larger one for the
    head and for heads that only training has.
    """
    groups = [
        {'params': list(model.backbone.parameters()), 'lr': config.learning_rate},
        {'params': list(model.head.parameters()), 'lr': config.head_learning_rate},
    ]
    if extra is not None:
        groups.append({'params': list(extra.parameters()), 'lr': config.head_learning_rate})
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay)


def precision(config: TrainConfig, device: torch.device) -> AbstractContextManager[object]:
    """
    Return the context that a training forward runs in.

    bfloat16 has the range of float32, so no loss has to be scaled. On CPUs without instructions
    for it it is slower than float32, so it is used on GPUs only.
    """
    if config.mixed_precision and device.type == 'cuda' and torch.cuda.is_bf16_supported():
        return torch.autocast('cuda', torch.bfloat16)
    return nullcontext()


def grow_optimiser(optimiser: torch.optim.Optimizer, model: Classifier) -> None:
    """Hand a head that grew by classes to the optimiser; the moments of the old rows are kept."""
    group = optimiser.param_groups[1]
    for index, (old, new) in enumerate(zip(group['params'], model.head.parameters())):
        state = optimiser.state.pop(old, None)
        if state:
            for key in ('exp_avg', 'exp_avg_sq'):
                grown = torch.zeros_like(new)
                grown[: min(len(old), len(new))] = state[key][: len(new)]
                state[key] = grown
            optimiser.state[new] = state
        group['params'][index] = new


def augment(image: Image, rng: np.random.Generator) -> Image:
    """
    Crop at random (70 to 100 % of the area), flip, and scale brightness and contrast; RGB uint8
    (S, S, 3) in and out.
    """
    size = image.shape[0]
    side = int(round(size * math.sqrt(rng.uniform(0.7, 1.0))))
    top, left = rng.integers(0, size - side + 1, 2)
    image = image[top : top + side, left : left + side]
    if rng.random() < 0.5:
        image = image[:, ::-1]
    if side != size:
        image = np.asarray(
            cv2.resize(np.ascontiguousarray(image), (size, size), interpolation=cv2.INTER_LINEAR),
            np.uint8,
        )
    gain, offset = rng.uniform(0.8, 1.2), rng.uniform(-16, 16)
    return np.asarray(np.clip(image.astype(np.float32) * gain + offset, 0, 255), np.uint8)


def planned_iterations(new_samples: int, config: TrainConfig) -> int:
    """Return the training batches that a round over so many new samples takes."""
    per_batch = max(1, round(config.batch_size * config.new_share))
    return max(1, min(config.max_iterations, math.ceil(config.epochs * new_samples / per_batch)))


def pass_length(new: Sequence[Sample], config: TrainConfig) -> int:
    """Return how many of new samples a pass over them trains on, on average; at least 1."""
    right = sum(s.predicted == s.label for s in new)
    return max(1, round(len(new) - right + config.easy_share * right))


def view(sample: Sample, index: int, seed: int) -> Image:
    """
    Return a view of a sample, the same for the same arguments: 0 is the picture itself, the others
    are augmented.
    """
    if index == 0:
        return sample.image
    key = zlib.crc32(f'{seed}/{index}/{sample.sample_id}'.encode())
    return augment(sample.image, np.random.default_rng(key))


Chosen = list[tuple[Sample, int]]  # samples of a training batch with the view of each


def _has_settled(losses: list[float], span: int, share: float) -> bool:
    """Return whether the mean of the last `span` losses is hardly below that of those before."""
    if share <= 0 or len(losses) < 2 * span:
        return False
    last, before = sum(losses[-span:]), sum(losses[-2 * span : -span])
    return last >= (1.0 - share) * before


def train_round(
    model: Classifier,
    optimiser: torch.optim.Optimizer,
    new: list[Sample],
    replay: Replay,
    current: Collection[Scenario],
    config: TrainConfig,
    rng: np.random.Generator,
    logits: Callable[[Chosen], Tensor],
    extra_loss: Callable[[], Tensor] | None = None,
    as_told: Callable[[Sample], Sample | None] = lambda sample: sample,
) -> Iterator[Step]:
    """
    Train on new samples beside replayed ones; yields after each batch, so the caller can probe,
    report or stop.

    Each batch holds `new_share` of new samples, in shuffled passes, and replayed ones, of which
    `scenario_share` come from the current scenarios and the rest with every class equally likely.
    Blocks in `model.frozen` are not touched. The round ends early when the loss of the new samples
    no longer falls from one pass to the next by `early_stop` of itself.

    :param logits: runs the model on chosen views, with gradient
    :param extra_loss: added to the loss of each batch, for what is learned without labels
    :param as_told: returns a new sample as it was said last, None when it was taken back since;
        when all of them were, the round ends
    """
    index = {label: i for i, label in enumerate(model.classes)}
    fresh = max(1, round(config.batch_size * config.new_share))
    right = [s.predicted == s.label for s in new]
    total = planned_iterations(pass_length(new, config), config)
    # A pass over the new samples; a few batches more where a pass is too short to be compared.
    span = max(math.ceil(len(new) / fresh), LEAST_SPAN)
    rates = [
        config.learning_rate,
        *[config.head_learning_rate] * (len(optimiser.param_groups) - 1),
    ]
    history: list[float] = []
    order: list[int] = []

    def usable(sample: Sample) -> Sample | None:
        now = as_told(sample)
        # A label that came while this round runs has no row yet; the next round has it.
        return now if now is not None and now.label in index else None

    model.train()
    for iteration in range(1, total + 1):
        told: list[Sample] = []
        while not told and any(map(usable, new)):
            while len(order) < fresh:
                order += [
                    i
                    for i in rng.permutation(len(new)).tolist()
                    if not right[i] or config.easy_share >= 1.0 or rng.random() < config.easy_share
                ]
            told = [s for i in order[:fresh] if (s := usable(new[i])) is not None]
            del order[:fresh]
        if not told:  # all was taken back
            if history:
                yield Step(iteration - 1, iteration - 1, history[-1])
            break
        replayed = replay.draw(config.batch_size - fresh, rng, current, config.scenario_share)
        samples = told + [s for s in replayed if s.label in index]
        # Views that are new each time are numbered, and never asked for again.
        views = rng.integers(0, config.views or 2**31, len(samples))
        target = torch.tensor([index[s.label] for s in samples], device=model.head.weight.device)
        with counted_as(FORWARD):
            losses = functional.cross_entropy(
                logits([(s, int(v)) for s, v in zip(samples, views)]), target, reduction='none'
            )
            loss = losses.mean()
            if extra_loss is not None:
                loss = loss + extra_loss()
        for group, rate in zip(optimiser.param_groups, rates):
            group['lr'] = rate * (1.0 - (1.0 - config.final_rate) * (iteration - 1) / total)
        optimiser.zero_grad(set_to_none=True)
        with counted_as(BACKWARD):
            loss.backward()
        with counted_as(OPTIMISER):
            torch.nn.utils.clip_grad_norm_(
                [p for p in model.parameters() if p.grad is not None], config.gradient_clip
            )
            optimiser.step()
        history.append(float(losses[: len(told)].detach().mean()))
        done = iteration == total or _has_settled(history, span, config.early_stop)
        ids = tuple(s.sample_id for s in samples)
        yield Step(iteration, iteration if done else total, float(loss.detach()), ids)
        if done:
            break
    model.eval()
