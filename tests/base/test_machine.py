"""What a machine gives a process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medxlate.base import machine
from medxlate.base.machine import cores, memory_left


def test_cores_are_those_this_process_may_use() -> None:
    if hasattr(os, "sched_getaffinity"):
        assert cores() == len(os.sched_getaffinity(0))
    assert cores() >= 1


def test_memory_left_is_what_machine_and_container_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    everything = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    left = memory_left()
    assert left is not None
    assert 0 < left < everything
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("4000000\n")
    (tmp_path / "memory.stat").write_text("anon 3900000\ninactive_file 100000\n")
    assert memory_left() == 1_100_000
    (tmp_path / "memory.max").write_text("max\n")
    found = memory_left()
    assert found is not None
    assert found > 1_100_000
