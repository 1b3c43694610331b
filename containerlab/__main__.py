"""The lab's command line: decides nothing, `containerlab.lab` does."""

from __future__ import annotations

import sys

from containerlab.cli import main

if __name__ == "__main__":
    sys.exit(main())
