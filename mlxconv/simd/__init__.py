"""SIMD registers as Numba values, the words that compute with them, and compile-time loops."""
