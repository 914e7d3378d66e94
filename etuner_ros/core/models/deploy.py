# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Make a deployed model: a pretrained network with a head fitted to labelled images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from etuner_ros.core.images.codec import encode_jpeg, Image
from etuner_ros.core.models.networks import Classifier


def extract_features(model: Classifier, images: Sequence[Image], batch_size: int = 32) -> Tensor:
    """Return the features (N, D) of RGB uint8 images (S, S, 3) of the network's input size."""
    with torch.inference_mode():
        parts = [
            model.features(model.tensor(images[i : i + batch_size]))
            for i in range(0, len(images), batch_size)
        ]
    return torch.cat(parts).clone()


def fit_head(
    model: Classifier, images: Sequence[Image], labels: Sequence[str], decay: float = 1e-3
) -> float:
    """
    Give the model the classes of `labels` and fit its head by multinomial logistic regression on
    frozen features.

    :param images: RGB uint8 (S, S, 3), of the network's input size
    :param decay: L2 penalty on the weights of standardised features
    :return: accuracy on the images themselves, in [0, 1]
    """
    classes = tuple(sorted(set(labels)))
    target = torch.tensor([classes.index(label) for label in labels])
    features = extract_features(model, images)
    centre, spread = features.mean(dim=0), features.std(dim=0).clamp_min(1e-3).mean()
    rows = (features - centre) / spread
    weight = torch.zeros(len(classes), rows.shape[1], requires_grad=True)
    bias = torch.zeros(len(classes), requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias], lr=1.0, max_iter=200, line_search_fn='strong_wolfe'
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = (
            functional.cross_entropy(rows @ weight.T + bias, target)
            + decay * weight.square().sum()
        )
        loss.backward()
        return loss

    optimiser.step(closure)  # type: ignore[arg-type]
    with torch.no_grad():
        model.head = torch.nn.Linear(rows.shape[1], len(classes))
        model.head.weight.copy_(weight / spread)
        model.head.bias.copy_(bias - weight @ centre / spread)
        model.set_classes(classes)
        return float((model.head(features).argmax(dim=1) == target).float().mean())


def choose_exemplars(
    images: Sequence[Image], labels: Sequence[str], per_class: int = 10
) -> list[tuple[str, bytes]]:
    """Return (label, JPEG) of the first samples of each class, for replay on the robot."""
    chosen: list[tuple[str, bytes]] = []
    counts: dict[str, int] = {}
    for image, label in zip(images, labels):
        counts[label] = counts.get(label, 0) + 1
        if counts[label] <= per_class:
            chosen.append((label, encode_jpeg(image)))
    return chosen
