"""``python -m bbdfield``."""

import sys

from bbdfield.cli import main

if __name__ == "__main__":  # worker processes import this module too
    sys.exit(main())
