"""Jobs on processors: one after the other, or spread over processes of this computer.

A *job* is a function and an item. The function is called with the item, a device such as
``"cuda:1"`` and a number of threads; it must be importable by name and sets the threads itself.
Items and results must be picklable. ``medxlate.study.cluster`` has the runner for a Ray cluster.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, Protocol, TypeVar

from medxlate.base.errors import MedxlateError, UsageError
from medxlate.base.parallel import begin_process, cannot_start, cores

Item = TypeVar("Item")
Result = TypeVar("Result")
Function = Callable[[Item, str, int], Result]

SIGKILL = 9  # signal.SIGKILL, which Windows lacks
PATIENCE = 1.0  # seconds between two looks whether the processes live
GRACE = 5.0  # seconds a process has to end by itself
THREADS = "OMP_NUM_THREADS"  # PyTorch reads it once, when it is imported


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of an item.

    Args:
        item: The item.
        result: What the function returned, or None where it failed.
        error: One line that says why it failed; empty where it did not.
    """

    item: Item
    result: Result | None
    error: str = ""


class Runner(Protocol):
    """Applies a function to items; the failure of one item costs that item only."""

    def run(
        self, function: Function[Item, Result], items: Sequence[Item]
    ) -> Generator[Outcome[Item, Result], None, None]:
        """Yield an outcome per item, in the order of completion.

        All the processes have ended once the generator is closed (``contextlib.closing``).

        Raises:
            UsageError: The processes cannot be started, or the cluster cannot be reached.
        """


def in_turn(device: str, threads: int) -> Runner:
    """Return the runner that calls the function in this process, one item after the other.

    Args:
        device: Passed on to the function.
        threads: Passed on to the function.
    """
    return _InTurn(device, threads)


def local_processes(jobs: int, devices: Sequence[str]) -> Runner:
    """Return the runner over processes of this computer.

    A process lives on over many items, so that libraries are loaded once, and keeps its device;
    the devices are dealt out in turn. Each has an equal share of the cores as threads, at least
    one. The next item goes to the process that is free first.

    Args:
        jobs: How many processes work at the same time, 1 or more.
        devices: For example ``["cuda:0", "cuda:1"]`` or ``["cpu"]``.

    Raises:
        UsageError: No jobs or no devices.
    """
    if jobs < 1:
        raise UsageError(f"{jobs} jobs at a time is impossible", "Give 1 or more.")
    if not devices:
        raise UsageError("There is no device to work on", "Name one, such as cpu.")
    return _LocalProcesses(jobs, tuple(devices))


def attempt(
    function: Function[Item, Result], item: Item, device: str, threads: int
) -> tuple[Result | None, str]:
    """Call the function; return its result and no error, or None and the error in one line."""
    try:
        return function(item, device, threads), ""
    except Exception as problem:
        return None, describe(problem)


def describe(problem: Exception) -> str:
    """Return an exception in one line; its type is named unless its text was made for users."""
    text = " ".join(str(problem).split())
    if isinstance(problem, MedxlateError):
        return text
    return f"{type(problem).__name__}: {text}" if text else type(problem).__name__


@dataclass(frozen=True)
class _InTurn:
    device: str
    threads: int

    def run(
        self, function: Function[Item, Result], items: Sequence[Item]
    ) -> Generator[Outcome[Item, Result], None, None]:
        for item in items:
            yield Outcome(item, *attempt(function, item, self.device, self.threads))


@dataclass(frozen=True)
class _LocalProcesses:
    jobs: int
    devices: tuple[str, ...]

    def run(
        self, function: Function[Item, Result], items: Sequence[Item]
    ) -> Generator[Outcome[Item, Result], None, None]:
        threads = max(1, cores() // self.jobs)
        slots: list[_Slot[Item, Result]] = [
            _Slot(function, self.devices[number % len(self.devices)], threads)
            for number in range(min(self.jobs, len(items)))
        ]

        def close() -> None:
            _close(slots)

        atexit.register(close)  # for a generator that is still open when Python ends
        try:
            yield from _outcomes(slots, iter(items))
        finally:
            close()
            atexit.unregister(close)


class _Slot(Generic[Item, Result]):
    """A process on a device, and the one that takes its place when it dies."""

    def __init__(self, function: Function[Item, Result], device: str, threads: int) -> None:
        self._function = function
        self._device = device
        self._threads = threads
        self._began = False
        self._items: list[Item] = []  # the one being worked on, or none
        self._process: SpawnProcess | None = None
        self.pipe: Connection[Any, Any]

    def take(self, rest: Iterator[Item]) -> bool:
        """Begin the next item; where there is none, let the process end, and with it its memory."""
        for item in rest:
            self._items = [item]
            self._send((self._function, item))
            return True
        self._items = []
        if self._process is not None:
            self.pipe.close()
        return False

    def is_dead(self) -> bool:
        return self._process is None or not self._process.is_alive()

    def outcome(self) -> Outcome[Item, Result] | None:
        """Return what the process has to say; None where it is just that it has begun.

        Raises:
            UsageError: No process could be started.
        """
        (item,) = self._items
        try:
            if not self.pipe.poll():
                raise EOFError
            message: tuple[Result | None, str] | None = self.pipe.recv()
        except (EOFError, OSError):
            error = f"its process died ({_cause(self._bury())})"
            if not self._began:
                raise cannot_start() from None
            return Outcome(item, None, error)
        if message is None:
            self._began = True
            return None
        return Outcome(item, *message)

    def stop(self) -> None:
        """Tell the process to end, at once where it is at work."""
        if self._process is None:
            return
        if self._items:
            self._process.terminate()
        self.pipe.close()

    def join(self) -> None:
        if self._process is not None:
            self._bury()

    def _send(self, message: tuple[Function[Item, Result], Item]) -> None:
        if self._process is not None:
            try:
                self.pipe.send(message)
                return
            except OSError:  # it died between two items
                self._bury()
        self._start()
        self.pipe.send(message)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._device, self._threads))
        with _environment(THREADS, str(self._threads)):
            process.start()
        self._process = process
        theirs.close()

    def _bury(self) -> int | None:
        """Wait for the end of the process; return its exit code."""
        assert self._process is not None
        self.pipe.close()
        self._process.join(GRACE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        code = self._process.exitcode
        self._process.close()
        self._process = None
        return code


def _outcomes(
    slots: Sequence[_Slot[Item, Result]], rest: Iterator[Item]
) -> Iterator[Outcome[Item, Result]]:
    busy = [slot for slot in slots if slot.take(rest)]
    while busy:
        for slot in _with_news(busy):
            outcome = slot.outcome()
            if outcome is None:
                continue
            if not slot.take(rest):
                busy.remove(slot)
            yield outcome


def _with_news(busy: Sequence[_Slot[Item, Result]]) -> list[_Slot[Item, Result]]:
    """Wait for a message or the end of a process.

    The pipe of a dead process may stay open in processes that it had started itself.
    """
    by_pipe = {slot.pipe: slot for slot in busy}
    while True:
        if ready := wait(list(by_pipe), PATIENCE):
            return [slot for pipe, slot in by_pipe.items() if pipe in ready]
        if dead := [slot for slot in busy if slot.is_dead()]:
            return dead


def _close(slots: Sequence[_Slot[Item, Result]]) -> None:
    for slot in slots:
        slot.stop()
    for slot in slots:
        slot.join()


def _serve(pipe: Connection[Any, Any], device: str, threads: int) -> None:
    """Work on what comes through the pipe until it is closed; the life of a child process."""
    begin_process()
    pipe.send(None)
    while True:
        try:
            function, item = pipe.recv()
        except (EOFError, OSError):
            return
        except Exception as problem:  # the function cannot be imported here
            pipe.send((None, describe(problem)))
            continue
        done = attempt(function, item, device, threads)
        try:
            pipe.send(done)
        except OSError:
            return
        except Exception as problem:  # the result cannot be pickled
            pipe.send((None, describe(problem)))
        del function, item, done


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code}" + ("; out of memory?" if -code == SIGKILL else "")
    return f"exit code {code}"


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
