"""Text for terminals with an encoding that lacks some letters."""

from __future__ import annotations

import sys


def print_whatever_comes() -> None:
    """Let standard output write out letters that its encoding lacks, as standard error does."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None and sys.stdout.errors == "strict":
        reconfigure(errors="backslashreplace")
