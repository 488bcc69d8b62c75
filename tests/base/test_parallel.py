"""Work spread over processes: order, crashes, and no process left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medxlate.base import parallel
from medxlate.base.parallel import AHEAD, cores, memory_left, processes

KILLER = 5
SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from medxlate.base.parallel import processes
from test_parallel import note_and_wait
if __name__ == "__main__":
    with processes(2) as mapper:
        list(mapper(note_and_wait, [Path(sys.argv[2])] * 4, note_and_wait))
"""


def square_slowly(item: int) -> tuple[int, int]:
    time.sleep(0.02 * (item % 3))
    return item * item, os.getpid()


def double(item: int) -> int:
    return 2 * item


def double_or_die(item: int) -> int:
    if item % 10 == KILLER:
        os._exit(3)
    return 2 * item


def double_or_fail(item: int) -> int:
    if item == KILLER:
        raise LookupError("no such thing")
    return 2 * item


def note_and_wait(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(60)


def minus(item: int) -> int:
    return -item


def never(item: int) -> tuple[int, int]:
    raise AssertionError(item)


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("count", [1, 2, 3])
def test_results_come_in_the_order_of_the_items(count: int) -> None:
    with processes(count) as mapper:
        found = list(mapper(square_slowly, range(1, 31), never))
    assert [value for value, _ in found] == [item * item for item in range(1, 31)]
    pids = {pid for _, pid in found}
    assert (pids == {os.getpid()}) is (count == 1)
    assert len(pids) <= count
    assert not multiprocessing.active_children()


def test_a_mapper_can_be_used_again() -> None:
    with processes(2) as mapper:
        assert list(mapper(double, [], never)) == []
        assert list(mapper(double, [1, 0, 2], never)) == [2, 0, 4]
        assert list(mapper(double, [7], never)) == [14]


@pytest.mark.parametrize("items", [range(1, 8), [KILLER], [1, KILLER, 15]])
def test_an_item_that_kills_its_process_costs_that_item_only(items: range | list[int]) -> None:
    with processes(2) as mapper:
        found = list(mapper(double_or_die, items, minus))
        assert list(mapper(double_or_die, [1, 2], minus)) == [2, 4]
    assert found == [-item if item % 10 == KILLER else 2 * item for item in items]
    assert not multiprocessing.active_children()


def test_no_item_is_lost_where_the_crash_shows_when_the_next_is_handed_out() -> None:
    """The reader is slow, so that processes die while nobody waits for a result."""
    found = []
    with processes(2) as mapper:
        for result in mapper(double_or_die, range(1, 2 * AHEAD * 2), minus):
            found.append(result)
            time.sleep(0.1 if len(found) < 3 else 0)
    assert found == [-item if item % 10 == KILLER else 2 * item for item in range(1, 2 * AHEAD * 2)]


def test_an_exception_of_the_function_is_raised_and_no_process_stays() -> None:
    with pytest.raises(LookupError, match="no such thing"), processes(2) as mapper:
        list(mapper(double_or_fail, range(1, 50), minus))
    assert not multiprocessing.active_children()


def test_a_reader_who_stops_leaves_no_process() -> None:
    with processes(2) as mapper:
        results = mapper(double, range(1, 1000), minus)
        assert [next(results) for _ in range(5)] == [2, 4, 6, 8, 10]
    assert not multiprocessing.active_children()


def test_items_are_taken_only_a_little_ahead() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(1, 101):
            taken += 1
            yield item

    with processes(2) as mapper:
        for done, _ in enumerate(mapper(double, items(), minus), start=1):
            assert taken <= done + AHEAD * 2
    assert taken == 100


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(SCRIPT)
    notes = tmp_path / "pids"
    notes.mkdir()
    here = str(Path(__file__).parent)
    parent = subprocess.Popen(
        [sys.executable, script, here, notes], start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: len(list(notes.iterdir())) == 2)
        children = [int(path.name) for path in notes.iterdir()]
        assert all(map(runs, children))
        os.kill(parent.pid, signal.SIGKILL)  # the parent alone, not its group
        parent.wait(10)
        wait_until(lambda: not any(map(runs, children)))
    finally:
        if parent.poll() is None or notes.exists():
            for pid in [parent.pid, *(int(path.name) for path in notes.iterdir())]:
                if runs(pid):
                    os.kill(pid, signal.SIGKILL)


def wait_until(condition, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def test_cores_are_those_this_process_may_use() -> None:
    if hasattr(os, "sched_getaffinity"):
        assert cores() == len(os.sched_getaffinity(0))
    assert cores() >= 1


def test_memory_left_is_what_machine_and_container_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "CGROUP", tmp_path)
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
