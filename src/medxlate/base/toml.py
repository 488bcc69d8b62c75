"""TOML, read within limits: Python's parser has none of its own."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from medxlate.base.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DOTS = 100  # in a line: each opens a table within a table, and the parser keeps all paths


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises:
        ConfigError: It cannot be read, is larger than 1 MiB, or is not TOML.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(
                f"{path} is larger than {MAX_BYTES >> 20} MiB, the most that is read."
            )
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"The configuration {path} does not exist.", "`medxlate config init` writes one."
        ) from None
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"The configuration {path} cannot be read: {problem}.") from None
    try:
        return parse_toml(text)
    except ValueError as problem:
        raise ConfigError(f"{path} is not valid TOML: {problem}.") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML; raises ValueError, also for what would take the parser's stack or memory."""
    if any(line.count(".") > MAX_DOTS for line in text.splitlines()):
        raise ValueError(f"a line has more than {MAX_DOTS} dots")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
