"""The classes of commands and of their groups."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from medxlate.cli.options import MESSAGES


class _Helped:
    """A command whose ``--help`` stands in a panel of the help, as its other options do."""

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option ``--help``."""
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.rich_help_panel, option.metavar = MESSAGES, ""
        return option


class Command(_Helped, TyperCommand):
    """A command."""


class Group(_Helped, TyperGroup):
    """A command that has commands."""
