"""``--quiet`` and ``--verbose``, which every command takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import Annotated, Any, Literal

import typer

from medxlate.cli.options import MESSAGES, flag

Loudness = Literal["quiet", "usual", "verbose"]

LOUDNESS: ContextVar[Loudness] = ContextVar("loudness", default="usual")

Quiet = Annotated[
    bool,
    flag("--quiet", "-q", panel=MESSAGES, help="Print results, notes and errors, but no progress."),
]
Verbose = Annotated[
    bool,
    flag("--verbose", "-v", panel=MESSAGES, help="Also print times and every file left out."),
]


def takes_loudness(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return the command with both options, which ``LOUDNESS`` holds while it runs."""

    @wraps(command)
    def run(*words: Any, quiet: bool, verbose: bool, **options: Any) -> Any:
        if quiet and verbose:
            raise typer.BadParameter("--quiet and --verbose contradict each other.")
        before = LOUDNESS.set("quiet" if quiet else "verbose" if verbose else "usual")
        try:
            return command(*words, **options)
        finally:
            LOUDNESS.reset(before)

    own = inspect.signature(command, eval_str=True)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in (("quiet", Quiet), ("verbose", Verbose))
    ]
    run.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[*own.parameters.values(), *added]
    )
    run.__annotations__ = {**command.__annotations__, "quiet": Quiet, "verbose": Verbose}
    return run
