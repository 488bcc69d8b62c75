"""``python tests/fuzz``; the tests' own modules are found as pytest finds them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])


def main() -> int:
    """Run from the command line."""
    from fuzz.runner import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
