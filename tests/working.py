"""Functions for the processes of the study's runners; light, for every process imports it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medxlate.base.errors import DataError

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


standing: frozenset[int] = frozenset()  # children that earlier tests left, such as the decoder's


def children() -> list[int]:
    """Return the processes that this one started, without ``standing``, and that are no zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == os.getpid() and state != "Z":
            found.append(int(stat.parent.name))
    return [pid for pid in found if pid not in standing]


def runs(pid: int) -> bool:
    """Return whether a process is there and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("nothing happened")
        time.sleep(0.02)


def first_waits(item: int, device: str, threads: int) -> int:
    """Return; the item 0 does so after a minute."""
    time.sleep(0 if item else 60)
    return item


def meet(item: tuple[Path, int], device: str, threads: int) -> str:
    """Return the device once so many processes are at work at the same time."""
    folder, count = item
    (folder / str(os.getpid())).touch()
    until(lambda: len(list(folder.iterdir())) >= count)
    return device


def wait_for_the_others(item: tuple[Path, int], device: str, threads: int) -> int:
    """Leave a note; the first item waits for the notes of three others."""
    folder, number = item
    if number == 0:
        until(lambda: len(list(folder.iterdir())) == 3)
    else:
        (folder / str(number)).touch()
    return number


def note_and_wait(folder: Path, device: str, threads: int) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(60)


def leave_a_grandchild(item: int, device: str, threads: int) -> None:
    """Die while a process that was forked from here still holds the pipe open."""
    if os.fork() == 0:
        time.sleep(15)
    os._exit(3)


def first_notes_and_waits(item: tuple[Path, int], device: str, threads: int) -> None:
    folder, number = item
    if number == 0:
        note_and_wait(folder, device, threads)
