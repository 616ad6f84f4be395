"""`python -m discl` is `discl`."""

import sys

from discl.cli import main

if __name__ == "__main__":
    sys.exit(main())
