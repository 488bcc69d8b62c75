"""Jobs on processors: one after the other, or spread over processes of this computer.

A *job* is a function and an item. The function is called with the item, a device such as
``"cuda:1"`` and a number of threads; it must be importable by name and sets the threads itself.
Items and results must be picklable. ``medxlate.study.cluster`` has the runner for a Ray cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from medxlate.base.errors import MedxlateError, UsageError
from medxlate.base.machine import cores
from medxlate.base.pool import Pool, Worker

Item = TypeVar("Item")
Result = TypeVar("Result")
Function = Callable[[Item, str, int], Result]

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
        raise UsageError(f"{jobs} parallel jobs are not possible.", "Use 1 or more.")
    if not devices:
        raise UsageError("No device is given.", "Give one, such as cpu.")
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
        devices = {
            Worker(environment={THREADS: str(threads)}): self.devices[number % len(self.devices)]
            for number in range(min(self.jobs, len(items)))
        }

        def work(item: Item, worker: Worker) -> tuple[Result | None, str]:
            return worker.call(attempt, function, item, devices[worker], threads)

        with Pool(list(devices)) as pool:
            futures = {pool.submit(partial(work, item)): item for item in items}
            pool.finish()
            for future in as_completed(futures):
                item = futures.pop(future)
                try:
                    result, error = future.result()
                except UsageError:  # no process can be started
                    raise
                except Exception as problem:  # the process died, or the result cannot be pickled
                    result, error = None, describe(problem)
                yield Outcome(item, result, error)
