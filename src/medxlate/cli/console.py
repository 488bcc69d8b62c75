"""What people see: the only module that knows rich, and the only one that prints."""

from __future__ import annotations

import errno
import json as jsonlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from medxlate.base.distributed import Ranks, joined, started_by_torchrun
from medxlate.base.errors import JobError, MedxlateError, UsageError
from medxlate.base.events import Alarmed, CellEnded, EpochEnded, Event, Stage, StepLogged, Warned
from medxlate.base.events import Progress as ProgressEvent
from medxlate.base.files import FULL, final_name
from medxlate.base.records import visible
from medxlate.cli.loudness import LOUDNESS
from medxlate.cli.progress import Pace, described, duration, speed
from medxlate.cli.tables import (
    WIDEST,
    ConsoleEntries,
    ConsoleTable,
    entries,
    laid_out,
    merged,
    table,
    text_table,
)
from medxlate.cli.terminal import print_whatever_comes
from medxlate.method.terms import brief_names

INTERRUPTED = 130
UNFORESEEN = "This is a bug in medxlate. The traceback on stderr shows where it happened."
BAR, WITH_BAR = 12, 100  # letters of the bar; of the screen on which trainings have one
BESIDE = 60  # letters of a training's line beside its losses
NOTABLE_WAIT = 0.02  # of the time of a training
# Seconds in which torchrun ends the other processes of a job after the first one failed.
FIRST_TELLS = 3.0

__all__ = [
    "ConsoleTable",
    "Reporter",
    "entries",
    "failures",
    "left_out",
    "merged",
    "number",
    "reporting",
    "table",
    "text_table",
]


class _PlainConsole(Console):
    """A console that never reads text as markup, and prints control characters escaped."""

    def __init__(self, file: IO[str]) -> None:
        super().__init__(file=file, highlight=False, markup=False, emoji=False)
        if not self.is_terminal:
            self.width = WIDEST

    def render_str(self, text: str, **how: Any) -> Text:
        """Turn a line, a title or a cell into what is printed: each passes through here."""
        return super().render_str(visible(text), **how)


class Reporter:
    """Renders events on stderr and the result on stdout.

    With ``json``, stdout gets one object: the result, and where the command fails ``error``,
    ``hint`` and ``code``, the exit code, beside it or alone.

    In a job of several processes only the first renders events. Each renders its own errors; one
    that all meet comes from the first alone, for torchrun has ended the others by then.

    Args:
        json: Whether the result is printed as JSON.
    """

    def __init__(self, *, json: bool) -> None:
        self.ranks = Ranks()
        self._json = json
        self._loudness = LOUDNESS.get()
        self._began = time.monotonic()
        self._value: dict[str, Any] = {}
        print_whatever_comes()
        self._out = _PlainConsole(sys.stdout)
        self._err = _PlainConsole(sys.stderr)
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._pace = Pace()

    def __call__(self, event: Event) -> None:
        """Render one event."""
        if not self.ranks.is_first:
            return
        if self._loudness == "quiet" and not isinstance(event, Warned | Alarmed):
            return
        if isinstance(event, Stage):
            self._stop_bar()
            passed = duration(time.monotonic() - self._began)
            when = f"{passed}  " if self._loudness == "verbose" else ""
            self._err.print(f"{when}{event.text}", style="bold", soft_wrap=True)
        elif isinstance(event, Warned):
            self._err.print(f"Note: {event.text}", style="yellow", soft_wrap=True)
        elif isinstance(event, Alarmed):
            said = f"Step {event.step}, {event.kind}: {event.text}. {event.advice}"
            self._err.print(said, style="bold red", soft_wrap=True)
        elif isinstance(event, ProgressEvent):
            self._progress(event)
        elif isinstance(event, StepLogged):
            self._describe(event)
        elif isinstance(event, EpochEnded):
            self._epoch(event)
        elif isinstance(event, CellEnded):
            self._cell(event)

    def result(self, value: dict[str, Any], *tables: ConsoleTable | ConsoleEntries | str) -> None:
        """Print the result: the value as JSON, or the tables and lines for people."""
        self._stop_bar()
        self._value |= value
        if self._json or not self.ranks.is_first:
            return
        for each in tables:
            if isinstance(each, str):
                self._out.print(each, soft_wrap=True)
            else:
                self._out.print(laid_out(each, self._out))

    def error(
        self, message: str, hint: str = "", *, code: int = 1, details: Sequence[str] = ()
    ) -> None:
        """Print an error on stderr.

        Args:
            message: What is wrong.
            hint: What to do about it.
            code: The exit code that the command ends with.
            details: Further lines between the two.
        """
        self._stop_bar()
        self.failed(message, hint, code)
        if not self.ranks.is_first:
            time.sleep(FIRST_TELLS)
        process = "" if self.ranks.is_alone else f" (process {self.ranks.rank})"
        for line in (f"Error{process}: {message}", *details):
            self._err.print(line, style="red", soft_wrap=True)
        if hint:
            self._err.print(hint, soft_wrap=True)

    def failed(self, message: str, hint: str, code: int) -> None:
        """Record the failure for the object on stdout."""
        self._value |= {"error": message, "hint": hint, "code": code}

    def end_with(
        self, failed: dict[str, str], what: str, hint: str, *, whats: str = "files"
    ) -> None:
        """Where files failed, name them and end with exit code 1.

        Args:
            failed: Files and reasons.
            what: What could not be done with them.
            hint: Where the others are.
            whats: The plural of what they are, if not files.
        """
        if failed and not self.ranks.is_first:
            raise typer.Exit(1)
        if failed:
            message = f"{len(failed)} {whats} could not be {what}:"
            self.error(message, hint, details=failures(failed))
            raise typer.Exit(1)

    def close(self) -> None:
        """Restore the terminal; print the JSON object, where one was asked for."""
        self._stop_bar()
        if self._json and self.ranks.is_first and self._value:
            print_object(self._value)

    def _progress(self, event: ProgressEvent) -> None:
        if not self._err.is_terminal:
            if line := self._pace.line(event):
                self._err.print(line, soft_wrap=True)
            return
        rate = self._pace.rate(event)
        if self._bar is None:
            wide = not event.epochs or self._err.width >= WITH_BAR
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                *([BarColumn(bar_width=BAR)] if wide else []),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TextColumn("{task.fields[figures]}"),
                TextColumn("elapsed"),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(compact=True),
                console=self._err,
                transient=True,
            )
            self._bar.start()
        if event.task not in self._tasks:
            self._tasks[event.task] = self._bar.add_task(
                visible(described(event)), total=event.total, figures="", rate=""
            )
        self._bar.update(
            self._tasks[event.task],
            description=visible(described(event)),
            completed=event.done,
            total=event.total,
            rate="" if rate is None else speed(rate, event),
        )
        if event.done == event.total:
            self._stop_bar()

    def _describe(self, event: StepLogged) -> None:
        shown = [f"{name} {event.losses[name]:.3g}" for name in brief_names(event.losses)]
        if event.data_wait > NOTABLE_WAIT:
            shown.insert(1, f"waits {event.data_wait:.0%}")
        room = self._err.width - BESIDE - (BAR if self._err.width >= WITH_BAR else 0)
        while len(shown) > 1 and len("  ".join(shown)) > room:
            shown.pop()
        figures = "  ".join(shown)
        if self._bar is not None:
            for task in self._tasks.values():
                self._bar.update(task, figures=figures)

    def _epoch(self, event: EpochEnded) -> None:
        figures = "  ".join(f"{k} {v:.4g}" for k, v in event.metrics.items() if k != "val_error")
        word = "kept" if event.epoch == event.epochs else "best so far"
        best = f"  ({word})" if event.best else ""
        self._err.print(f"epoch {event.epoch}/{event.epochs}  {figures}{best}")

    def _cell(self, event: CellEnded) -> None:
        what = f"failed: {event.error}" if event.error else f"test error {number(event.loss)}"
        self._err.print(
            f"{event.done}/{event.total}  {event.name}  {what}  ({event.seconds:.0f} s)",
            markup=False,
            style="red" if event.error else None,
            soft_wrap=True,
        )

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar, self._tasks = None, {}


@contextmanager
def reporting(
    *,
    json: bool,
    interrupted: str = "No incomplete output is left.",
    shared: bool = False,
) -> Iterator[Reporter]:
    """Yield a reporter; turn errors into a message and the documented exit code.

    Args:
        json: Whether the result is printed as JSON.
        interrupted: What Ctrl-C leaves behind, and what to do.
        shared: Whether processes started by torchrun share the command's work.
    """
    reporter = Reporter(json=json)
    try:
        _check_place()
        with _together(shared) as reporter.ranks:
            yield reporter
    except JobError as problem:  # the process that failed says why; torchrun must not end it before
        reporter.failed(problem.message, problem.hint, 1)
        time.sleep(2 * FIRST_TELLS)
        raise typer.Exit(1) from None
    except MedxlateError as problem:
        reporter.error(problem.message, problem.hint, code=problem.exit_code)
        raise typer.Exit(problem.exit_code) from None
    except KeyboardInterrupt:
        reporter.error("Interrupted.", interrupted, code=INTERRUPTED)
        raise typer.Exit(INTERRUPTED) from None
    except typer.Exit:
        raise
    except OSError as problem:
        if problem.errno in (None, errno.EPIPE):  # a bug; or nobody reads the output any more
            raise
        reporter.error(*_in_words(problem))
        raise typer.Exit(1) from None
    except RuntimeError as problem:
        if reporter.ranks.is_alone or "gloo" not in str(problem):
            reporter.failed(f"{type(problem).__name__}: {problem}", UNFORESEEN, 1)
            raise
        reporter.failed("Another process of the job ended.", "Its own message says why.", 1)
        time.sleep(2 * FIRST_TELLS)  # as above: the connection to that process was closed
        raise typer.Exit(1) from None
    except Exception as problem:
        reporter.failed(f"{type(problem).__name__}: {problem}", UNFORESEEN, 1)
        raise
    finally:
        reporter.close()


def _check_place() -> None:
    """Raise UsageError where the working directory was removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UsageError(
            "The working directory no longer exists.", "Change to another directory."
        ) from None


def _in_words(problem: OSError) -> tuple[str, str]:
    """Return a message for a refusal of the operating system, naming the file, and a hint."""
    place = final_name(problem.filename) if problem.filename else ""
    if problem.errno in FULL:
        where = f" for {place}" if place else ""
        return f"No space is left on the disk{where}.", "Free some space and run the command again."
    if problem.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"{place or 'A file'} cannot be read or written: permission denied.", ""
    why = problem.strerror or "the operating system refuses"
    return f"{place}: {why}." if place else f"{why}.", ""


def print_object(value: dict[str, Any]) -> None:
    """Print the object for ``--json``, in ASCII."""
    print(jsonlib.dumps(value, indent=2, allow_nan=False))  # noqa: T201


@contextmanager
def _together(shared: bool) -> Iterator[Ranks]:
    if not shared and started_by_torchrun():
        raise UsageError(
            "This command cannot share its work between the processes of torchrun.",
            "Run it without torchrun; see docs/how-to/several-gpus.md.",
        )
    with joined() as ranks:
        yield ranks


def number(value: float | None) -> str:
    """Return a figure with four significant digits; a dash where it is not defined."""
    return "-" if value is None else f"{value:.4g}"


def failures(failed: dict[str, str], *, most: int = 5) -> list[str]:
    """Return lines that name files and reasons, a few of many; all with ``--verbose``."""
    if LOUDNESS.get() == "verbose":
        most = len(failed)
    lines = [f"  {name}: {reason}" for name, reason in list(failed.items())[:most]]
    if len(failed) > most:
        lines.append(f"  ... and {len(failed) - most} more")
    return lines


def left_out(files: dict[str, str]) -> list[str]:
    """Return a line that counts the files left out, by kind of reason; empty without any.

    With ``--verbose`` a line a file follows.
    """
    kinds = Counter(reason.partition(":")[0] for reason in files.values())
    named = "; ".join(f"{count}: {kind}" for kind, count in kinds.items())
    each = failures(files) if LOUDNESS.get() == "verbose" else []
    return [f"Left out: {named}.", *each] if named else []
