"""Threads that sleep are woken for bursts that are worth it, and left alone where they stall."""

import numpy as np
import pytest

import mlxconv
from mlxconv import dispatch, threads, waking
from mlxconv.waking import ALONE, CORE, SPINS, STALL, STALLS, WORTH_WAKING, Pace, Waking

SMALL = WORTH_WAKING / 10
LARGE = WORTH_WAKING * 2
PAUSE = 2 * SPINS


class Clock:
    """A clock that a test sets, and the calls on it."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(waking, "monotonic", lambda: self.now)
        self.state = Waking()
        self.pace = Pace()
        self.pace.best = 1e-4

    def call(self, flop, after=0.0, takes=1e-4):
        """Whether this call is launched, and if so takes that long."""
        self.now += after
        started = self.state.wanted(flop)
        if started:
            self.now += takes
            self.state.launched(started, self.pace)
        return bool(started)

    def burst(self, flop, count, after=PAUSE):
        return [self.call(flop, after), *(self.call(flop) for _ in range(count - 1))]


@pytest.fixture(autouse=True)
def threads_are_awake():
    """Here they are not."""


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_threads_are_woken_while_nothing_is_known(clock):
    assert clock.burst(SMALL, 3) == [True] * 3
    assert clock.burst(SMALL, 3) == [False] * 3


def test_a_small_call_after_small_bursts_wakes_nobody(clock):
    for _ in range(3):
        clock.burst(LARGE, 1)
    clock.burst(SMALL, 3)
    assert clock.burst(SMALL, 3) == [False] * 3


def test_a_burst_wakes_them_once_it_is_worth_it(clock):
    for _ in range(2):
        clock.burst(SMALL, 1)
    assert clock.burst(SMALL, 12)[:9] == [False] * 9 and clock.call(SMALL)


def test_after_a_burst_that_was_worth_it_the_next_wakes_them_at_once(clock):
    clock.burst(SMALL, 20)
    assert clock.burst(SMALL, 2) == [True, True]
    assert clock.burst(SMALL, 2) == [False, False]


def test_large_calls_always_do(clock):
    for _ in range(4):
        assert clock.burst(LARGE, 1) == [True]


def test_threads_that_still_spin_are_used(clock):
    clock.burst(SMALL, 20)
    assert all(clock.call(SMALL, SPINS / 2) for _ in range(50))


def test_after_stalls_in_a_row_threads_are_left_alone_for_a_while(clock):
    stalled = {"takes": 1.5 * clock.pace.best + 2 * STALL}
    assert all(clock.call(LARGE, **stalled) for _ in range(STALLS))
    end = clock.now + ALONE
    assert not clock.call(LARGE) and not clock.call(LARGE, ALONE / 2)
    clock.now = end + 1e-3
    assert clock.call(LARGE, **stalled), "tried again"
    assert not clock.call(LARGE), "and one stall is enough"


def test_what_takes_longer_on_one_thread_than_two_stalls_is_launched_all_the_same(clock):
    takes = 1.5 * clock.pace.best + 2 * STALL
    for _ in range(2 * STALLS):
        assert clock.call(2.1 * takes * CORE, takes=takes)
    assert not clock.call(1.9 * takes * CORE)


def test_a_launch_that_does_not_stall_makes_up_for_those_that_did(clock):
    stalled = {"takes": 1.5 * clock.pace.best + 2 * STALL}
    for _ in range(4):
        assert all(clock.call(LARGE, **stalled) for _ in range(STALLS - 1))
        assert clock.call(LARGE)
    assert clock.pace.best == pytest.approx(1e-4)


def test_a_call_that_wakes_nobody_gives_the_same_bits(monkeypatch):
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype("f") for shape in ((1, 256, 64), (64, 4, 64)))
    plan = dispatch.plan(mlxconv.explain(x, w).problem)
    if threads._chunks(plan.schedule, None) == 1 or type(threads._waking()) is not Waking:
        pytest.skip("this machine or layer has no threads that fall asleep")
    expected, launches = mlxconv.conv1d(x, w), []
    monkeypatch.setattr(Waking, "launched", lambda *_: launches.append(1))
    monkeypatch.setattr(Waking, "wanted", lambda *_: 1.0)
    np.testing.assert_array_equal(mlxconv.conv1d(x, w), expected)
    assert launches
    launches.clear()
    monkeypatch.setattr(Waking, "wanted", lambda *_: 0.0)
    np.testing.assert_array_equal(mlxconv.conv1d(x, w), expected)
    assert not launches
