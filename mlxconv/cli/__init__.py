"""The command line: `mlxconv demo`, `conv1d`, `warmup`, `bench`, `info`.

    parser -> demo | conv1d | warmup | bench | info
              conv1d -> sources (npy, wav) -> blocks -> output
              bench  -> mlxconv.bench

Only the standard library is imported here; a command imports what it needs when it runs.

Exit codes: 0 done; 1 failed at work, such as a full disk; 2 bad input, found before any work;
130 interrupted by Ctrl-C, 143 ended by SIGTERM.
"""

import atexit
import gc
import os
import sys
from collections.abc import Sequence

from mlxconv.cli.errors import CommandError
from mlxconv.cli.parser import parser

__all__ = ["main"]

WAIT_POLICY = "OMP_WAIT_POLICY"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, that of the process if none is given; returns the exit code."""
    options = parser().parse_args(arguments)
    options.wait_policy = os.environ.get(WAIT_POLICY, "")  # that of other programs, for info
    if getattr(options, "waits_passively", True):
        wait_passively()
    atexit.register(gc.freeze)  # no search for cycles at the end: 0.25 s once Numba is loaded
    try:
        options.run(options)
        sys.stdout.flush()
    except CommandError as error:
        return _fails(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fails("interrupted", 130)
    except MemoryError as error:
        return _fails(f"out of memory: {error}" if str(error) else "out of memory", 1)
    except BrokenPipeError:  # `mlxconv info | head`: nobody reads on, which is no error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fails(str(error), 1)
    return 0


def wait_passively() -> None:
    """Let idle OpenMP threads sleep, unless the user has chosen.

    They spin by default, and so do those of NumPy's matrix product: two spinning pools that take
    turns cost a 25 us kernel 7.6 ms.  It counts only if set before Numba is loaded, and it is the
    business of a program, not of a library: `import mlxconv` sets nothing.  `bench` leaves it to
    each library: it measures what they do by themselves.
    """
    os.environ.setdefault(WAIT_POLICY, "passive")


def _fails(message: str, exit_code: int) -> int:
    print(f"mlxconv: {' '.join(message.split())}", file=sys.stderr)
    return exit_code
