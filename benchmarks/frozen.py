"""A kernel that never changes, to measure others in: plain loops, one thread.

A ratio to it survives a machine that is slower today, and a change of the compiler shows in it.
Do not improve it.
"""

import numba
import numpy as np


@numba.njit(fastmath={"contract", "reassoc", "nsz"})
def conv1d(x, w, stride, padding, dilation, groups):
    """y[n, l, o] = sum over k, c of x[n, l*stride - padding + k*dilation, c] * w[k, c, o].

    `x` is (N, L, C_in); `w` comes as (K, C_in / groups, C_out), filters innermost.
    """
    N, L, _ = x.shape
    K, C, O = w.shape
    L_out = (L + 2 * padding - dilation * (K - 1) - 1) // stride + 1
    per = O // groups
    y = np.zeros((N, L_out, O), x.dtype)
    for n in range(N):
        for l in range(L_out):
            for k in range(K):
                row = l * stride - padding + k * dilation
                if 0 <= row < L:
                    for g in range(groups):
                        for c in range(C):
                            value = x[n, row, g * C + c]
                            for o in range(g * per, (g + 1) * per):
                                y[n, l, o] += value * w[k, c, o]
    return y
