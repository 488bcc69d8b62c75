"""Jobs on a Ray cluster that is already there, with the same outcomes as on this machine.

Ray is the optional extra ``medxlate[cluster]``. The computers of the cluster need the same
versions of Python, Ray and medxlate (the function is imported there by name), and this process
must run on one of them. A cluster is neither started nor stopped. What Ray prints of workers that
died, it prints.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from medxlate.base.errors import UsageError
from medxlate.study.workers import Function, Item, Outcome, Result, Runner, attempt, describe

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 15.0
START = "Start one with `ray start --head` and give the host:port that it prints."
ADDRESS = re.compile(r"(?P<host>[^:/\s]+|\[[0-9a-fA-F:.]+\]):(?P<port>[0-9]{1,5})")
CONNECT = """
import logging, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
ray.shutdown()
"""


def ray_runner(address: str, *, gpus_per_item: float, cpus_per_item: int, retries: int) -> Runner:
    """Return the runner over an existing Ray cluster, once the cluster has answered.

    The device of an item is ``"cuda:0"`` where it has a GPU (Ray shows it no other), else
    ``"cpu"``; its threads are its CPUs. Ray places the items and repeats those whose worker or
    computer died; an exception of the function is not repeated.

    Args:
        address: ``host:port`` of the head, or ``auto``: what the environment variable
            RAY_ADDRESS names, else the cluster that runs on this machine.
        gpus_per_item: 0 or more; a part of a GPU such as 0.5 lets items share one.
        cpus_per_item: 1 or more.
        retries: How often Ray repeats an item whose worker died, 0 or more.

    Raises:
        UsageError: Ray is absent, there is no such cluster, or the figures are impossible.
    """
    if gpus_per_item < 0 or (gpus_per_item > 1 and gpus_per_item != int(gpus_per_item)):
        raise UsageError(f"{gpus_per_item:g} GPUs per item are not possible.", "Use 0.5, 1, 2, ...")
    if cpus_per_item < 1 or retries < 0:
        raise UsageError("An item needs at least 1 CPU and 0 or more retries.")
    _import_ray(retries)
    address = _resolve(address)
    _require_cluster(address)
    return _RayCluster(address, gpus_per_item, cpus_per_item, retries)


@dataclass(frozen=True)
class _RayCluster:
    address: str
    gpus: float
    cpus: int
    retries: int

    def run(
        self, function: Function[Item, Result], items: Sequence[Item]
    ) -> Generator[Outcome[Item, Result], None, None]:
        ray = _import_ray(self.retries)
        _connect(ray, self.address)
        try:
            _require_room(ray, self)
            # Options of the declaration, not of a call: only these make Ray end a worker after
            # an item on a GPU, which frees the memory there.
            options = {"num_gpus": self.gpus, "num_cpus": self.cpus, "max_retries": self.retries}
            task = ray.remote(**options)(_work)
            device = "cuda:0" if self.gpus else "cpu"
            waiting = {task.remote(function, item, device, self.cpus): item for item in items}
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                yield Outcome(waiting.pop(done), *_fetch(ray, done))
        finally:
            ray.shutdown()


def _work(
    function: Function[Item, Result], item: Item, device: str, threads: int
) -> tuple[Result | None, str]:
    return attempt(function, item, device, threads)


def _fetch(ray: Any, done: Any) -> tuple[Any, str]:
    try:
        result, error = ray.get(done)
    except ray.exceptions.OutOfMemoryError:
        return None, "its process died (out of memory)"
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as problem:
        return None, f"its process died ({type(problem).__name__})"
    except ray.exceptions.RayTaskError as problem:  # before or after the function
        return None, describe(problem.cause)
    except ray.exceptions.RaySystemError as problem:  # a traceback: what was not importable there
        return None, str(problem).strip().splitlines()[-1]
    except ray.exceptions.RayError as problem:
        return None, describe(problem)
    return result, error


def _import_ray(retries: int) -> Any:
    """Return the module, its usage statistics off.

    Raises:
        UsageError: Ray is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_task_oom_retries", str(retries))  # endless otherwise
    try:
        import ray
    except ImportError:
        raise UsageError(
            "A cluster needs Ray, which is not installed.",
            "Install it with `pip install 'medxlate[cluster]'`.",
        ) from None
    return ray


def _resolve(address: str) -> str:
    """Return host:port or auto; Ray's other addresses may start a cluster or need its client."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or "auto"
    if address != "auto" and not ADDRESS.fullmatch(address):
        raise UsageError(
            f"'{address}' is not the address of a Ray cluster.", "Use host:port or auto."
        )
    return address


def _require_cluster(address: str) -> None:
    """Raise UsageError where no cluster answers; Ray itself would try for minutes, unstoppably."""
    if match := ADDRESS.fullmatch(address):
        try:
            host = match["host"].strip("[]")
            socket.create_connection((host, int(match["port"])), CONNECT_SECONDS).close()
        except (OSError, OverflowError):
            raise _no_cluster(address) from None
    try:
        probe = subprocess.run(
            [sys.executable, "-c", CONNECT, address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise _no_cluster(address) from None
    if probe.returncode:
        reason = (probe.stderr.strip().splitlines() or [""])[-1]
        raise _no_cluster(address, "" if reason.startswith("ConnectionError") else reason)


def _connect(ray: Any, address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as problem:
        raise _no_cluster(address, describe(problem)) from problem


def _no_cluster(address: str, reason: str = "") -> UsageError:
    place = "on this machine" if address == "auto" else f"at {address}"
    if reason:
        return UsageError(f"The Ray cluster {place} cannot be used: {reason}")
    return UsageError(f"There is no Ray cluster {place}.", START)


def _require_room(ray: Any, needs: _RayCluster) -> None:
    """Raise UsageError where no computer could ever take an item: Ray would wait forever."""
    rooms = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(
        room.get("GPU", 0) >= needs.gpus and room.get("CPU", 0) >= needs.cpus for room in rooms
    ):
        raise UsageError(
            f"No node of the Ray cluster has {needs.cpus} CPU and {needs.gpus:g} GPU.",
            "Request less per item.",
        )
