"""Text on its way to a terminal: nothing in it but text, whatever the terminal's encoding."""

from __future__ import annotations

import sys
import unicodedata

# Control characters; what is invisible, or turns the order of letters round; bytes of names that
# are not UTF-8; separators of lines and paragraphs.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def shown(text: str) -> str:
    r"""Return a text with what a terminal would obey, or not show, written out: ``\x1b``, ``\n``.

    Names of files, classes and columns come from strangers: an escape sequence could hide a line,
    and a direction override (CVE-2021-42574) could reverse one.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter.encode("unicode_escape").decode("ascii")
        if unicodedata.category(letter) in _HIDDEN
        else letter
        for letter in text
    )


def print_whatever_comes() -> None:
    """Let standard output write out letters that its encoding lacks, as standard error does."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None and sys.stdout.errors == "strict":
        reconfigure(errors="backslashreplace")
