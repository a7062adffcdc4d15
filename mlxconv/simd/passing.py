"""How arguments travel where nanoseconds count: arrays from Python, tuples between kernels.

Numba has a type for each number of axes, and kernels see flat memory.  To flatten an array, or to
view half types as bits, takes Python 0.1 us, as long as to pass eight arrays.  A `Lent` array is of
the flat type from the start: of what Python passes only the address and the extent are taken.

Numba passes a tuple element by element, and an array as seven of them: a tuple of eight arrays
takes 20 ns in each call that hands it on.  One that is `held` is passed as its address.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import NativeValue, models, register_model, unbox
from numba.np.arrayobj import populate_array

from mlxconv.simd.lowering import i32, i64, intrinsic, lowers

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


class Held(types.Type):
    """A named tuple of type `content`, as the address of memory that holds it."""

    def __init__(self, content: types.BaseNamedTuple) -> None:
        self.content = content
        super().__init__(name=f"held {content}")


@register_model(Held)
class _HeldModel(models.PrimitiveModel):
    def __init__(self, manager, held):
        super().__init__(manager, held, manager[held.content].get_value_type().as_pointer())


def held(value):
    """The named tuple `value`, in memory of the kernel that calls this."""
    return value


@lowers(held, lambda value: Held(value))
def _held(context, builder, sig, args):
    return cgutils.alloca_once_value(builder, args[0])


@infer_getattr
class _Fields(AttributeTemplate):
    key = Held

    def generic_resolve(self, held, name):
        fields = held.content.fields
        return held.content.types[fields.index(name)] if name in fields else None


@lower_getattr_generic(Held)
def _field(context, builder, held, address, name):
    position = i32(held.content.fields.index(name))
    return builder.load(builder.gep(address, [i32(0), position]))
