"""Functions called in other processes, where a crash or a hang costs one call and no more.

A ``Worker`` is one process that answers calls one after the other; a ``Pool`` shares calls among
several; ``processes`` maps a function over items in order. Functions must be importable by name,
and arguments and results picklable: pickles go through the worker's own pipes, as those of
multiprocessing do, and come from nowhere else.

A worker is a fresh interpreter: a fork would copy the locks of other libraries' threads. It does
not import the caller's ``__main__``, so scripts need no guard. It ends when its standard input
does, and so with its parent, however that ends. What it prints goes to standard error.
"""

from __future__ import annotations

import atexit
import json
import os
import pickle
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from itertools import islice
from queue import Empty, Queue, SimpleQueue
from typing import IO, Any, Protocol, TypeVar

from medxlate.base.errors import MedxlateError, UsageError
from medxlate.base.machine import keep_freed_memory

Item = TypeVar("Item")
Result = TypeVar("Result")

# Ctrl-C is the parent's to answer, from the first moment.
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); import json, sys; "
    "sys.path[:] = json.loads(sys.argv[1]); from medxlate.base.pool import serve; serve()"
)
AHEAD = 2  # items that each process may be ahead of the reader
PATIENCE = 1.0  # seconds between two looks whether a process lives
GRACE = 5.0  # seconds a process has to end by itself
SIGKILL = 9  # signal.SIGKILL, which Windows lacks


class DiedError(MedxlateError):
    """The process of a call ended before it answered, or was ended because it took too long."""


class Worker:
    """A process that answers calls one after the other.

    The first call starts it; the first call after its death starts another one. Threads may share
    it. A fork of this process gets a process of its own.

    Args:
        environment: Variables to set in the process.
        quiet: Whether what the process prints is discarded.
    """

    def __init__(
        self, *, environment: Mapping[str, str] | None = None, quiet: bool = False
    ) -> None:
        self._environment = dict(environment or {})
        self._quiet = quiet
        self._closed = False
        self._reset()

    def call(
        self, function: Callable[..., Result], *arguments: Any, limit: float | None = None
    ) -> Result:
        """Return ``function(*arguments)``, called in the process.

        Args:
            function: A function that can be imported by name.
            arguments: Picklable.
            limit: Seconds after which the process is ended, from when it is free for this call;
                None: it may take any time.

        Raises:
            DiedError: The process ended, or took too long.
            UsageError: No process can be started.
            Exception: Whatever the function raises, with the remote traceback as a note; a
                RuntimeError of the same text where that cannot be pickled.
        """
        if self._owner != os.getpid():
            self._reset()
        request = pickle.dumps((function, arguments))
        with self._lock:
            deadline = None if limit is None else time.monotonic() + limit
            is_result, value = self._exchange(request, deadline)
        if is_result:
            return value  # type: ignore[no-any-return]
        raise value

    def stop(self) -> None:
        """Let the process end, at once where it is at work; no further call is answered."""
        self._closed = True
        process = self._process
        if process is not None and self._owner == os.getpid():
            process.stop()

    def close(self) -> None:
        """Stop the process and wait for its end."""
        self.stop()
        process = self._process
        if process is not None and self._owner == os.getpid():
            process.bury()

    def _reset(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._process: _Process | None = None

    def _exchange(self, request: bytes, deadline: float | None) -> tuple[bool, Any]:
        if self._closed:
            raise DiedError("its worker was closed")
        process = self._process
        if process is not None and not process.is_alive:  # it died between two calls
            process.bury()
            process = None
        if process is None:
            process = self._start()
        try:
            return process.ask(request, deadline)
        except BaseException:  # also Ctrl-C: the answer would be taken for the next call's
            self._process = None  # first: a second Ctrl-C may come while it is buried
            process.bury()
            raise

    def _start(self) -> _Process:
        process = _Process({**os.environ, **self._environment}, quiet=self._quiet)
        self._process = process
        if self._closed:  # meanwhile, by another thread
            process.stop()
        return process


class _Process:
    """One process of a worker, and a thread that reads its answers."""

    def __init__(self, environment: Mapping[str, str], *, quiet: bool) -> None:
        path = json.dumps([place for place in sys.path if isinstance(place, str)])
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM, path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if quiet or sys.stderr is None else None,
                env=environment,
            )
        except OSError as problem:
            raise _cannot_start(str(problem)) from None
        self._has_begun = False
        self._answers: SimpleQueue[bytes | None] = SimpleQueue()
        threading.Thread(target=self._listen, name="medxlate-answers", daemon=True).start()

    @property
    def is_alive(self) -> bool:
        return self._popen.poll() is None

    def ask(self, request: bytes, deadline: float | None) -> tuple[bool, Any]:
        """Send a request and return its answer: whether it is a result, and the value or error."""
        if not self._has_begun:
            if self._answer(deadline) is None:
                raise _cannot_start(self._cause())
            self._has_begun = True
        assert self._popen.stdin is not None
        with suppress(OSError, ValueError):  # it died or was stopped: nothing will be answered
            _send(self._popen.stdin.fileno(), request)
        answer = self._answer(deadline)
        if answer is None:
            raise DiedError(f"its process died ({self._cause()})")
        is_result, value = pickle.loads(answer)
        return is_result, value

    def stop(self) -> None:
        assert self._popen.stdin is not None
        with suppress(OSError):
            self._popen.stdin.close()

    def bury(self) -> None:
        """Wait for the end of the process, with limited patience."""
        self.stop()
        try:
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(GRACE)
        finally:  # also where Ctrl-C ends the wait
            self._popen.kill()
            self._popen.wait()

    def _answer(self, deadline: float | None) -> bytes | None:
        """Return the next answer; None where the process ended.

        The pipe of a dead process may stay open in processes that it had started itself.
        """
        while True:
            left = PATIENCE if deadline is None else min(PATIENCE, deadline - time.monotonic())
            try:
                return self._answers.get(timeout=max(0.0, left))
            except Empty:
                if not self.is_alive:
                    return None
            if deadline is not None and time.monotonic() >= deadline:
                self._popen.kill()
                raise DiedError("its process took too long")

    def _listen(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as stdout:
            while (answer := _receive(stdout)) is not None:
                self._answers.put(answer)
                del answer  # it may be large
        self._answers.put(None)

    def _cause(self) -> str:
        try:
            code = self._popen.wait(GRACE)
        except subprocess.TimeoutExpired:
            return "it closed its output"
        if code < 0:
            return f"signal {-code}" + ("; out of memory?" if -code == SIGKILL else "")
        return f"exit code {code}"


class Pool:
    """Workers that share calls: each call goes to the worker that is free first.

    Leaving the block ends all processes, at once where they are at work.

    Args:
        workers: At least one; the pool closes them.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[Worker], Any]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, args=(worker,), daemon=True) for worker in workers
        ]
        self._is_closed = self._is_finished = False
        for thread in self._threads:
            thread.start()
        atexit.register(self.close)  # for a generator that is still open when Python ends

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes, at once where they are at work; calls that wait are cancelled."""
        if self._is_closed:
            return
        self._is_closed = True
        atexit.unregister(self.close)
        with suppress(Empty):
            while (waiting := self._calls.get_nowait()) is not None:
                waiting[0].cancel()
        self.finish()
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            worker.close()
        for thread in self._threads:
            thread.join()

    def submit(self, call: Callable[[Worker], Result]) -> Future[Result]:
        """Return the future result of a function of the worker that is free first.

        Raises:
            RuntimeError: The pool is closed or finished: nobody would answer.
        """
        if self._is_finished:
            raise RuntimeError("The pool accepts no more calls.")
        future: Future[Result] = Future()
        self._calls.put((future, call))
        return future

    def finish(self) -> None:
        """Accept no more calls: each worker ends when nothing is left for it, with its memory."""
        self._is_finished = True
        for _ in self._workers:
            self._calls.put(None)

    def _work(self, worker: Worker) -> None:
        while (waiting := self._calls.get()) is not None:
            future, call = waiting
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call(worker))
            except BaseException as problem:
                future.set_exception(problem)
            del waiting, future, call  # a result may be large
        worker.close()


class Mapper(Protocol):
    """Applies a function to items and yields the results in order."""

    def __call__(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        crashed: Callable[[Item], Result],
    ) -> Iterator[Result]:
        """Yield ``function(item)`` for each item.

        An item that ends its process is tried once more; ``crashed(item)`` where that one ends too.
        """


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

    What the function raises is raised in the place of its result. Items are taken only a little
    ahead of the reader. An item that ends its process is tried again after those that wait: memory
    may have run out because of the others.
    """
    if count <= 1:
        keep_freed_memory()
        yield in_this_process
        return
    with Pool([Worker() for _ in range(count)]) as pool:

        def mapper(
            function: Callable[[Item], Result],
            items: Iterable[Item],
            crashed: Callable[[Item], Result],
        ) -> Iterator[Result]:
            def submit(item: Item) -> Future[Result]:
                return pool.submit(lambda worker: worker.call(function, item))

            rest = iter(items)
            waiting: deque[tuple[Item, Future[Result]]] = deque()
            try:
                while True:
                    for item in islice(rest, AHEAD * count - len(waiting)):
                        waiting.append((item, submit(item)))
                    if not waiting:
                        return
                    item, future = waiting.popleft()
                    try:
                        result = future.result()
                    except DiedError:
                        try:
                            result = submit(item).result()
                        except DiedError:
                            result = crashed(item)
                    yield result
            finally:
                for _, future in waiting:
                    future.cancel()

        yield mapper


def serve() -> None:
    """Answer calls until standard input ends; the life of a worker's process."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    keep_freed_memory()
    waiting: Queue[bytes | None] = Queue()
    threading.Thread(target=_read, args=(requests, waiting), daemon=True).start()
    with suppress(OSError):  # the parent is gone
        _send(answers, b"")  # it has begun
        while (request := waiting.get()) is not None:
            _send(answers, _answer(request))
            del request
            waiting.task_done()


def _read(requests: IO[bytes], waiting: Queue[bytes | None]) -> None:
    """Hand requests on; when they end, so does the process, even in the middle of its work."""
    while (request := _receive(requests)) is not None:
        waiting.put(request)
        del request  # it may be large
    if waiting.unfinished_tasks:
        os._exit(1)
    waiting.put(None)


def _answer(request: bytes) -> bytes:
    try:
        function, arguments = pickle.loads(request)
        return pickle.dumps((True, function(*arguments)))
    except Exception as problem:
        return _packed(problem)


def _packed(problem: Exception) -> bytes:
    """Return an answer that raises an exception, or where it cannot be pickled, its text."""
    origin = "".join(traceback.format_exception(problem))
    if not isinstance(problem, MedxlateError):
        problem.add_note(origin)
    try:
        packed = pickle.dumps((False, problem))
        pickle.loads(packed)
    except Exception:
        other = RuntimeError(f"{type(problem).__name__}: {problem}")
        other.add_note(origin)
        return pickle.dumps((False, other))
    return packed


def _send(pipe: int, message: bytes) -> None:
    rest = memoryview(pickle.dumps(message))
    while rest:
        rest = rest[os.write(pipe, rest) :]


def _receive(stream: IO[bytes]) -> bytes | None:
    """Return the next message; None where the stream has ended, or memory does not hold it."""
    try:
        message: bytes = pickle.load(stream)
    except (EOFError, MemoryError, OSError, pickle.UnpicklingError):
        return None
    return message


def _cannot_start(why: str) -> UsageError:
    return UsageError(
        f"No further process could be started: {why}.",
        f"Check that {sys.executable or 'Python'} runs on this machine, or use one worker.",
    )
