"""Compile-time loops, branches and register tiles for Numba kernels.

A processor cannot index its registers, so `acc[m, v]` has to become a name before the code is
compiled.  `kernel` rewrites a function's syntax tree, before Numba sees it:

    acc = registers(MR, NV, fill=zero(vec))    ->  acc_0_0 = zero(vec); acc_0_1 = ...
    for m in static_range(MR): ...             ->  MR copies of the body
    acc[m, v]                                  ->  acc_3_1
    if WIDENS: ... else: ...                   ->  the branch that WIDENS, a constant, selects
    if WIDENS and n > 0: ... else: ...         ->  the last one, if WIDENS is 0
    C = CHANNELS or n                          ->  C = 4, or C = n if CHANNELS is 0

As written, the function is ordinary Python: static_range is range, registers is an array.  Under
NUMBA_DISABLE_JIT=1 nothing is rewritten, and a debugger can step through the kernel.
"""

import ast
import inspect
import itertools
import textwrap
from functools import partial

import numba
import numpy as np
from numba import types

from mlxconv import cache, interrupts
from mlxconv.simd.passes import KernelCompiler

static_range = range

# Entry points for Python and for C would be compiled with every kernel, and few have a use for one.
_NO_WRAPPERS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

# Kernels allocate nothing, and their caller holds the arrays: without this every tile would count
# references up and down, with atomic instructions on a line that all threads share.
_NO_COUNTING = {"_nrt": False}


def registers(*shape, fill=None):
    """A tile of SIMD registers; its indices must be static."""
    tile = np.empty(shape, object)
    for index in np.ndindex(shape):
        tile[index] = fill
    return tile


def kernel(fn=None, **njit_options):
    """njit `fn` with its static loops unrolled and its factory's bindings baked in.

    `direct(6, 2, f32x8)` compiles `direct_MR6_NV2_f32x8`: the name that profilers and the disk
    cache see, so it carries every compile-time parameter.  Baking keeps closures out of Numba's
    reach, whose cache never hits for one that captures another kernel (numba/numba#6264).
    """
    if fn is None:
        return lambda fn: kernel(fn, **njit_options)
    if numba.config.DISABLE_JIT:
        return fn
    bound = inspect.getclosurevars(fn).nonlocals
    tree = ast.parse(textwrap.dedent(inspect.getsource(fn)))
    ast.increment_lineno(tree, fn.__code__.co_firstlineno - 1)
    (definition,) = tree.body
    definition.decorator_list = []
    definition.name = "_".join([fn.__name__, *(_label(k, v) for k, v in sorted(bound.items()))])
    _Unroll({k: v for k, v in bound.items() if isinstance(v, int)}).visit(tree)
    ast.fix_missing_locations(tree)
    namespace = {**fn.__globals__, **bound}
    exec(compile(tree, fn.__code__.co_filename, "exec"), namespace)
    options = {
        "nogil": True,
        "error_model": "numpy",
        **_NO_WRAPPERS,
        **_NO_COUNTING,
        **njit_options,
    }
    passes = {} if options.get("parallel") else {"pipeline_class": KernelCompiler}
    compiled = numba.njit(**options, **passes)(namespace[definition.name])
    compiled.get_call_template = partial(_call_template, compiled.get_call_template)
    compiled.compile = interrupts.passed_on(compiled.compile)
    return cache.attach(compiled, options)


def _call_template(original, args, kws):
    """How kernels call a kernel: numbers that are constants are of the type of others, lest it be
    compiled for each."""
    return original(tuple(types.unliteral(a) for a in args), kws)


def _label(name, value):
    """What a binding adds to the kernel's name: `MR6`, `f32x8`, or the name of another kernel."""
    if isinstance(value, int):
        return f"{name}{int(value)}"
    return getattr(value, "__name__", None) or getattr(value, "name", None) or str(value)


class _Unroll(ast.NodeTransformer):
    def __init__(self, constants):
        self.constants = constants  # name -> int, static loop variables included
        self.tiles = {}  # name bound by registers(...) -> its shape

    def visit_Assign(self, node):
        if not _is_call(node.value, "registers"):
            return self.generic_visit(node)
        name, call = node.targets[0].id, node.value
        self.tiles[name] = shape = tuple(self.value(extent) for extent in call.args)
        if not call.keywords:
            return ast.copy_location(ast.Pass(), node)
        fill = self.visit(call.keywords[0].value)
        return [
            ast.copy_location(ast.Assign([ast.Name(_name(name, i), ast.Store())], fill), node)
            for i in itertools.product(*map(range, shape))
        ]

    def visit_For(self, node):
        if not _is_call(node.iter, "static_range"):
            return self.generic_visit(node)
        name, outer, copies = node.target.id, dict(self.constants), []
        for i in range(*map(self.value, node.iter.args)):
            self.constants[name] = i
            copies += self._statements(_copied(node.body))
        if copies:  # after its loop the index is an ordinary variable, as in Python
            index = ast.Assign([ast.Name(name, ast.Store())], ast.Constant(self.constants[name]))
            copies.append(ast.copy_location(index, node))
        self.constants = outer
        return copies or ast.copy_location(ast.Pass(), node)

    def visit_If(self, node):
        taken = self.decided(node.test)
        if taken is None:
            return self.generic_visit(node)
        branch = node.body if taken else node.orelse
        return self._statements(branch) or ast.copy_location(ast.Pass(), node)

    def visit_BoolOp(self, node):
        is_or, terms = isinstance(node.op, ast.Or), node.values
        while len(terms) > 1 and self.is_static(terms[0]):
            terms = terms[:1] if bool(self.value(terms[0])) == is_or else terms[1:]
        terms = [self.visit(term) for term in terms]
        whole = terms[0] if len(terms) == 1 else ast.BoolOp(node.op, terms)
        return ast.copy_location(whole, node)

    def visit_Subscript(self, node):
        if getattr(node.value, "id", None) not in self.tiles:
            return self.generic_visit(node)
        index, shape = self.value(node.slice), self.tiles[node.value.id]
        index = index if isinstance(index, tuple) else (index,)
        if len(index) != len(shape) or any(
            not -n <= i < n for i, n in zip(index, shape, strict=True)
        ):
            raise IndexError(f"{ast.unparse(node)}: index {index} of registers{shape}")
        name = _name(node.value.id, [i % n for i, n in zip(index, shape, strict=True)])
        return ast.copy_location(ast.Name(name, node.ctx), node)

    def visit_Name(self, node):
        if node.id not in self.constants:
            return node
        return ast.copy_location(ast.Constant(self.constants[node.id]), node)

    def is_static(self, expression):
        names = [n.id for n in ast.walk(expression) if isinstance(n, ast.Name)]
        return bool(names) and all(name in self.constants for name in names)

    def decided(self, test):
        """Whether `test` holds, if constants alone say so, else None."""
        if self.is_static(test):
            return bool(self.value(test))
        if isinstance(test, ast.BoolOp):
            is_or = isinstance(test.op, ast.Or)
            if any(self.decided(term) is is_or for term in test.values):
                return is_or
        return None

    def value(self, expression):
        return eval(compile(ast.Expression(expression), "<static>", "eval"), {}, self.constants)

    def _statements(self, body):
        result = []
        for statement in body:
            new = self.visit(statement)
            result += new if isinstance(new, list) else [new]
        return result


def _copied(tree):
    """A copy of a syntax tree, or of a list of them: ten times as fast as copy.deepcopy."""
    if isinstance(tree, list):
        return [_copied(node) for node in tree]
    if not isinstance(tree, ast.AST):
        return tree
    new = tree.__class__.__new__(tree.__class__)
    new.__dict__.update({name: _copied(value) for name, value in tree.__dict__.items()})
    return new


def _is_call(node, name):
    return isinstance(node, ast.Call) and getattr(node.func, "id", None) == name


def _name(tile, index):
    return "_".join([tile, *map(str, index)])
