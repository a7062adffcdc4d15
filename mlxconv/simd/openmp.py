"""Words that run a function on the threads of OpenMP, those of Numba's omp layer.

What gcc compiles calls these entry points of its runtime, and those of LLVM and Intel have them as
well for its sake.
"""

import ctypes
from functools import lru_cache

import numba
from llvmlite import ir
from numba import types

from mlxconv.simd.lowering import i32, i64, lowers

_UNTYPED = ir.IntType(8).as_pointer()
_WORK = ir.FunctionType(ir.VoidType(), [_UNTYPED])
_LAUNCH = ir.FunctionType(ir.VoidType(), [_WORK.as_pointer(), _UNTYPED, i32, i32])
_MEMBER = ir.FunctionType(i32, [])


@lru_cache(1)
def runtime():
    """The addresses of what launches a team, and of what tells a member its number, in the runtime
    that Numba's omp layer is linked to; None without one."""
    if numba.config.DISABLE_JIT:
        return None
    try:
        from numba.np.ufunc import omppool

        library = ctypes.CDLL(omppool.__file__)
        functions = library.GOMP_parallel, library.omp_get_thread_num
    except (ImportError, OSError, AttributeError):
        return None
    return tuple(ctypes.cast(function, ctypes.c_void_p).value for function in functions)


def launch_team(launch, work, shared, threads):
    """Run the C function at address `work` on so many threads, of which the calling one is the
    first, with the address that `shared` is held at; `launch` is the runtime's function for it."""
    raise NotImplementedError("Python has no team of threads")


@lowers(launch_team, lambda launch, work, shared, threads: types.void)
def _launch_team(context, builder, sig, args):
    launch, work, shared, threads = args
    threads = context.cast(builder, threads, sig.args[3], types.int32)
    work = builder.inttoptr(work, _WORK.as_pointer())
    arguments = work, builder.bitcast(shared, _UNTYPED), threads, i32(0)
    builder.call(builder.inttoptr(launch, _LAUNCH.as_pointer()), arguments)
    return context.get_dummy_value()


def member_of(member):
    """The number of this thread in its team; `member` is the runtime's function that tells it."""
    raise NotImplementedError("Python has no team of threads")


@lowers(member_of, lambda member: types.intp)
def _member_of(context, builder, sig, args):
    return builder.sext(builder.call(builder.inttoptr(args[0], _MEMBER.as_pointer()), []), i64)
