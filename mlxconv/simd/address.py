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
from numba.core.errors import LoweringError
from numba.extending import lower_builtin, type_callable

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
    kernel.compile(argument_types)
    compiled = kernel.overloads[argument_types]
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)


def _lower(call):
    names = ["address", *(f"argument{i}" for i in range(len(call.argument_types)))]

    def typer(*arguments):
        return types.void

    typer.__signature__ = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    )
    type_callable(call)(lambda context: typer)

    @lower_builtin(call, types.VarArg(types.Any))
    def _call(context, builder, sig, args):
        declared = call.argument_types
        given = [context.get_value_type(t) for t in sig.args[1:]]
        if given != [context.get_value_type(t) for t in declared]:
            raise LoweringError(f"{call.__name__} takes {declared}, got {sig.args[1:]}")
        convention = context.call_conv
        function = convention.get_function_type(types.none, declared)
        callee = builder.inttoptr(args[0], function.as_pointer())
        convention.call_function(builder, callee, types.none, declared, args[1:])
        return context.get_dummy_value()
