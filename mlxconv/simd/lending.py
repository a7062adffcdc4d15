"""Arrays that Python lends to a kernel for one call: flat, whatever their axes.

Numba has a type for each number of axes, and kernels see flat memory.  To flatten an array, or to
view half types as bits, takes Python 0.1 us, as long as to pass eight arrays.  A `Lent` array is of
the flat type from the start: of what Python passes only the address and the extent are taken.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import NativeValue, models, register_model, unbox
from numba.np.arrayobj import populate_array

from mlxconv.simd.lowering import i32, i64, intrinsic

_COUNT, _BYTES, _ADDRESS, _EXTENTS = 2, 3, 4, 5  # words of what Numba's helper tells of an array
_MOST_AXES = 64  # of NumPy 2


class Lent(types.Array):
    """The flat `array`, of which Python passes one of any shape that lies without gaps, whose bytes
    are elements of that type.  This is not checked."""

    def __init__(self, array: types.Array) -> None:
        readonly, name = not array.mutable, f"lent {array}"
        super().__init__(array.dtype, 1, "C", readonly=readonly, name=name)


register_model(Lent)(models.ArrayModel)


@unbox(Lent)
def _borrow(lent, obj, c):
    """The memory of the array `obj`, which the caller holds while the kernel runs."""
    told = cgutils.alloca_once(c.builder, i64, size=_EXTENTS + 2 * _MOST_AXES)
    arguments = [obj, c.builder.bitcast(told, cgutils.voidptr_t)]
    failed = intrinsic(c.builder, "numba_adapt_ndarray", i32, arguments)
    failed = cgutils.is_not_null(c.builder, failed)
    with c.builder.if_then(failed, likely=False):
        c.pyapi.err_set_string("PyExc_TypeError", "a kernel takes NumPy arrays")
    count, size, address = (
        c.builder.load(c.builder.gep(told, [i32(i)])) for i in (_COUNT, _BYTES, _ADDRESS)
    )
    element = c.context.get_data_type(lent.dtype)
    itemsize = ir.Constant(i64, c.context.get_abi_sizeof(element))
    array = c.context.make_array(lent)(c.context, c.builder)
    populate_array(
        array,
        data=c.builder.inttoptr(address, element.as_pointer()),
        shape=[c.builder.udiv(c.builder.mul(count, size), itemsize)],
        strides=[itemsize],
        itemsize=itemsize,
        meminfo=None,
    )
    return NativeValue(array._getvalue(), is_error=failed)
