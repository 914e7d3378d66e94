# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Meters on a fake sysfs of the real layout; energy above idle; nothing known is not 0."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from etuner_ros.core.decide.energy import Derived, EnergyLog, find_meter, PowerMeter, temperature


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f'{value}\n')


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_total_rail_of_an_orin_is_found_by_its_label(tmp_path):
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
    assert meter._watts() == pytest.approx(9.5)


def test_an_ina238_gives_power_in_microwatts(tmp_path):
    write(tmp_path / 'sys/class/hwmon/hwmon2', name='ina238', power1_input=42_000_000)
    meter = find_meter(tmp_path)
    assert meter.source.startswith('INA ina238')
    assert meter._watts() == pytest.approx(42.0)


def test_rapl_counts_over_its_wrap_around(tmp_path):
    zone = tmp_path / 'sys/class/powercap/intel-rapl:0'
    write(zone, name='package-0', energy_uj=990_000, max_energy_range_uj=1_000_000)
    meter = find_meter(tmp_path)
    assert meter.source == 'RAPL package-0'
    write(zone, energy_uj=10_000)
    assert meter.joules() == pytest.approx(0.02)
    (zone / 'energy_uj').unlink()
    assert math.isnan(meter.joules())


def test_a_power_is_integrated_and_gaps_are_not_made_up(tmp_path):
    clock, watts = Clock(), [10.0]
    meter = PowerMeter('x', lambda: watts[0], clock)
    clock.now += 1.0
    watts[0] = 20.0
    assert meter.joules() == pytest.approx(15.0)
    clock.now += 100.0
    assert meter.joules() == pytest.approx(15.0)


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
