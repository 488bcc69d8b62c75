"""All commands of the command line, by the words that name them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main

from medxlate.cli.app import app


def commands() -> dict[str, Any]:
    """Return each command that does something, such as ``runs list``."""
    return dict(_walked(typer.main.get_command(app)))


def _walked(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _walked(command, f"{before}{name} ")
        else:
            yield before + name, command
