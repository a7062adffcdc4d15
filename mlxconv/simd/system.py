"""Words that ask the system: which core a thread runs on, and how it leaves that to another.

Linux alone answers; elsewhere no core is known, and nothing happens.  A set of cores is n
consecutive elements of a flat int64 array, a bit for each core.  What they mean under
NUMBA_DISABLE_JIT=1, where everything runs on one thread, is what they do elsewhere.
"""

import os
import sys
import threading

from llvmlite import ir
from numba import types

from mlxconv.simd.lowering import check_counter, i32, i64, intrinsic, lowers, pointer

_ANSWERS = sys.platform == "linux"
_THIS_THREAD = i32(0)


def core():
    """The number of the core this thread runs on; -1 where that is not known."""
    return -1


@lowers(core, lambda: types.int64)
def _core(context, builder, sig, args):
    if not _ANSWERS:
        return i64(-1)
    return builder.sext(intrinsic(builder, "sched_getcpu", i32, []), i64)


def thread():
    """A number that no other thread of this process has, as long as this one lives."""
    return threading.get_ident()


@lowers(thread, lambda: types.int64)
def _thread(context, builder, sig, args):
    return intrinsic(builder, "pthread_self", i64, []) if _ANSWERS else i64(0)


def give_way():
    """Let a thread that waits for this core have it first."""
    if _ANSWERS:
        os.sched_yield()


@lowers(give_way, lambda: types.void)
def _give_way(context, builder, sig, args):
    if _ANSWERS:
        intrinsic(builder, "sched_yield", i32, [])
    return context.get_dummy_value()


def allowed_cores(a, i, n):
    """Write the cores this thread may run on to a[i], ..., a[i+n-1]; whether they are known."""
    return False


@lowers(allowed_cores, lambda a, i, n: check_counter(a, i, n) and types.boolean)
def _allowed_cores(context, builder, sig, args):
    return _asked("sched_getaffinity", context, builder, sig, args)


def allow_cores(a, i, n):
    """Have this thread run on the cores a[i], ..., a[i+n-1] alone, from now on; whether it may."""
    return False


@lowers(allow_cores, lambda a, i, n: check_counter(a, i, n) and types.boolean)
def _allow_cores(context, builder, sig, args):
    return _asked("sched_setaffinity", context, builder, sig, args)


def _asked(function, context, builder, sig, args):
    """Whether the system call `function` took the set of cores that `args` are."""
    if not _ANSWERS:
        return ir.Constant(ir.IntType(1), 0)
    n = context.cast(builder, args[2], sig.args[2], types.int64)
    cores = pointer(context, builder, sig, args, 0, ir.IntType(8))
    failed = intrinsic(builder, function, i32, [_THIS_THREAD, builder.mul(n, i64(8)), cores])
    return builder.icmp_signed("==", failed, i32(0))
