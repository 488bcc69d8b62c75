"""Lives of a command: from its start to its end, or to a kill."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medxlate.cli.app import main


@dataclass(frozen=True)
class Life:
    """How a command went.

    Attributes:
        killed: Whether it was killed; else it ended by itself.
        code: Its exit code, where it ended.
        seconds: How long it lived.
    """

    killed: bool
    code: int
    seconds: float


def live(words: Sequence[str], log: Path, *, at_most: float | None = None) -> Life:
    """Run a command in a process of its own; kill it after some seconds.

    The process is forked, so that the seconds are spent in the command and not in imports. Only it
    is killed; workers that it started have to notice by themselves.
    """
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(words, log)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        seconds = time.monotonic() - began
        if done:
            return Life(False, os.waitstatus_to_exitcode(status), seconds)
        if at_most is not None and seconds >= at_most:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Life(True, -signal.SIGKILL, seconds)
        time.sleep(0.002)


def _become(words: Sequence[str], log: Path) -> None:
    """Be the command from here on."""
    code = 70
    try:
        with log.open("ab") as stream:
            for number in (1, 2):
                os.dup2(stream.fileno(), number)
        sys.argv = ["medxlate", *words]
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
