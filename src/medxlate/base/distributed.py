"""The processes of one job, as torchrun starts them; a process alone is a job of one.

The *first* of them (rank 0) makes folders, records and prints. Nothing here is pickled: the
processes send one another JSON or tensors.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from medxlate.base.errors import JobError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")

SET_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# torchrun ends the others when one process dies; this bounds only a wait for one that hangs, and
# has to be longer than what the first does alone.
PATIENCE = timedelta(hours=6)
JOINING = 600  # seconds in which all processes of a job have to come
RELEASE = 0.1  # seconds
_PREFIX = "medxlate/prefix"


@dataclass(frozen=True)
class Ranks:
    """This process among those of its job.

    Attributes:
        rank: Its number, from 0.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether this is the only process."""
        return self.count == 1

    def shard(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return every ``count``-th item, beginning with this process's own."""
        return items[self.rank :: self.count]

    def part(self, size: int) -> slice:
        """Return this process's part of ``size`` consecutive items; parts differ by one at most."""
        return slice(self.rank * size // self.count, (self.rank + 1) * size // self.count)

    def sizes(self, size: int) -> list[int]:
        """Return how many of ``size`` items each process has as its part."""
        borders = [rank * size // self.count for rank in range(self.count + 1)]
        return [end - begin for begin, end in pairwise(borders)]

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.gather(None)

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return any(self.gather(flag))

    def broadcast(self, value: Any) -> Any:
        """Return the first process's value, which JSON can say, in every process."""
        return self.gather(value if self.is_first else None)[0]

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, which JSON can say, in every process."""
        if self.is_alone:
            return [value]
        import torch

        text = bytearray(json.dumps(value).encode())
        own = torch.frombuffer(text, dtype=torch.uint8)
        return [json.loads(bytes(each.tolist())) for each in self.gather_rows(own)]

    def gather_rows(self, rows: Tensor) -> list[Tensor]:
        """Return the tensors of all processes; they may differ in their first dimension only.

        Raises:
            JobError: Another process ended (it is noticed where the tensors lie in main memory).
        """
        if self.is_alone:
            return [rows]
        try:
            return self._gather_rows(rows)
        except RuntimeError:  # gloo's: the connection was closed
            if rows.device.type != "cpu":
                raise
            raise JobError("Another process of this job failed.", "See its message.") from None

    def _gather_rows(self, rows: Tensor) -> list[Tensor]:
        import torch
        from torch import distributed

        own = torch.tensor([len(rows)], device=rows.device)
        counts = [torch.zeros_like(own) for _ in range(self.count)]
        distributed.all_gather(counts, own)
        lengths = [int(each) for each in counts]
        return list(torch.split(self.join_rows(rows, lengths), lengths))

    def join_rows(self, rows: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return the rows of all processes, one after the other; nothing waits for the device.

        Args:
            rows: This process's.
            lengths: How many each process has.
        """
        if self.is_alone:
            return rows
        import torch
        from torch import distributed

        padded = rows.new_zeros((max(lengths), *rows.shape[1:]))
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in range(self.count)]
        distributed.all_gather(gathered, padded)
        return torch.cat([each[:length] for each, length in zip(gathered, lengths, strict=True)])


def ranks() -> Ranks:
    """Return this process among those of its job."""
    distributed = sys.modules.get("torch.distributed")  # nobody has joined without it
    if distributed is None or not (distributed.is_available() and distributed.is_initialized()):
        return Ranks()
    return Ranks(distributed.get_rank(), distributed.get_world_size())


def started_by_torchrun() -> bool:
    """Return whether this process is one of several that torchrun started."""
    if not all(name in os.environ for name in SET_BY_TORCHRUN):
        return False
    return int(os.environ["WORLD_SIZE"]) > 1


def local_rank() -> int:
    """Return which process on this machine this is, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def restarts() -> tuple[int, int]:
    """Return how often torchrun has restarted this job, and how often it may."""
    done, most = (
        os.environ.get(f"TORCHELASTIC_{name}", "0") for name in ("RESTART_COUNT", "MAX_RESTARTS")
    )
    return int(done), int(most)


def local_count() -> int:
    """Return how many processes of the job are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the other processes that torchrun started; alone where there are none.

    Gradients on GPUs are exchanged by NCCL, everything else by gloo.
    """
    if not started_by_torchrun():
        yield Ranks()
        return
    import torch
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    if local_rank() < torch.cuda.device_count():
        torch.cuda.set_device(local_rank())
    on_gpus = torch.cuda.is_available() and distributed.is_nccl_available()
    try:
        store, rank, count = next(rendezvous("env://"))
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
            store=PrefixStore(_agreed_prefix(store, rank, count), store),
            rank=rank,
            world_size=count,
            timeout=PATIENCE,
        )
    except RuntimeError as problem:  # torch's own errors of connections are of this kind
        first = str(problem).splitlines()[0]
        raise UsageError(
            f"The processes of this job cannot connect to each other: {first}",
            "Check torchrun's --rdzv-endpoint and make sure that no other job uses it.",
        ) from None
    yield ranks()
    # Only after a good end: after an error, this could wait for processes that wait for this one.
    # Before, gloo's threads get the time to release the last tensors, for which they need Python's
    # lock: destroying the group keeps it, and waits for them (torch 2.6, for ever).
    time.sleep(RELEASE)
    distributed.destroy_process_group()


def _agreed_prefix(store: Any, rank: int, count: int) -> str:
    """Return a prefix of keys in torchrun's store that exactly these processes share.

    The store survives a restart, with the addresses of processes that are dead, and a process that
    finds these waits for them; and torchrun counts restarts for each machine apart. So the first
    process draws a new prefix, each answers below it with a token of its own, and the first says
    whom it heard: a process that finds another's answers has met an earlier attempt, and looks
    again.

    Raises:
        RuntimeError: Not all came in time.
    """
    own, deadline = secrets.token_hex(8), time.monotonic() + JOINING
    if rank == 0:
        prefix = secrets.token_hex(8)
        store.set(_PREFIX, prefix)
        answers = [f"{prefix}/{each}" for each in range(1, count)]
        while not store.check(answers):
            _wait(deadline)
        store.set(f"{prefix}/heard", json.dumps([store.get(each).decode() for each in answers]))
        return prefix
    while True:
        if store.check([_PREFIX]):
            prefix = store.get(_PREFIX).decode()
            store.set(f"{prefix}/{rank}", own)
            # What was heard before this one spoke was an earlier attempt.
            if store.check([f"{prefix}/heard"]) and own in json.loads(store.get(f"{prefix}/heard")):
                return str(prefix)
        _wait(deadline)


def _wait(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise RuntimeError(f"not all of them joined within {JOINING} seconds")
    time.sleep(0.05)
