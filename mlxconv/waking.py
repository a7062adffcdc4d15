"""Whether to launch on libgomp's threads, which spin for 4 to 14 ms after a launch and then sleep.

To wake them takes 0.1 to 0.3 ms, several times as long as a small call takes on one thread; but of
many calls that follow each other only the first one waits.  So small calls go by those before: a
burst is what comes without a pause, and what was true of the last one is taken to be true of the
next.

Where threads of another library spin as well, as those of NumPy's matrix product do, a launch may
wait for a turn of 4 ms, and so may what the other does beside our threads.  After a few such stalls
calls that take less than two of them run on one thread for a while.
"""

import math
from time import monotonic

SPINS = 4e-3  # seconds for which threads are awake, at the least
CORE = 1e11  # FLOP that a core does in a second
WORTH_WAKING = 3e7  # FLOP
STALL = 1.5e-3  # seconds that a launch takes longer than 1.5 times its best
STALLS = 3  # in a row, before threads are left alone
ALONE = 0.1  # seconds for which they are: a stall in them is 4 %


class Waking:
    """What is known of threads that fall asleep, from the launches until now."""

    __slots__ = "_alone_below", "_alone_until", "_asleep_at", "_before", "_stalls", "_this"

    def __init__(self) -> None:
        self._this, self._before = math.inf, math.inf  # FLOP of bursts: nothing is known yet
        self._asleep_at = 0.0
        self._stalls, self._alone_until, self._alone_below = 0, 0.0, 0.0

    def wanted(self, flop: float) -> float:
        """The time, if a call of so much work is to be launched on the threads; else 0."""
        now = monotonic()
        if now > self._asleep_at:
            self._this, self._before = 0.0, self._this
        self._this += flop
        worth = self._this >= WORTH_WAKING or self._before >= WORTH_WAKING
        if worth and (now > self._alone_until or flop >= self._alone_below):
            return now
        self._asleep_at = now + SPINS
        return 0.0

    def launched(self, started: float, pace: "Pace") -> None:
        """A launch that started at this time is over."""
        now = monotonic()
        self._asleep_at = now + SPINS
        took = now - started
        if took > 1.5 * pace.best + STALL:
            self._stalls += 1
            if self._stalls >= STALLS:
                self._alone_until, self._alone_below = now + ALONE, 2 * took * CORE
        elif self._stalls:
            self._stalls = 0
        if took < pace.best:
            pace.best = took


class Awake(Waking):
    """Threads that are always launched on: those that never sleep, or that take no time to wake."""

    def wanted(self, flop: float) -> float:
        return math.inf

    def launched(self, started: float, pace: "Pace") -> None:
        pass


class Pace:
    """What launches of one kind have taken at the least, in seconds."""

    __slots__ = ("best",)

    def __init__(self) -> None:
        self.best = math.inf
