# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A network with one set of weights, ready to look at pictures: by onnxruntime or by torch."""

from __future__ import annotations

from collections.abc import Sequence
import threading
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from etuner_ros.core.errors import EngineError
from etuner_ros.core.images.codec import Image
from etuner_ros.core.models.weights import ModelSpec, State

Floats = npt.NDArray[np.float32]


class Network(Protocol):
    """A backbone that serves; the head is no part of it, so an update of the head touches none."""

    name: str  # engine and precision, such as 'onnxruntime-int8'
    quantised: bool

    def look(self, images: Sequence[Image]) -> tuple[Floats, Floats]:
        """
        Look at RGB uint8 images (S, S, 3) of the network's input size.

        :return: features (n, D) and appearance (n, 2A), see `Classifier.examine`
        :raises EngineError: when the engine fails
        """


class OnnxSession:
    """
    A session of onnxruntime over normalised pictures (n, S, S, 3).

    :param graph: ONNX bytes
    :param providers: as onnxruntime takes them, the best first
    :raises EngineError: when no session can be made
    """

    def __init__(
        self,
        graph: bytes,
        spec: ModelSpec,
        threads: int = 1,
        providers: Sequence[Any] = ('CPUExecutionProvider',),
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        # Threads that wait for work in a loop take the processor from the tuner.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        try:
            # Without its own fallback, of which nobody would hear: see `Engines`.
            self._session = onnxruntime.InferenceSession(
                graph, options, providers=list(providers), enable_fallback=0
            )
        except Exception as error:  # onnxruntime raises many kinds
            raise EngineError(f'onnxruntime does not take the graph: {_short(error)}') from error
        first = providers[0] if isinstance(providers[0], str) else providers[0][0]
        if self._session.get_providers()[0] != first:
            raise EngineError(
                f'onnxruntime lists {first} but can not load it; it would use '
                f'{self._session.get_providers()[0]}'
            )
        codes = np.arange(256, dtype=np.float32)[:, None]
        mean, std = (np.array(v, np.float32) for v in (spec.mean, spec.std))
        self._table = np.ascontiguousarray(((codes / 255.0 - mean) / std)[None], np.float32)

    def run(self, images: Sequence[Image]) -> list[Floats]:
        """
        Return the outputs for RGB uint8 images (S, S, 3).

        :raises EngineError: when onnxruntime fails
        """
        # By a table: each value is one of 256, and OpenCV looks them up without Python's lock.
        pictures = np.stack([cv2.LUT(image, self._table) for image in images])
        try:
            outputs: list[Floats] = self._session.run(None, {'pictures': pictures})
        except Exception as error:
            raise EngineError(f'onnxruntime failed: {_short(error)}') from error
        return outputs


class OnnxNetwork:
    """
    A network of onnxruntime.

    :param graph: ONNX bytes: pictures to features and appearance
    :raises EngineError: when no session can be made
    """

    def __init__(
        self,
        name: str,
        graph: bytes,
        spec: ModelSpec,
        quantised: bool,
        threads: int = 1,
        providers: Sequence[Any] = ('CPUExecutionProvider',),
    ) -> None:
        self.name, self.quantised = name, quantised
        self._session = OnnxSession(graph, spec, threads, providers)

    def look(self, images: Sequence[Image]) -> tuple[Floats, Floats]:
        """Look at images; see `Network`."""
        features, appearance = self._session.run(images)
        return features, appearance


def _short(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


class TorchNetwork:
    """
    A network of torch, whose weights can be written over in place.

    :param half: compute in float16, for CUDA
    :param threads: CPU threads of all of torch in this process; 0 leaves them as they are
    """

    quantised = False

    def __init__(
        self, spec: ModelSpec, state: State, device: str, half: bool = False, threads: int = 0
    ) -> None:
        import torch

        from etuner_ros.core.models.networks import build, Classifier

        self.name = 'torch-fp16' if half else 'torch-fp32'
        self._device, self._half = torch.device(device), half
        self._looking = threading.Lock()  # the middle block's output is taken by a hook
        if threads:
            torch.set_num_threads(threads)
        bare = ModelSpec(spec.architecture, spec.input_size, (), spec.mean, spec.std)
        self._model: Classifier = build(bare).to(self._device).eval()
        # As the tensors lie, so they stay: they are filled in place.
        self._model.channels_last()
        self.load(state)

    def load(self, state: State) -> None:
        """
        Take other weights; nothing is built or allocated, which would hold Python's lock.

        :param state: all tensors of the network; those of the head are left out
        """
        import torch

        own = self._model.state_dict()
        with torch.inference_mode():
            for name, tensor in own.items():
                if not name.startswith('head.'):
                    value = np.asarray(state[name])
                    if not value.flags.writeable:
                        value = value.copy()
                    tensor.copy_(torch.from_numpy(value))

    def look(self, images: Sequence[Image]) -> tuple[Floats, Floats]:
        """Look at images; see `Network`."""
        import torch

        cast = torch.autocast(self._device.type, torch.float16, enabled=self._half)
        try:
            batch = self._model.tensor(images).contiguous(memory_format=torch.channels_last)
            with self._looking, cast:
                _, features, appearance = self._model.examine(batch)
            return features.float().cpu().numpy(), appearance.float().cpu().numpy()
        except RuntimeError as error:  # as where a GPU has no memory left
            raise EngineError(f'torch failed: {_short(error)}') from error
