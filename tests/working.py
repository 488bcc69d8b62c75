"""Functions for the processes of the study's runners; light, for every process imports it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from medxlate.errors import DataError

KILLER, LEAVER, FAILER, MISLABELLED, SECRETIVE = 101, 102, 103, 104, 105


@dataclass(frozen=True)
class Seen:
    """What a function finds where it is called."""

    value: int
    pid: int
    device: str
    threads: int
    openmp: str | None
    gpus: str | None


def look(item: int, device: str, threads: int) -> Seen:
    openmp = os.environ.get("OMP_NUM_THREADS")
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    return Seen(item * item, os.getpid(), device, threads, openmp, gpus)


def square(item: int, device: str, threads: int) -> object:
    """Square; some items fail instead, each in its own way."""
    if item == KILLER:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == LEAVER:
        os._exit(3)
    if item == FAILER:
        raise LookupError("no such\nthing")
    if item == MISLABELLED:
        raise DataError("The labels are gone", "Look for them.")
    if item == SECRETIVE:
        return lambda: item  # cannot be pickled
    return item * item


def wait_for(seconds: float, device: str, threads: int) -> float:
    time.sleep(seconds)
    return seconds


def meet(folder: Path, device: str, threads: int) -> str:
    """Return the device once two processes are at work at the same time."""
    (folder / str(os.getpid())).touch()
    deadline = time.monotonic() + 15
    while len(list(folder.iterdir())) < 2:
        if time.monotonic() > deadline:
            raise TimeoutError("nobody came")
        time.sleep(0.01)
    return device


def note_and_wait(folder: Path, device: str, threads: int) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(60)


def die_after_the_result(item: int, device: str, threads: int) -> int:
    """Return; the process dies soon after, at rest."""
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return os.getpid()


def leave_a_grandchild(item: int, device: str, threads: int) -> None:
    """Die while a process that was started from here still holds the pipe open."""
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(4)"])
    os._exit(3)


def ask_for_openmp(item: int, device: str, threads: int) -> str:
    """Return what a program that is started from here would be given."""
    ask = "import os; print(os.environ['OMP_NUM_THREADS'])"
    return subprocess.check_output([sys.executable, "-c", ask], text=True).strip()
