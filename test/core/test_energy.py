# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Meters on a fake sysfs of the real layout; energy above idle; nothing known is not 0."""

from __future__ import annotations

from functools import partial
import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from etuner_ros.bench import variant_table
from etuner_ros.core.choose import measure
from etuner_ros.core.decide import energy
from etuner_ros.core.decide.energy import (
    Derived,
    EnergyLog,
    find_meter,
    Meter,
    PowerMeter,
    temperature,
)


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f'{value}\n')


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the time of the power meters that are found."""
    clock = Clock()
    monkeypatch.setattr(energy, 'PowerMeter', partial(PowerMeter, clock=clock))
    return clock


def watts(meter: Meter | None, clock: Clock) -> float:
    """Return what a meter counts in a second."""
    assert meter is not None
    before = meter.joules()
    clock.now += 1.0
    return meter.joules() - before


def test_the_total_rail_of_an_orin_is_found_by_its_label(tmp_path, clock):
    hwmon = tmp_path / 'sys/class/hwmon'
    write(hwmon / 'hwmon0', name='nvme', in1_label='VDD_IN', in1_input=1, curr1_input=1)
    write(
        hwmon / 'hwmon3',
        name='ina3221',
        in1_label='VDD_CPU_GPU_CV',
        in1_input=19000,
        curr1_input=300,
        in2_label='VDD_IN',
        in2_input=19000,
        curr2_input=500,
        in7_label='sum of shunt voltages',
        in7_input=5,
    )
    meter = find_meter(tmp_path)
    assert meter.source == 'INA VDD_IN'
    assert isinstance(meter, PowerMeter)
    assert watts(meter, clock) == pytest.approx(9.5)


ORIN_AGX = (  # two monitors of three rails each: label, mV, mA
    (('VDD_GPU_SOC', 20000, 800), ('VDD_CPU_CV', 20000, 600), ('VIN_SYS_5V0', 5000, 900)),
    (('NC', 5000, 1000), ('VDDQ_VDD2_1V8AO', 20000, 455), ('', 5000, 1000)),
)


def orin_agx(root: Path) -> Path:
    """Make the sysfs of an AGX Orin on JetPack 5 and 6."""
    for chip, rails in enumerate(ORIN_AGX):
        folder = root / f'sys/class/hwmon/hwmon{3 + chip}'
        write(
            folder, name='ina3221', in7_label='sum of shunt voltages', in7_input=9, curr7_input=9
        )
        for i, (label, volts, amperes) in enumerate(rails, 1):
            files = {f'in{i}_label': label, f'in{i}_input': volts, f'curr{i}_input': amperes}
            write(folder, **files)
    return root


def test_the_rails_of_an_agx_orin_are_summed_as_it_has_none_that_holds_all(tmp_path, clock):
    meter = find_meter(orin_agx(tmp_path))
    assert meter.source == 'INA VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0 + VDDQ_VDD2_1V8AO'
    assert watts(meter, clock) == pytest.approx(16.0 + 12.0 + 4.5 + 9.1)
    (tmp_path / 'sys/class/hwmon/hwmon4/curr2_input').unlink()
    assert math.isnan(watts(meter, clock)), 'a sum without one of its rails is not known'


def test_rails_are_not_counted_again_where_one_holds_all(tmp_path, clock):
    total = {'in1_label': 'VDD_IN', 'in1_input': 19000, 'curr1_input': 2500}
    write(orin_agx(tmp_path) / 'sys/class/hwmon/hwmon9', name='ina3221', **total)
    meter = find_meter(tmp_path)
    assert meter.source == 'INA VDD_IN'
    assert watts(meter, clock) == pytest.approx(47.5)


def test_a_thor_has_its_total_on_an_ina238(tmp_path, clock):
    single = {'in1_label': 'VIN', 'in1_input': 20000, 'curr1_input': 3000}
    folder = orin_agx(tmp_path) / 'sys/class/hwmon/hwmon9'
    write(folder, name='ina238', power1_input=60_000_000, **single)
    meter = find_meter(tmp_path)
    assert meter.source == 'INA VIN'
    assert watts(meter, clock) == pytest.approx(60.0)


def jetpack_4(root: Path, *monitors: tuple[tuple[str, int], ...]) -> Path:
    """Make the sysfs of JetPack 4: a driver of its own, power in mW."""
    for chip, rails in enumerate(monitors):
        folder = root / f'sys/bus/i2c/drivers/ina3221x/1-004{chip}/iio:device{chip}'
        for i, (label, power) in enumerate(rails):
            write(folder, **{f'rail_name_{i}': label, f'in_power{i}_input': power})
    return root


def test_an_agx_xavier_on_jetpack_4_sums_its_rails_and_an_nx_has_its_total(tmp_path, clock):
    agx = jetpack_4(
        tmp_path / 'agx',
        (('GPU', 2000), ('CPU', 3000), ('SOC', 1500)),
        (('CV', 0), ('VDDRQ', 800), ('SYS5V', 2200)),
    )
    meter = find_meter(agx)
    assert meter.source == 'INA GPU + CPU + SOC + CV + VDDRQ + SYS5V'
    assert watts(meter, clock) == pytest.approx(9.5)
    nx = jetpack_4(tmp_path / 'nx', (('VDD_IN', 5000), ('VDD_CPU_GPU_CV', 1500), ('VDD_SOC', 900)))
    assert find_meter(nx).source == 'INA VDD_IN'
    assert watts(find_meter(nx), clock) == pytest.approx(5.0)


def test_an_ina238_gives_power_in_microwatts(tmp_path, clock):
    write(tmp_path / 'sys/class/hwmon/hwmon2', name='ina238', power1_input=42_000_000)
    meter = find_meter(tmp_path)
    assert meter.source.startswith('INA ina238')
    assert watts(meter, clock) == pytest.approx(42.0)


def test_rapl_counts_over_its_wrap_around(tmp_path):
    zone = tmp_path / 'sys/class/powercap/intel-rapl:0'
    write(zone, name='package-0', energy_uj=990_000, max_energy_range_uj=1_000_000)
    meter = find_meter(tmp_path)
    assert meter.source == 'RAPL package-0'
    write(zone, energy_uj=10_000)
    assert meter.joules() == pytest.approx(0.02)
    (zone / 'energy_uj').unlink()
    assert math.isnan(meter.joules())
    write(zone, energy_uj=5_000, max_energy_range_uj='?')
    meter = find_meter(tmp_path)
    write(zone, energy_uj=1_000)
    assert math.isnan(meter.joules()), 'it wrapped around, nobody knows where'


def test_a_power_is_integrated_and_gaps_are_not_made_up(tmp_path):
    clock, watts = Clock(), [10.0]
    meter = PowerMeter('x', lambda: watts[0], clock)
    clock.now += 1.0
    watts[0] = 20.0
    assert meter.joules() == pytest.approx(15.0)
    clock.now += 100.0
    assert math.isnan(meter.joules()), 'nothing is known of between'
    clock.now += 1.0
    assert meter.joules() == pytest.approx(35.0), 'it counts on after the gap'
    watts[0] = math.nan
    assert math.isnan(meter.joules())


def test_a_gap_is_not_idle_and_a_round_over_one_is_not_known():
    clock, watts = Clock(), [5.0]
    log = EnergyLog(PowerMeter('x', lambda: watts[0], clock), clock)

    def pass_time(seconds: float, step: float = 0.5) -> None:
        for _ in range(int(seconds / step)):
            clock.now += step
            log.tick()

    pass_time(10.0)
    for _ in range(5):
        pass_time(1.0)
        pass_time(20.0, step=20.0)
    assert log.idle_watts == pytest.approx(5.0)
    pass_time(1.0)
    log.begin()
    watts[0] = 9.0
    pass_time(3.0)
    pass_time(20.0, step=20.0)
    pass_time(3.0)
    assert math.isnan(log.end(26.0)), 'what it took in the gap is not known'
    assert math.isnan(log.last_j)
    assert math.isnan(log.total_j)
    log.begin()
    pass_time(10.0)
    assert log.end(10.0) == pytest.approx(40.0, rel=0.05), 'the next round is'


def test_a_reading_that_fails_in_a_round_is_bridged():
    """Rails on I2C do not answer now and then."""
    clock, watts = Clock(), [5.0]
    log = EnergyLog(PowerMeter('x', lambda: watts[0], clock), clock)

    def read(power: float) -> None:
        clock.now += 0.5
        watts[0] = power
        log.tick()

    for _ in range(20):
        read(5.0)
    read(math.nan)
    read(5.0)
    assert log.idle_watts == pytest.approx(5.0)
    log.begin()
    for power in (9.0, 9.0, math.nan, 9.0, math.nan, math.nan, 9.0, 9.0):
        read(power)
    assert log.end(4.0) == pytest.approx(4.0 * 4.0, rel=0.1)


def test_a_round_in_which_the_board_took_less_than_idle_gives_no_energy_back() -> None:
    clock, watts = Clock(), [5.0]
    log = EnergyLog(PowerMeter('x', lambda: watts[0], clock), clock)

    def pass_round(power: float) -> float:
        watts[0] = 5.0
        for _ in range(20):
            clock.now += 0.5
            log.tick()
        log.begin()
        watts[0] = power
        for _ in range(20):
            clock.now += 0.5
            log.tick()
        return log.end(10.0)

    spent = pass_round(9.0)
    assert spent > 0.0
    assert pass_round(3.0) == 0.0, 'the camera was switched off meanwhile'
    assert log.total_j == spent


@pytest.mark.parametrize('read', [0.0, 10.0])
def test_a_meter_that_is_gone_at_the_end_of_a_round_has_no_figure_for_it(read):
    clock, watts = Clock(), [5.0]
    log = EnergyLog(PowerMeter('x', lambda: watts[0], clock), clock)

    def pass_time(seconds: float) -> None:
        for _ in range(int(2 * seconds)):
            clock.now += 0.5
            log.tick()

    pass_time(10.0)
    log.begin()
    pass_time(read)
    watts[0] = math.nan
    pass_time(20.0)
    assert math.isnan(log.end(read + 20.0)), 'not 0 J'


class Stand:
    """A network whose predictions take a while, and 4 W more than rest."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds, self.until = clock, seconds, -math.inf

    def watts(self) -> float:
        return 9.0 if self.clock.now <= self.until else 5.0

    def look(self, images: object) -> tuple[np.ndarray, np.ndarray]:
        self.clock.now += self.seconds
        self.until = self.clock.now
        return np.ones((1, 4), np.float32), np.ones((1, 2), np.float32)


@pytest.mark.parametrize(('seconds', 'expected'), [(0.05, 0.2), (6.0, math.nan)])
def test_a_prediction_is_metered_by_many_readings_or_is_not_known(monkeypatch, seconds, expected):
    clock = Clock()
    stand = Stand(clock, seconds)
    meter = PowerMeter('x', stand.watts, clock)

    def sleep(given: float) -> None:
        clock.now += given

    monkeypatch.setattr(variant_table, 'find_meter', lambda: meter)
    monkeypatch.setattr(variant_table, 'time', SimpleNamespace(sleep=sleep, monotonic=clock))
    found = variant_table.joules(stand, 8, [np.zeros((8, 8, 3), np.uint8)])
    assert found == (None if math.isnan(expected) else pytest.approx(expected, rel=0.05))
    stand.until = -math.inf
    monkeypatch.setattr(measure.time, 'sleep', sleep)
    monkeypatch.setattr(measure, 'LEAST_PREDICTIONS', 20)
    examples = [np.zeros((8, 8, 3), np.uint8)]
    _, spent = measure._predict(stand, examples, np.ones((4, 2), np.float32), meter, clock)
    assert spent == pytest.approx(expected, rel=0.05, nan_ok=True)


def test_a_round_is_charged_above_idle():
    clock, watts = Clock(), [5.0]
    log = EnergyLog(PowerMeter('x', lambda: watts[0], clock), clock)

    def pass_time(seconds: float) -> None:
        for _ in range(int(seconds * 2)):
            clock.now += 0.5
            log.tick()

    pass_time(30.0)
    assert log.idle_watts == pytest.approx(5.0)
    log.begin()
    watts[0] = 9.0
    pass_time(10.0)
    assert log.end(10.0) == pytest.approx(40.0, rel=0.05)
    assert log.idle_watts == pytest.approx(5.0), 'a round is not idle'
    assert log.total_j == log.last_j
    assert log.source == 'x'
    log.begin()
    log.end(0.0)  # cancelled
    watts[0] = 7.0
    pass_time(600.0)
    assert log.idle_watts == pytest.approx(7.0, rel=0.01), 'idle is looked at again'


def test_without_a_meter_energy_is_unavailable_or_marked_as_derived(tmp_path):
    assert find_meter(tmp_path) is None
    log = EnergyLog(None)
    log.begin()
    assert math.isnan(log.end(3.0))
    assert log.source == 'unavailable'
    derived = find_meter(tmp_path, assumed_watts=4.0)
    assert isinstance(derived, Derived)
    estimate = EnergyLog(derived)
    estimate.begin()
    assert estimate.end(3.0) == pytest.approx(12.0)
    assert estimate.source == 'derived from 4 W'


def test_the_hottest_zone_counts(tmp_path):
    assert math.isnan(temperature(tmp_path))
    for number, value in enumerate((41000, 63500, -256000)):
        write(tmp_path / f'sys/class/thermal/thermal_zone{number}', temp=value)
    assert temperature(tmp_path) == pytest.approx(63.5)


def test_a_zone_that_is_switched_off_answers_eagain_and_counts_for_nothing(tmp_path, monkeypatch):
    # A pipe that nobody has written into yet, read without waiting, answers EAGAIN as they do.
    plain = os.open

    def without_waiting(path, flags, *more, **named):
        return plain(path, flags | os.O_NONBLOCK, *more, **named)

    def opened(path, *more, **named):
        return open(path, *more, opener=without_waiting, **named)

    write(tmp_path / 'sys/class/thermal/thermal_zone0', temp=63500, type='CPU-therm')
    write(tmp_path / 'sys/class/thermal/thermal_zone2', type='CV0-therm')
    off = tmp_path / 'sys/class/thermal/thermal_zone2/temp'
    os.mkfifo(off)
    writer = plain(off, os.O_RDWR | os.O_NONBLOCK)
    monkeypatch.setattr(os, 'open', without_waiting)
    monkeypatch.setattr(Path, 'open', opened)
    try:
        assert temperature(tmp_path) == pytest.approx(63.5)
        off.with_name('type').unlink()
        os.mkfifo(off.with_name('type'))
        assert temperature(tmp_path) == pytest.approx(63.5)
    finally:
        os.close(writer)


def test_a_power_chip_that_says_100_degrees_at_all_times_is_not_the_board(tmp_path):
    zones = tmp_path / 'sys/class/thermal'
    write(zones / 'thermal_zone0', temp=41000, type='AO-therm')
    write(zones / 'thermal_zone4', temp=100000, type='PMIC-Die')
    assert temperature(tmp_path) == pytest.approx(41.0)
    (zones / 'thermal_zone0/temp').unlink()
    assert math.isnan(temperature(tmp_path))
