"""``python -m halfmap`` is the ``halfmap`` command."""

import sys

from halfmap.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
