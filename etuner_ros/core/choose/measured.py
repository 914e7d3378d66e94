# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What was measured of a candidate, and the file that keeps it: a survey goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from etuner_ros.core.choose.candidates import Candidate
from etuner_ros.core.errors import EtunerError, StoreError

Bools = npt.NDArray[np.bool_]
MOST_DOUBT = 10.0  # nats


@dataclass(frozen=True)
class Measured:
    """
    One candidate on this board and these labels.

    :ivar served: engine and precision that served, such as `onnxruntime-int8`
    :ivar p50_ms: of a prediction, from the resized picture to the scores of the head
    :ivar memory_mb: resident memory that it adds to a process whose libraries are loaded
    :ivar joules: of a prediction, above idle; NaN where there is no meter
    :ivar energy_source: what the joules come from
    :ivar round_s: a round over 32 new labels, as the tuner trains it
    :ivar round_mb: resident memory that a round adds, beside the prediction's
    :ivar accuracy: of the instant head on the labels, each left out once, in [0, 1]
    :ivar right: one bit a picture, hexadecimal, as `packed` makes it
    :ivar doubt: of each picture, minus the logarithm of the probability that the head gives its
        label when it is left out, in hundredths of nats
    """

    candidate: Candidate
    served: str
    p50_ms: float
    p99_ms: float
    memory_mb: float
    joules: float
    energy_source: str
    round_s: float
    round_mb: float
    accuracy: float
    right: str
    doubt: tuple[int, ...]

    @property
    def samples(self) -> int:
        """Number of pictures."""
        return len(self.doubt)

    @property
    def outcomes(self) -> Bools:
        """Which pictures were named right, (samples,)."""
        return unpacked(self.right, self.samples)

    @property
    def mean_doubt(self) -> float:
        """How unlikely the head finds a label on average, in nats; 0 is sure and right."""
        return sum(self.doubt) / (100.0 * len(self.doubt))

    def watts(self, rate_hz: float) -> float:
        """Return the power above idle at so many predictions a second; NaN when unknown."""
        return self.joules * rate_hz

    def to_json(self) -> dict[str, object]:
        """Return it with null where nothing is known, as JSON has no NaN."""
        return {
            k: None if isinstance(v, float) and math.isnan(v) else v
            for k, v in asdict(self).items()
        }

    @staticmethod
    def from_json(raw: dict[str, object]) -> Measured:
        """
        Read what `to_json` gave.

        :raises TypeError, ValueError, KeyError: when it is something else
        """
        known = {k: math.nan if v is None else v for k, v in raw.items()}
        known['candidate'] = Candidate(**raw['candidate'])  # type: ignore[arg-type]
        known['doubt'] = tuple(int(d) for d in raw['doubt'])  # type: ignore[attr-defined]
        found = Measured(**known)  # type: ignore[arg-type]
        numbers = (found.p50_ms, found.p99_ms, found.memory_mb, found.accuracy, found.round_s)
        if not all(isinstance(n, (int, float)) for n in numbers):
            raise TypeError('a figure is not a number')
        unpacked(found.right, found.samples)
        return found


def hundredths(doubt: npt.NDArray[np.float64]) -> tuple[int, ...]:
    """Return nats (n,) in hundredths, at most 10 of them: one wild guess must not decide."""
    return tuple(np.rint(100.0 * np.minimum(doubt, MOST_DOUBT)).astype(int).tolist())


def packed(right: Bools) -> str:
    """Return one bit a sample as hexadecimal digits."""
    return np.packbits(right).tobytes().hex()


def unpacked(text: str, count: int) -> Bools:
    """
    Return what `packed` was given.

    :param count: samples
    :raises ValueError: when the text does not hold as many
    """
    bits = np.frombuffer(bytes.fromhex(text), np.uint8)
    if len(bits) != -(-count // 8):
        raise ValueError('the outcomes are cut short')
    return np.unpackbits(bits, count=count).astype(np.bool_)


def key_of(candidate: Candidate, *circumstances: object) -> str:
    """
    Return what names a measurement.

    :param circumstances: all else that it depends on: data, versions, machine, settings
    """
    named: dict[str, object] = asdict(candidate)
    if candidate.weights:  # the same name may be of other weights by now
        named['sha256'] = _content(Path(candidate.weights))
    text = json.dumps([named, *map(str, circumstances)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _content(file: Path) -> str:
    """Return the SHA-256 of a file; '' of one that can't be read, which measuring it will say."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ''


class MeasurementLog:
    """
    Measurements in a file of JSON lines; each is on the disk before the next begins.

    A line that was cut short or damaged is left out and measured again.

    :ivar damaged: lines that could not be read
    :raises StoreError: when the file can not be read
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        self._found: dict[str, Measured] = {}
        self._whole = True  # the file ends with the end of a line
        try:
            data = path.read_bytes() if path.exists() else b''
        except OSError as error:
            raise StoreError(f'{path} can not be read: {error.strerror or error}') from error
        self._whole = not data or data.endswith(b'\n')
        for line in data.splitlines():
            try:
                raw = json.loads(line)
                self._found[str(raw['key'])] = Measured.from_json(raw['measured'])
            except (ValueError, TypeError, KeyError, AttributeError):
                self.damaged += 1

    def find(self, key: str) -> Measured | None:
        """Return what was measured under a key; None when nothing was."""
        return self._found.get(key)

    def add(self, key: str, measured: Measured) -> None:
        """
        Keep a measurement.

        :raises StoreError: when it can not be written
        """
        line = json.dumps({'key': key, 'measured': measured.to_json()})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open('a') as stream:
                stream.write(('' if self._whole else '\n') + line + '\n')
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise StoreError(
                f'{self.path} can not be written: {error.strerror or error}; give another folder '
                f'with --output'
            ) from error
        self._whole = True
        self._found[key] = measured


@dataclass(frozen=True)
class Failed:
    """A candidate that could not be measured, and why, in one sentence."""

    candidate: Candidate
    reason: str


class Survey:
    """
    Measures candidates one after the other, leaving out what the log has already.

    :param measure: measures one; may raise EtunerError, which fails this candidate only
    :param circumstances: what a measurement depends on beside the candidate
    """

    def __init__(
        self,
        log: MeasurementLog,
        measure: Callable[[Candidate], Measured],
        circumstances: Sequence[object],
    ) -> None:
        self._log, self._measure, self._circumstances = log, measure, tuple(circumstances)

    def run(self, candidates: Sequence[Candidate]) -> Iterator[Measured | Failed]:
        """
        Yield what was found of each candidate, in their order.

        :raises StoreError: when a measurement can not be kept
        """
        for candidate in candidates:
            key = key_of(candidate, *self._circumstances)
            found = self._log.find(key)
            if found is None:
                try:
                    found = self._measure(candidate)
                except EtunerError as error:
                    yield Failed(candidate, str(error))
                    continue
                self._log.add(key, found)
            yield found
