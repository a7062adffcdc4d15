"""How the threads of a launch come together: each on a core of its own.

Linux may wake a thread on the core of the one that wakes it.  The two take turns of 4 ms there, and
the one that has nothing left to do waits for the other without leaving it the core: after a pause
of 50 ms a call of 25 us took 6 ms.  So a thread that works gives way, after each piece of its work,
as long as some worker has not come yet, and one that comes to a core that another is on moves over.
The thread of the caller stays where it is: it is not ours.
"""

from mlxconv.simd.static import kernel
from mlxconv.simd.system import allow_cores, allowed_cores, core, give_way, thread
from mlxconv.workspace import STATE

CALLER, CALLERS_CORE = 1, 2  # of the counters that belong to no worker: its thread and core
CORE = 8  # of a worker's: the core it is on, in another cache line than its jobs
NOT_COME, GONE = -2, -3  # instead
WORDS = 20  # of 64 cores each
MAY, NOW = 16, 16 + WORDS  # of a worker's: where it may run, and where while it moves over


@kernel
def expect(counters, chunks):
    """The calling thread is about to wake workers 0 to `chunks` - 1."""
    counters[CALLER], counters[CALLERS_CORE] = thread(), core()
    for c in range(chunks):
        counters[(1 + c) * STATE + CORE] = NOT_COME


@kernel
def is_taken(counters, chunks, here):
    """Whether another thread of the launch is on core `here`."""
    taken = counters[CALLERS_CORE] == here
    for c in range(chunks):
        taken |= counters[(1 + c) * STATE + CORE] == here
    return taken


@kernel
def move_over(counters, c, chunks):
    """Move this thread, worker `c`, to a core that no other is on, if there is one where it may
    run.  Afterwards it may run where it could before."""
    may, now = (1 + c) * STATE + MAY, (1 + c) * STATE + NOW
    if allowed_cores(counters, may, WORDS):
        for i in range(64 * WORDS):
            if i % 64 == 0:
                counters[now + i // 64] = counters[may + i // 64]
            if is_taken(counters, chunks, i):
                counters[now + i // 64] &= ~(1 << i % 64)
        if allow_cores(counters, now, WORDS):
            allow_cores(counters, may, WORDS)


@kernel
def come(counters, c, chunks):
    """The calling thread is worker `c` of `chunks`, from now on."""
    if counters[CALLER] != thread() and is_taken(counters, chunks, core()):
        move_over(counters, c, chunks)
    counters[(1 + c) * STATE + CORE] = core()


@kernel
def some_are_late(counters, chunks):
    """Whether some worker has not come yet.  It may wait for this core, and is let on it."""
    for c in range(chunks):
        if counters[(1 + c) * STATE + CORE] == NOT_COME:
            give_way()
            return True
    return False


@kernel
def leave(counters, c):
    """Worker `c` has no more to do."""
    counters[(1 + c) * STATE + CORE] = GONE
