"""`python -m mlxconv`: see mlxconv.cli."""

import sys

from mlxconv.cli import main

if __name__ == "__main__":
    sys.exit(main())
