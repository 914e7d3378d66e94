# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Energy of the board from its own meters: INA3221 and INA238 of a Jetson (the total, else the sum of
its rails, by label), RAPL of a PC, NVML of a GPU; else derived from a known power; else
unavailable, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
from functools import partial
import math
import os
from pathlib import Path
import time
from typing import Protocol

# Rails that hold all others: the input of Nano, TX2, Xavier NX, Orin NX and Nano, and Thor. AGX
# Xavier and AGX Orin have none: there all rails are summed, of which VIN_SYS_5V0 is one.
TOTAL_RAILS = ('VDD_IN', 'VIN', 'POM_5V_IN', 'VDD_TOTAL')
IDLE_MEMORY = 60.0  # s after which an idle power has faded to a third
LONGEST_GAP_S = 5.0  # between two readings of a power, beyond which nothing is known of between
LONGEST_TEXT = 4096  # bytes of a file in sys/


class Meter(Protocol):
    """
    Something that counts energy.

    :ivar gaps: times of which it can't tell what was taken in them; a reading that fails, with
        others shortly before and after it, is none
    """

    source: str
    gaps: int

    def joules(self) -> float:
        """
        Return the energy since the meter was made, in J, but for what was taken in gaps; NaN when
        it can't be read, and behind a gap, once.
        """


def _read(path: Path) -> str:
    """
    Return the text of a file in sys/; nothing where it can't be read now.

    Thermal zones of a Jetson that are switched off (cv0 to cv2 of an Orin) answer EAGAIN, of which
    Python's own files make no OSError, but None where bytes should be.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return os.read(descriptor, LONGEST_TEXT).decode().strip()
        finally:
            os.close(descriptor)
    except (OSError, UnicodeDecodeError):
        return ''


def _number(path: Path) -> float:
    try:
        return float(_read(path))
    except ValueError:
        return math.nan


class PowerMeter:
    """
    Integrates a power over the times at which it is read.

    :param watts: returns the power now, in W; NaN when it can't be read
    """

    def __init__(
        self, source: str, watts: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.source, self._watts, self._clock = source, watts, clock
        self._total, self._last, self._then, self.gaps = 0.0, watts(), clock(), 0

    def joules(self) -> float:
        """Return the energy so far, by the trapezoidal rule."""
        now, power = self._clock(), self._watts()
        if math.isnan(power):
            return math.nan
        gap, before = now - self._then, self._last
        self._last, self._then = power, now
        if math.isnan(before) or not 0 <= gap <= LONGEST_GAP_S:
            self.gaps += 1
            return math.nan
        self._total += gap * 0.5 * (power + before)
        return self._total


class Rapl:
    """Counts the energy of a processor package (Linux powercap), wrap-around included."""

    def __init__(self, folder: Path) -> None:
        self.source = f'RAPL {_read(folder / "name") or folder.name}'
        self._file, self._range = folder / 'energy_uj', _number(folder / 'max_energy_range_uj')
        self._last, self._total, self.gaps = _number(self._file), 0.0, 0

    def joules(self) -> float:
        """Return the energy so far."""
        now = _number(self._file)
        if math.isnan(now):
            return math.nan
        step = now - self._last
        self._last = now
        if step < 0:
            if math.isnan(self._range):  # it wrapped around, nobody knows where
                self.gaps += 1
                return math.nan
            step += self._range
        self._total += step * 1e-6
        return self._total


class Nvml:
    """Counts the energy of one NVIDIA GPU."""

    def __init__(self, handle: object, read: Callable[[object], int], name: str) -> None:
        self.source, self._handle, self._read = f'NVML {name}', handle, read
        self._first, self.gaps = read(handle), 0

    def joules(self) -> float:
        """Return the energy so far."""
        try:
            return 1e-3 * (self._read(self._handle) - self._first)
        except Exception:  # the driver went away
            return math.nan


def _product(scale: float, *files: Path) -> float:
    """Return the product of what these files hold."""
    return scale * math.prod(map(_number, files))


def _hwmon_rails(folder: Path, chip: str) -> Iterator[tuple[str, Callable[[], float]]]:
    """Yield label and power of the rails of a monitor; without a label, the name of the chip."""
    power = folder / 'power1_input'  # in uW, of chips with a single rail
    if power.exists() and not chip.startswith('ina3221'):
        label = _read(folder / 'power1_label') or _read(folder / 'in1_label') or chip
        yield label, partial(_product, 1e-6, power)
        return
    for file in sorted(folder.glob('in*_label')):
        number = file.name[2:-6]
        if number != '7':  # the sum of shunt voltages
            volts, amperes = folder / f'in{number}_input', folder / f'curr{number}_input'
            yield _read(file), partial(_product, 1e-6, volts, amperes)  # mV, mA


def _board_rails(root: Path) -> Iterator[tuple[str, Callable[[], float]]]:
    """Yield label and power in W of every rail that the board's monitors show."""
    for folder in sorted((root / 'sys/class/hwmon').glob('hwmon*')):
        chip = _read(folder / 'name')
        if chip.startswith(('ina3221', 'ina238', 'ina219', 'ina226')):
            yield from _hwmon_rails(folder, chip)
    # JetPack 4 has a driver of its own, in mW.
    for folder in sorted((root / 'sys/bus/i2c/drivers/ina3221x').glob('*/iio:device*')):
        for file in sorted(folder.glob('rail_name_*')):
            power = folder / f'in_power{file.name[10:]}_input'
            yield _read(file), partial(_product, 1e-3, power)


def _board_meter(root: Path) -> PowerMeter | None:
    """
    Find the total of the board, by labels, as numbers differ between boards.

    That is the rail that holds all others, else the rail of a chip that has only one, else the sum
    of all that have a name: Jetsons name those `NC` that are not connected.
    """
    rails = [(label, read) for label, read in _board_rails(root) if not math.isnan(read())]
    by_label = dict(reversed(rails))
    for label in (*TOTAL_RAILS, *(name for name in by_label if name.startswith('ina238'))):
        if label in by_label:
            return PowerMeter(f'INA {label}', by_label[label])
    named = [(n, read) for n, read in rails if n not in ('', 'NC') and not n.startswith('ina')]
    if not named:
        return None
    parts = [read for _, read in named]
    names = ' + '.join(name for name, _ in named)
    return PowerMeter(f'INA {names}', lambda: sum(read() for read in parts))


def _nvml_meter() -> Nvml | None:
    try:
        import pynvml
    except ImportError:
        return None
    with contextlib.suppress(Exception):  # no driver, no such call on this GPU
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        name = str(pynvml.nvmlDeviceGetName(handle))
        return Nvml(handle, pynvml.nvmlDeviceGetTotalEnergyConsumption, name)
    return None


def find_meter(root: Path = Path('/'), assumed_watts: float = 0.0) -> Meter | None:
    """
    Return the best meter of this board.

    :param root: where sys/ lies; another one in tests
    :param assumed_watts: power of a busy core above idle, for an estimate where there is no meter;
        0 = none
    :return: None when nothing is known: energy is then unavailable
    """
    board = _board_meter(root)
    if board is not None:
        return board
    for folder in sorted((root / 'sys/class/powercap').glob('intel-rapl:?')):
        if not math.isnan(_number(folder / 'energy_uj')):  # since 2020 only root may read it
            return Rapl(folder)
    gpu = _nvml_meter() if root == Path('/') else None
    if gpu is not None:
        return gpu
    return Derived(assumed_watts) if assumed_watts > 0 else None


class Derived:
    """No meter: an estimate from the time that rounds take, and marked so."""

    def __init__(self, watts: float) -> None:
        self.watts, self.source, self.gaps = watts, f'derived from {watts:g} W', 0

    def joules(self) -> float:
        """Nothing is measured."""
        return math.nan


def temperature(root: Path = Path('/')) -> float:
    """
    Return the hottest thermal zone, in degrees Celsius; NaN where there is none.

    Zones of a power chip (PMIC-Die of Nano, TX2 and Xavier NX) are left out: they say 100 degrees
    at all times.
    """
    zones = (root / 'sys/class/thermal').glob('thermal_zone*')
    read = (_number(z / 'temp') for z in zones if not _read(z / 'type').startswith('PMIC'))
    return max((t / 1e3 for t in read if t > 0), default=math.nan)  # NaN is not above 0


class EnergyLog:
    """
    Energy of rounds above idle.

    Idle power is what the board takes between rounds: inference, camera and all; it fades with a
    minute.

    :ivar last_j: of the last round; NaN when it is not known
    :ivar total_j: of all rounds whose energy is known; NaN when there was none
    """

    def __init__(self, meter: Meter | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._meter, self._clock = meter, clock
        self.idle_watts = math.nan
        self.last_j = math.nan
        self.total_j = math.nan
        # The last reading: when, J, and how many gaps there had been.
        self._read = (clock(), math.nan, 0)
        self._round: tuple[float, float, int] | None = None  # the one that a round began with
        self.tick()

    @property
    def source(self) -> str:
        """What the figures come from."""
        return self._meter.source if self._meter else 'unavailable'

    def tick(self) -> None:
        """Read the meter; call it a few times a second."""
        if self._meter is None:
            return
        now, joules, gaps = self._clock(), self._meter.joules(), self._meter.gaps
        if math.isnan(joules):  # the next one tells of this time, too, unless it is a gap
            return
        then, before, gaps_then = self._read
        known = now > then and gaps == gaps_then and not math.isnan(before)
        if self._round is None and known:
            watts, since = (joules - before) / (now - then), now - then
            keep = math.exp(-since / IDLE_MEMORY) if not math.isnan(self.idle_watts) else 0.0
            self.idle_watts = keep * (0.0 if keep == 0 else self.idle_watts) + (1 - keep) * watts
        self._read = now, joules, gaps

    def begin(self) -> None:
        """A round starts."""
        self.tick()
        self._round = self._read

    def end(self, seconds: float) -> float:
        """
        A round has ended.

        :param seconds: that it worked, for an estimate without a meter; of one that came to no
            candidate, the time from its start until it was over
        :return: J above idle; NaN when nothing is known
        """
        if self._round is None:
            return math.nan
        self.tick()
        (then, before, gaps), self._round = self._round, None
        at, joules, _ = self._read
        unread = self._clock() - at > LONGEST_GAP_S  # at its end
        if isinstance(self._meter, Derived):
            spent = self._meter.watts * seconds
        elif self._meter is None or self._meter.gaps != gaps or unread:
            spent = math.nan
        else:
            spent = joules - before - self.idle_watts * (at - then)
        spent = max(spent, 0.0) if not math.isnan(spent) else math.nan
        self.last_j = spent
        if not math.isnan(spent):
            self.total_j = spent + (0.0 if math.isnan(self.total_j) else self.total_j)
        return spent
