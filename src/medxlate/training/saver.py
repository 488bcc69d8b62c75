"""When checkpoints are written, and by which thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from medxlate.base.machine import memory_left
from medxlate.config import RuntimeConfig
from medxlate.training.checkpoints import DURING, write_checkpoint
from medxlate.training.state import TrainingState

SPARE = 2  # a copy in memory is made where this many of them fit


class Saver:
    """Writes checkpoints in a thread beside the training, one at a time.

    It is a context: what is being written when it is left is finished. The state is copied first,
    so that the training can go on; where memory does not hold a copy, the training waits.

    Args:
        folder: The run's checkpoints.
        runtime: When they are due, and how many stay.
        writes: Whether this process is the one that writes.
        clock: In seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        runtime: RuntimeConfig,
        writes: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._runtime = runtime
        self._writes = writes
        self._clock = clock
        self._saved_at = clock()
        self._took = 0.0  # seconds, of the last writing
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="medxlate-checkpoint")
        self._writing: Future[None] | None = None

    def __enter__(self) -> Saver:
        """Return the saver."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish what is being written; an error of the training goes before one of writing."""
        try:
            if kind is None:
                self.finish()
            else:
                with suppress(Exception):
                    self.finish()
        finally:
            self._thread.shutdown()

    def is_due(self, step: int) -> bool:
        """Return whether as many steps as configured were taken."""
        every = self._runtime.checkpoint_steps
        return every is not None and step % every == 0

    def is_late(self) -> bool:
        """Return whether one must begin now to be complete within the configured minutes."""
        minutes = self._runtime.checkpoint_minutes
        return minutes is not None and self._clock() - self._saved_at + self._took >= 60 * minutes

    def save(self, snapshot: TrainingState) -> None:
        """Write a snapshot of the living training; it may go on when this returns.

        Raises:
            OutputError: This one or the one before could not be written.
        """
        self._saved_at = self._clock()
        if not self._writes:
            return
        self.finish()
        left = memory_left()
        if left is not None and left < SPARE * snapshot.bytes:
            self._write(snapshot)
            return
        self._writing = self._thread.submit(self._write, snapshot.copied())

    def _write(self, snapshot: TrainingState) -> None:
        began = self._clock()
        write_checkpoint(self._folder, snapshot, keep=self._runtime.keep_checkpoints or DURING)
        self._took = self._clock() - began

    def check(self) -> None:
        """Raise what went wrong in a writing that has ended."""
        if self._writing is not None and self._writing.done():
            self.finish()

    def finish(self) -> None:
        """Wait for what is being written; raise what goes wrong."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
