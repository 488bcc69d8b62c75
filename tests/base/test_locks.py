"""Locks: one holder at a time, free when that one is gone, and seen by others."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from medxlate.base import files
from medxlate.base.errors import OutputError
from medxlate.base.files import is_locked, locked

HOLDER = (
    "import sys, time; from pathlib import Path; from medxlate.base.files import locked\n"
    "with locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
)


def test_a_lock_of_a_living_process_is_heeded_and_that_of_a_dead_one_is_free(
    tmp_path: Path,
) -> None:
    path = tmp_path / ".lock"
    assert not is_locked(path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_locked(path)
        with pytest.raises(
            OutputError, match=r"Another medxlate process is writing to .*holds \.lock"
        ):
            locked(path).__enter__()
    finally:
        holder.kill()
        holder.communicate()
    assert path.exists()  # killed, it could not take it away
    assert not is_locked(path)
    with locked(path):
        assert is_locked(path)
    assert not path.exists()


def test_those_who_wait_come_one_after_the_other(tmp_path: Path) -> None:
    inside, most = 0, 0

    def enter() -> None:
        nonlocal inside, most
        with locked(tmp_path / "lock", wait=True):
            inside += 1
            most = max(most, inside)
            inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert not (tmp_path / "lock").exists()


def test_a_lock_that_may_only_be_read_is_seen(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"):
        (tmp_path / "lock").chmod(0o444)
        assert is_locked(tmp_path / "lock")


def test_where_the_file_system_has_no_locks_the_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object, **__: object) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files, "lock_descriptor", absent)
    with locked(tmp_path / "lock"), locked(tmp_path / "lock", wait=True):
        assert not is_locked(tmp_path / "lock")
