"""Tests: on more threads than cores, so that splits over 2, 3 and 4 are tested.

Numba reads how many once, when it is imported.
"""

import os

os.environ.setdefault("NUMBA_NUM_THREADS", "4")
