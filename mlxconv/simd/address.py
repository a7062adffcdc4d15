"""Kernels called by address: code that is compiled once and reached from anywhere.

Numba copies the machine code of every kernel into each kernel that calls it, and compiles the copy
again.  A loop around a register tile would so be compiled anew for every tile, and the tile once
for each loop around it.  Called by address, as an argument, each is compiled once: this halves the
time of a first call, for 2 ns per tile.

Both sides share a word, which fixes the types of the arguments:

    call_tile = caller("tile", rows, runs, rows, rows, types.intp)
    address = address_of(micro_kernel(6, 2, f32x8), call_tile)      # in Python
    call_tile(address, x, runs, panel, y, filters)                  # in a kernel
"""

import inspect

from numba import types
from numba.core.errors import TypingError
from numba.extending import lower_builtin, type_callable
from numba.np.numpy_support import as_dtype

from mlxconv.simd.passing import Held, Lent

_kernels = []  # under NUMBA_DISABLE_JIT=1 an address is an index into this list


def caller(name, *argument_types):
    """The word that calls a kernel with arguments of these types: word(address, *arguments)."""

    def call(address, *arguments):
        """Run the kernel at `address`."""
        _kernels[address](*arguments)

    call.__name__ = call.__qualname__ = f"call_{name}"
    call.argument_types = argument_types
    _lower(call)
    return call


def address_of(kernel, call):
    """The address of the machine code of `kernel` for the word `call`, compiled if need be."""
    argument_types = call.argument_types
    if not hasattr(kernel, "compile"):
        if kernel not in _kernels:
            _kernels.append(kernel)
        return _kernels.index(kernel)
    compiled = _compiled(kernel, argument_types)
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)


def c_function(kernel, argument_types):
    """The address of `kernel` as C calls it, with arguments of these types."""
    compiled = _compiled(kernel, argument_types)
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)


def entry_point(kernel, argument_types):
    """What Python calls to run `kernel` on arguments of these types, all without gaps in memory:
    arrays of any shape are flat there, half types are bits.  Nothing of this is checked: a caller
    that passes another type reads memory that is not its own."""
    if not hasattr(kernel, "compile"):
        return lambda *arguments: kernel(*map(_flat, arguments, argument_types))
    lent = tuple(Lent(t) if isinstance(t, types.Array) else t for t in argument_types)
    return _compiled(kernel, lent).entry_point


def _compiled(kernel, argument_types):
    """What Numba knows of `kernel` for these types, compiled if need be."""
    kernel.compile(argument_types)
    return kernel.overloads[argument_types]


def _flat(argument, declared):
    """What the kernel sees of `argument`, where no unboxing flattens it."""
    if not isinstance(declared, types.Array) or isinstance(declared.dtype, types.Record):
        return argument
    return argument.reshape(-1).view(as_dtype(declared.dtype))


def _lower(call):
    names = ["address", *(f"argument{i}" for i in range(len(call.argument_types)))]

    def typer(address, *arguments):
        if not all(map(_fits, arguments, call.argument_types)):
            raise TypingError(f"{call.__name__} takes {call.argument_types}, got {arguments}")
        return types.void

    typer.__signature__ = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    )
    type_callable(call)(lambda context: typer)

    @lower_builtin(call, types.VarArg(types.Any))
    def _(context, builder, sig, args):
        declared = call.argument_types
        values = [
            context.cast(builder, value, given, wanted)
            if isinstance(given, types.Integer)
            else value
            for value, given, wanted in zip(args[1:], sig.args[1:], declared, strict=True)
        ]
        convention = context.call_conv
        function = convention.get_function_type(types.none, declared)
        callee = builder.inttoptr(args[0], function.as_pointer())
        convention.call_function(builder, callee, types.none, declared, values)
        return context.get_dummy_value()


def _fits(given, declared):
    """Whether a value of type `given` may be passed as `declared`: integers are converted, and an
    array that is lent or may be written to stands for one of which neither is true, since all look
    the same in memory."""
    if isinstance(declared, types.Array):
        of_kernels = given.copy() if isinstance(given, types.Array) else given
        return of_kernels in (declared, declared.copy(readonly=False))
    if isinstance(declared, Held):
        return isinstance(given, Held) and _fits(given.content, declared.content)
    if isinstance(declared, types.BaseNamedTuple):
        same = isinstance(given, types.BaseNamedTuple)
        same = same and given.instance_class is declared.instance_class
        return same and all(map(_fits, given, declared))
    if isinstance(declared, types.Integer):
        return isinstance(given, types.Integer)
    return given == declared
