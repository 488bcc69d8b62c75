"""Reading ahead and writing behind, in a thread each, with room for a few batches and no more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")

DEPTH = 2  # batches ready to be computed, and finished ones that wait to be written


@contextmanager
def ahead(items: Iterable[Item], *, depth: int = DEPTH) -> Iterator[Iterator[Item]]:
    """Yield an iterator over items that a thread takes up to ``depth`` ahead.

    What taking an item raises is raised where it would have been without the thread. Leaving the
    block, however it is left, stops the thread after the item that it is about to take.

    Args:
        items: Only the thread takes from it and, if it is a generator, closes it.
        depth: How many items may wait.
    """
    ready: SimpleQueue[tuple[Item] | BaseException | None] = SimpleQueue()
    room = threading.Semaphore(depth)
    stopped = threading.Event()

    def work() -> None:
        iterator = iter(items)
        try:
            while room.acquire() and not stopped.is_set():
                ready.put((next(iterator),))
        except StopIteration:
            ready.put(None)
        except BaseException as problem:
            ready.put(problem)
        finally:
            if close := getattr(iterator, "close", None):
                close()

    def taken() -> Iterator[Item]:
        while (message := ready.get()) is not None:
            room.release()
            if isinstance(message, BaseException):
                raise message
            yield message[0]

    thread = threading.Thread(target=work, name="medxlate-reader", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stopped.set()
        room.release()
        thread.join()


@contextmanager
def behind(
    write: Callable[[Item], None], *, depth: int = DEPTH
) -> Iterator[Callable[[Item], None]]:
    """Yield a function that hands an item to a thread, which calls ``write`` in the same order.

    The function waits where ``depth`` items are waiting already. The block's end waits until all is
    written. What ``write`` raises is raised by the next call or at the block's end, and nothing
    more is written; nor is it where the block itself raises.

    Args:
        write: Only the thread calls it.
        depth: How many items may wait.
    """
    waiting: SimpleQueue[tuple[Item] | None] = SimpleQueue()
    room = threading.Semaphore(depth)
    stopped = threading.Event()
    problems: list[BaseException] = []

    def work() -> None:
        try:
            while (message := waiting.get()) is not None and not stopped.is_set():
                write(message[0])
                room.release()
        except BaseException as problem:
            problems.append(problem)
            room.release()  # the other side may be waiting

    def put(item: Item) -> None:
        room.acquire()
        if problems:
            raise problems[0]
        waiting.put((item,))

    thread = threading.Thread(target=work, name="medxlate-writer", daemon=True)
    thread.start()
    try:
        yield put
        waiting.put(None)
        thread.join()
    finally:
        stopped.set()
        waiting.put(None)
        thread.join()
    if problems:
        raise problems[0]
