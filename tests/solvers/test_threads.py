"""Lanes of samples in threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from solvers import threads as module
from solvers.errors import InputError
from solvers.threads import run_lanes, threads, use_threads


@pytest.fixture(autouse=True)
def as_before():
    count = module._count
    yield
    use_threads(1)
    module._count = count


def test_count_is_set_and_reported():
    use_threads(3)
    assert threads() == 3
    with pytest.raises(InputError, match="threads = 0: needs at least 1"):
        use_threads(0)
    assert threads() == 3


@pytest.mark.parametrize(("given", "expected"), [("5", 5), ("7,2", 7), ("", None), ("0", None), ("many", None)])
def test_count_follows_openmp_or_the_process(monkeypatch, given, expected):
    monkeypatch.setattr(module, "_count", None)
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert threads() == (expected or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_lane_runs_once(count):
    use_threads(count)
    out = np.zeros(9, int)

    def kernel(n, by):
        out[n] += by

    run_lanes(kernel, [(n, n + 1) for n in range(9)])
    np.testing.assert_array_equal(out, np.arange(1, 10))


def test_lanes_run_at_the_same_time():
    use_threads(2)
    both = threading.Barrier(2, timeout=20)
    run_lanes(lambda _: both.wait(), [(0,), (1,)])
    assert not both.broken


def test_one_thread_runs_lanes_in_order_itself():
    use_threads(1)
    seen = []
    run_lanes(lambda n: seen.append((n, threading.current_thread())), [(n,) for n in range(4)])
    assert seen == [(n, threading.current_thread()) for n in range(4)]


@pytest.mark.parametrize(("count", "lanes"), [(2, 2), (2, 1), (1, 3)])
def test_blas_has_one_thread_meanwhile(count, lanes):
    use_threads(count)
    found = []

    def kernel(_):
        found.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")

    run_lanes(kernel, [(n,) for n in range(lanes)])
    assert found and set(found) == {1}


@pytest.mark.parametrize("count", [1, 2])
def test_a_lane_that_fails_is_heard(count):
    use_threads(count)

    def kernel(n):
        if n == 1:
            raise ArithmeticError("lane 1")

    with pytest.raises(ArithmeticError, match="lane 1"):
        run_lanes(kernel, [(n,) for n in range(3)])


def test_none_is_the_default_again_and_what_was_set_is_returned(monkeypatch):
    before = use_threads(3)
    assert use_threads(None) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads() == 5
    assert use_threads(before) is None


def test_a_forked_child_makes_its_own_pool():
    """The pool's threads do not come along; without a new one the child would wait for ever."""
    code = """
import multiprocessing, sys
from solvers.threads import run_lanes, use_threads

def work():
    done = []
    run_lanes(done.append, [(1,), (2,)])
    sys.exit(sorted(done) != [1, 2])

use_threads(2)
run_lanes(len, [("",), ("",)])
child = multiprocessing.get_context("fork").Process(target=work)
child.start()
child.join(timeout=60)
print(child.exitcode)
child.kill()
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "0\n", done.stderr
