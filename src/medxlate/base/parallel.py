"""Work spread over processes, its results in order; a crashed process costs one item only."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from medxlate.base.errors import UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")

KEPT_BYTES = 24 << 20
CGROUP = Path("/sys/fs/cgroup")
AHEAD = 2  # items a process may be ahead of the reader


class Mapper(Protocol):
    """Applies a function to items and yields the results in order."""

    def __call__(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        crashed: Callable[[Item], Result],
    ) -> Iterator[Result]:
        """Yield ``function(item)`` for each item; ``crashed(item)`` where it killed its process."""


def in_this_process(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    crashed: Callable[[Item], Result],
) -> Iterator[Result]:
    """Apply the function here, one item after the other."""
    return (function(item) for item in items)


@contextmanager
def processes(count: int) -> Iterator[Mapper]:
    """Yield a mapper over ``count`` processes; 1 means this process.

    Functions and items must be picklable. Processes end with this one, however it ends.
    """
    if count <= 1:
        keep_freed_memory()
        yield in_this_process
        return
    pools = _Pools(count)
    try:
        pools.check()
        yield pools.map
    finally:
        pools.close()


def cores() -> int:
    """Return how many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_left() -> int | None:
    """Return how many bytes of memory may still be taken, by the machine and its container.

    None where the system does not say (it is not Linux).
    """
    left = []
    with suppress(OSError, ValueError):
        with open("/proc/meminfo", encoding="ascii") as stream:
            fields = dict(line.split(":") for line in stream)
        left.append(int(fields["MemAvailable"].split()[0]) << 10)
    with suppress(OSError, ValueError):  # "max" where the container has no limit
        limit, used = (
            int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current")
        )
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        left.append(limit - used + int(stat["inactive_file"]))  # cached files make room
    return max(0, min(left)) if left else None


def cannot_start() -> UsageError:
    """Return the error of a process that ended before it began."""
    return UsageError(
        "Further processes cannot be started.",
        "A script must call this below `if __name__ == '__main__':`, for each process "
        "imports it; or use one worker.",
    )


def keep_freed_memory() -> None:
    """Let glibc keep freed images for the next ones.

    It gives memory back to the system, and takes it again page by page, for each image; that took
    half of a slice's time. Once a block of some MiB was freed, it keeps up to twice as much
    (mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD). Elsewhere this does nothing.
    """
    bytearray(KEPT_BYTES)


class _Pools:
    def __init__(self, count: int) -> None:
        self._count = count
        self._pool = _new_pool(count)

    def check(self) -> None:
        """Raise UsageError where processes cannot even begin."""
        try:
            self._pool.submit(os.getpid).result()
        except BrokenProcessPool:
            raise cannot_start() from None

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        crashed: Callable[[Item], Result],
    ) -> Iterator[Result]:
        waiting: deque[tuple[Item, Future[Result] | None]] = deque()
        rest = iter(items)
        while True:
            for item in islice(rest, AHEAD * self._count - len(waiting)):
                waiting.append((item, self._submit(function, item)))
            if not waiting:
                return
            future = waiting[0][1]
            try:
                if future is None:
                    raise BrokenProcessPool
                result = future.result()
            except BrokenProcessPool:
                yield from self._one_by_one(function, [item for item, _ in waiting], crashed)
                waiting.clear()
                continue
            waiting.popleft()
            yield result

    def _submit(self, function: Callable[[Item], Result], item: Item) -> Future[Result] | None:
        try:
            return self._pool.submit(function, item)
        except BrokenProcessPool:  # an earlier item has just killed its process
            return None

    def _one_by_one(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        crashed: Callable[[Item], Result],
    ) -> Iterator[Result]:
        """Find the item that kills its process by giving each a process of its own."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for item in items:
            with _new_pool(1) as alone:
                try:
                    result = alone.submit(function, item).result()
                except BrokenProcessPool:
                    result = crashed(item)
            yield result
        self._pool = _new_pool(self._count)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _new_pool(count: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # a fork would copy other libraries' threads
    return ProcessPoolExecutor(count, mp_context=context, initializer=begin_process)


def begin_process() -> None:
    """Leave Ctrl-C to the parent, and end when it ends; for the start of a child process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=partial(_end_with, parent.join), daemon=True).start()


def _end_with(wait: Callable[[], None]) -> None:
    wait()
    os._exit(1)
