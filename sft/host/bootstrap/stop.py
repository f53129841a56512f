"""The end of a set-up that only the user can help: one line, exit code 2."""

import sys
from typing import NoReturn


def stop(line: str) -> NoReturn:
    """Print a line and exit."""
    sys.stderr.write(line + "\n")
    sys.exit(2)
