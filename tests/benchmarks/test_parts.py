"""The parts of the benchmark: turns, ceilings, counts, exponents, memory. Nothing here depends on real time."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from bbdfield.benchmarks import machine, sites, timing
from bbdfield.benchmarks.problems import convolution, derivative, taps, untied_kernel
from bbdfield.benchmarks.programs import field_system, lattice_system
from bbdfield.benchmarks.scaling import exponent, peak_bytes
from bbdfield.benchmarks.settings import Settings
from bbdfield.errors import InputError
from solvers.backends import get_backend
from solvers.grids import Grid
from solvers.threads import threads


class Clock:
    """A clock that moves only when a program says so."""

    def __init__(self) -> None:
        self.now, self.log = 0.0, []

    def program(self, name, seconds):
        def call(k):
            self.now += seconds[min(len([entry for entry in self.log if entry == name]), len(seconds) - 1)]
            self.log.append(name)

        return call, lambda: self.log.append(f"{name} finished")


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(timing.time, "sleep", lambda seconds: None)
    return clock


def test_programs_take_turns_in_blocks_of_equal_length(clock):
    found = timing.in_turns(
        {"slow": clock.program("slow", [5.0, 1.0]), "fast": clock.program("fast", [9.0, 0.25])}, repeats=3, block=1.0
    )
    assert found["slow"] == timing.Timing(1.0, 1.0, 0.0, 3, 1), "the first call, which compiles, does not count"
    assert found["fast"] == timing.Timing(0.25, 0.25, 0.0, 3, 4)
    calls = [entry for entry in clock.log if not entry.endswith("finished")][4:]
    assert calls == (["slow"] * 2 + ["fast"] * 5) * 3, "a block of each in turn, after one call that warms"


def test_median_minimum_and_spread():
    found = timing.Timing.of([2.0, 8.0, 4.0])
    assert (found.median, found.minimum, found.spread, found.repeats) == (4.0, 2.0, 1.5, 3)


def test_a_very_long_call_is_repeated_less(clock):
    programs = {"long": clock.program("long", [100.0]), "short": clock.program("short", [1.0])}
    found = timing.in_turns(programs, repeats=7, block=1.0)
    assert (found["long"].repeats, found["short"].repeats) == (3, 7)


@pytest.mark.parametrize("count", [1, 3])
def test_what_is_copied_is_counted(count):
    ceiling = machine.copying("small", count)
    held = [cell.cell_contents for cell in ceiling.call.__closure__ if isinstance(cell.cell_contents, np.ndarray)]
    ceiling.call(0)
    assert all(np.all(array == 1.0) for array in held) and len(held) == 2
    assert ceiling.amount == sum(array.nbytes for array in held)


def test_ceilings_of_one_and_all_threads():
    found = machine.ceilings("small", 2, repeats=2, block=1e-4)
    assert set(found["copy"]) == set(found["matmul"]) == {"1", "2"}
    assert all(0 < rate["median"] <= rate["best"] for kind in ("copy", "matmul") for rate in found[kind].values())


def test_threads_are_set_everywhere_and_restored():
    before, allowed = threads(), os.sched_getaffinity(0)
    with machine.on_threads(1) as count:
        assert count == threads() == 1 and len(os.sched_getaffinity(0)) == 1
    assert threads() == before and os.sched_getaffinity(0) == allowed
    with pytest.raises(InputError, match=r"--threads 9999: this process may use \d+ CPUs"), machine.on_threads(9999):
        pass
    assert threads() == before and os.sched_getaffinity(0) == allowed


@pytest.mark.parametrize(
    "make", [lambda: taps(8), lambda: untied_kernel(3, 12, 2, 4), lambda: convolution(3, 12, 2, 4)]
)
def test_numbers_moved_and_operations_are_those_of_the_formulas(make):
    given = make()
    lattice, start = given.lattice, given.start
    forward = start.w.size + start.b.size + given.sites
    backward = 2 * (start.w.size + start.b.size) + given.sites
    assert given.numbers_moved == forward + backward
    products = 0
    for _ in range(lattice.depth):
        for _ in range(lattice.width):
            products += 3 * lattice.channels * given.taps * lattice.channels * given.batch
    assert given.operations == 2 * products


def test_three_untied_taps_move_fourteen_numbers_per_site():
    assert taps(64).numbers_moved == 14 * 64**2


def test_derivative_lattices_have_three_taps():
    assert derivative(16, 16).taps == 3


def test_exponents():
    sizes = [2, 4, 8, 16]
    found = exponent(sizes, [3.0 * size**1.5 for size in sizes])
    assert found["exponent"] == pytest.approx(1.5) and found["last"] == pytest.approx(1.5)
    assert found["ci"] == pytest.approx([1.5, 1.5], abs=1e-6)
    bent = exponent(sizes, [1.0, 1.0, 1.0, 4.0])
    assert bent["last"] == pytest.approx(2.0), "the last two sizes, not the first"
    assert 0 < bent["exponent"] < 2 and bent["ci"][0] < bent["exponent"] < bent["ci"][1]


def test_memory_of_a_field_is_independent_of_the_lattice_that_it_describes():
    def field(depth):
        given = convolution(depth, 16, 2, 4)
        return lambda: ("numpy", field_system(given, Grid(4, 16), order=1, scheme="rk4", backend="numpy"))

    def lattice(depth):
        given = convolution(depth, 16, 2, 4)
        return lambda: ("numpy", lattice_system(given, "numpy"))

    assert peak_bytes(field(800)) < 1.05 * peak_bytes(field(80))
    assert peak_bytes(lattice(800)) > 5 * peak_bytes(lattice(80))


def test_peak_bytes_counts_what_lives_together():
    class Hoard:
        def __init__(self):
            self.kept = np.ones(1_000_000)

        def step(self, k):
            self.kept.sum() + np.ones(500_000).sum()

    assert peak_bytes(lambda: ("numpy", Hoard())) == pytest.approx(12e6, rel=0.01)


def test_a_gpu_gets_ceilings_of_its_own(monkeypatch):
    """NumPy stands in for CuPy: the same calls, on the device's own arrays."""

    def answer(name):
        assert name == "cupy"
        return dataclasses.replace(get_backend("numpy"), description="stand-in")

    assert machine.find_gpu("small") is None or get_backend("cupy").name == "cupy"
    monkeypatch.setattr(machine, "get_backend", answer)
    gpu = machine.ceilings("small", 1, repeats=2, block=1e-4)["gpu"]
    assert gpu["device"] == "stand-in" and gpu["copy"]["best"] > 0 and gpu["matmul"]["best"] > 0
    assert machine.describe_machine()["gpu"] == "stand-in"
    monkeypatch.setattr(sites, "SITES", {"small": lambda: [taps(8)]})
    (found,) = sites.measure_sites(Settings("small", 1, ("sites",), (), lambda line: None))
    assert found["ceiling"]["gpu_per_second"] > 0
