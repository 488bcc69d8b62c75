"""What this machine gives a process: processor cores and memory."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

KEPT_BYTES = 24 << 20
CGROUP = Path("/sys/fs/cgroup")


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


def keep_freed_memory() -> None:
    """Let glibc keep freed images for the next ones.

    By default glibc gives memory back to the system and takes it again page by page, for each
    image; that took half of a slice's time. Once a block of some MiB was freed, it keeps up to
    twice as much (mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD). Elsewhere this does nothing.
    """
    bytearray(KEPT_BYTES)
