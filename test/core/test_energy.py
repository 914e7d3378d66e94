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


def test_the_rails_of_an_agx_orin_are_summed_as_it_has_none_that_holds_all(tmp_path):
    meter = find_meter(orin_agx(tmp_path))
    assert meter.source == 'INA VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0 + VDDQ_VDD2_1V8AO'
    assert meter._watts() == pytest.approx(16.0 + 12.0 + 4.5 + 9.1)
    (tmp_path / 'sys/class/hwmon/hwmon4/curr2_input').unlink()
    assert math.isnan(meter._watts()), 'a sum without one of its rails is not known'


def test_rails_are_not_counted_again_where_one_holds_all(tmp_path):
    total = {'in1_label': 'VDD_IN', 'in1_input': 19000, 'curr1_input': 2500}
    write(orin_agx(tmp_path) / 'sys/class/hwmon/hwmon9', name='ina3221', **total)
    meter = find_meter(tmp_path)
    assert meter.source == 'INA VDD_IN'
    assert meter._watts() == pytest.approx(47.5)


def test_a_thor_has_its_total_on_an_ina238(tmp_path):
    single = {'in1_label': 'VIN', 'in1_input': 20000, 'curr1_input': 3000}
    folder = orin_agx(tmp_path) / 'sys/class/hwmon/hwmon9'
    write(folder, name='ina238', power1_input=60_000_000, **single)
    meter = find_meter(tmp_path)
    assert meter.source == 'INA VIN'
    assert meter._watts() == pytest.approx(60.0)


def jetpack_4(root: Path, *monitors: tuple[tuple[str, int], ...]) -> Path:
    """Make the sysfs of JetPack 4: a driver of its own, power in mW."""
    for chip, rails in enumerate(monitors):
        folder = root / f'sys/bus/i2c/drivers/ina3221x/1-004{chip}/iio:device{chip}'
        for i, (label, power) in enumerate(rails):
            write(folder, **{f'rail_name_{i}': label, f'in_power{i}_input': power})
    return root


def test_an_agx_xavier_on_jetpack_4_sums_its_rails_and_an_nx_has_its_total(tmp_path):
    agx = jetpack_4(
        tmp_path / 'agx',
        (('GPU', 2000), ('CPU', 3000), ('SOC', 1500)),
        (('CV', 0), ('VDDRQ', 800), ('SYS5V', 2200)),
    )
    meter = find_meter(agx)
    assert meter.source == 'INA GPU + CPU + SOC + CV + VDDRQ + SYS5V'
    assert meter._watts() == pytest.approx(9.5)
    nx = jetpack_4(tmp_path / 'nx', (('VDD_IN', 5000), ('VDD_CPU_GPU_CV', 1500), ('VDD_SOC', 900)))
    assert find_meter(nx).source == 'INA VDD_IN'
    assert find_meter(nx)._watts() == pytest.approx(5.0)


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
