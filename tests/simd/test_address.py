"""Kernels called by address: the arguments arrive, and wrong ones are refused at compile time."""

import os
import subprocess
import sys
from typing import Any, NamedTuple

import numba
import numpy as np
import pytest
from numba import types
from numba.core.errors import TypingError

from mlxconv.simd.address import address_of, caller, entry_point
from mlxconv.simd.passing import Held, held
from mlxconv.simd.static import kernel

needs_jit = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="an address is an index then")


class Part(NamedTuple):
    a: Any
    at: int


PART = numba.typeof(Part(np.zeros(1), 0))
call_step = caller("step", PART, types.intp, types.float64)


def step(FACTOR):
    """part[at + i] += FACTOR * value, in both of its forms."""

    @kernel
    def add(part, i, value):
        part.a[part.at + i] += FACTOR * value

    return add


@kernel(no_cpython_wrapper=False)
def run_step(address, a, at, i, value):
    call_step(address, Part(a, at), i, value)


def test_arguments_arrive():
    """A tuple with an array, an integer and a float, in their order."""
    a = np.zeros(8)
    run_step(address_of(step(3), call_step), a, 2, 4, 0.5)
    assert a.tolist() == [0, 0, 0, 0, 0, 0, 1.5, 0]


def test_each_address_is_its_own_kernel():
    """One caller, compiled once, runs whatever it is given."""
    a = np.zeros(2)
    addresses = [address_of(step(factor), call_step) for factor in (1, 10, 100)]
    assert len(set(addresses)) == 3
    for address in (*addresses, addresses[0]):
        run_step(address, a, 0, 1, 1.0)
    assert a.tolist() == [0, 112]


def test_an_address_stays_the_same():
    kernel_ = step(7)
    assert address_of(kernel_, call_step) == address_of(kernel_, call_step)


@needs_jit
def test_a_kernel_is_compiled_once():
    kernel_ = step(8)
    for _ in range(3):
        address_of(kernel_, call_step)
    assert kernel_.signatures == [call_step.argument_types]


READ_ONLY = np.zeros(2)
READ_ONLY.flags.writeable = False
WRONG = {
    "dtype of the array": (np.zeros(2, np.float32), 0, 1, 1.0),
    "rank of the array": (np.zeros((2, 2)), 0, 1, 1.0),
    "layout of the array": (np.zeros(4)[::2], 0, 1, 1.0),
    "read-only array": (READ_ONLY, 0, 1, 1.0),
    "float for int": (np.zeros(2), 0, 1.0, 1.0),
    "complex for float": (np.zeros(2), 0, 1, 1j),
}


@needs_jit
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_are_refused(wrong):
    """The code behind an address would take the bits for what they are not."""

    @kernel(no_cpython_wrapper=False)
    def run_wrongly(address, a, at, i, value):
        call_step(address, Part(a, at), i, value)

    with pytest.raises(TypingError, match="call_step takes"):
        run_wrongly(address_of(step(1), call_step), *WRONG[wrong])


@needs_jit
@pytest.mark.parametrize("count", [0, 1, 4])
def test_wrong_number_of_arguments(count):
    def of_count(count):
        if count == 0:

            @kernel
            def run(address, part):
                call_step(address)
        elif count == 1:

            @kernel
            def run(address, part):
                call_step(address, part)
        else:

            @kernel
            def run(address, part):
                call_step(address, part, 1, 1.0, 1.0)

        return run

    with pytest.raises(numba.TypingError, match="call_step"):
        of_count(count).compile((types.intp, PART))


call_held = caller("held", Held(PART), types.intp)


@kernel
def add_held(part, value):
    part.a[part.at] += value


@kernel(no_cpython_wrapper=False)
def run_held(address, a, n):
    for at in range(a.size):
        part = held(Part(a, at))
        for value in range(n):
            call_held(address, part, value)


def test_tuples_may_be_handed_on_as_addresses():
    """Of one made anew in each turn of a loop, the kernel behind an address sees the last."""
    a = np.zeros(3)
    run_held(address_of(add_held, call_held), a, 4)
    assert a.tolist() == [6, 6, 6]


class Other(NamedTuple):
    a: Any
    at: int


@needs_jit
def test_what_is_held_is_of_the_declared_type():
    """Neither a tuple for the address of one, nor the address of another one."""

    @kernel
    def run_tuple(address, a):
        call_held(address, Part(a, 0), 1)

    @kernel
    def run_other(address, a):
        call_held(address, held(Other(a, 0)), 1)

    for run in (run_tuple, run_other):
        with pytest.raises(TypingError, match="call_held takes"):
            run.compile((types.intp, types.Array(types.float64, 1, "C")))


@needs_jit
def test_what_is_held_has_the_fields_of_the_tuple():
    @kernel(no_cpython_wrapper=False)
    def read(a):
        return held(Part(a, 2)).end

    with pytest.raises(TypingError, match="end"):
        read(np.zeros(1))


@kernel(no_cpython_wrapper=False)
def count_up(a, n):
    for i in range(a.size):
        a[i] += n
    return a.size


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 3, 1, 2), (0, 5), ()])
def test_arrays_from_python_are_flat(shape):
    """Whatever their axes; what is written is there afterwards."""
    a = np.zeros(shape)
    count = entry_point(count_up, (types.Array(types.float64, 1, "C"), types.intp))
    assert count(a, 2) == a.size
    assert (a == 2).all()


def test_arrays_from_python_are_bits():
    """Half types are seen as the integers that kernels know, wide ones as several elements."""
    count = entry_point(count_up, (types.Array(types.uint16, 1, "C"), types.intp))
    a, b = np.ones((2, 3), np.float16), np.zeros((2, 2), np.complex64)
    assert (count(a, 1), count(b, 1)) == (6, 16)
    assert (a == np.nextafter(np.float16(1), np.float16(2))).all()
    assert (b.view(np.uint16) == 1).all()


@needs_jit
@pytest.mark.parametrize("wrong", [None, [1.0], 3, np.float64(1)])
def test_only_arrays_are_lent(wrong):
    count = entry_point(count_up, (types.Array(types.float64, 1, "C"), types.intp))
    with pytest.raises(TypeError, match="NumPy arrays"):
        count(wrong, 1)


def test_names_say_what_is_called():
    """The name is part of the kernels that call it, hence of their identity on disk."""
    assert call_step.__name__ == "call_step"
    assert call_step.argument_types == (PART, types.intp, types.float64)


@needs_jit
def test_without_jit():
    """The tests that need none, in a process that has none."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 passed" in done.stdout
