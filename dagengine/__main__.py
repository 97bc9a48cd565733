"""`python -m dagengine` is the command `dagengine`."""

import sys

from dagengine.cli import main

if __name__ == "__main__":
    sys.exit(main())
