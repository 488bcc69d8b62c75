"""Calls in other processes: order, crashes, time limits, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import working
from medxlate.base.errors import DataError, UsageError
from medxlate.base.pool import AHEAD, DiedError, Pool, Worker, processes
from working import children, runs, until

KILLER = 5
SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
from medxlate.base.pool import processes
from test_pool import note_and_wait
with processes(2) as mapper:
    list(mapper(note_and_wait, [Path(sys.argv[2])] * 4, note_and_wait))
"""


@pytest.fixture(autouse=True)
def only_own_children_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "standing", frozenset(children()))


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


def note_and_sleep(note: Path, seconds: float) -> None:
    note.touch()
    time.sleep(seconds)


def minus(item: int) -> int:
    return -item


def refuse(item: int) -> int:
    raise DataError(f"{item} is odd", "Give an even number.")


class StubbornError(Exception):
    """Cannot be pickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def refuse_stubbornly() -> None:
    raise StubbornError(1, 2)


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def die_once(notes: Path) -> str:
    """End the process in the first call; return in the second."""
    try:
        notes.mkdir()
    except FileExistsError:
        return "done"
    os._exit(3)


def limit_memory(spare: int) -> None:
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + spare
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def interrupt_outside(pid: int) -> None:
    if os.getpid() != pid:
        raise KeyboardInterrupt


class Interrupting:
    """Interrupts the process that receives it, in the middle of its call."""

    def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:
        return interrupt_outside, (os.getpid(),)


def talk(text: str) -> str:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    os.write(1, text.encode())
    return sys.stdin.read()


def never(item: int) -> tuple[int, int]:
    raise AssertionError(item)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_results_come_in_the_order_of_the_items(count: int) -> None:
    with processes(count) as mapper:
        found = list(mapper(square_slowly, range(1, 31), never))
    assert [value for value, _ in found] == [item * item for item in range(1, 31)]
    pids = {pid for _, pid in found}
    assert (pids == {os.getpid()}) is (count == 1)
    assert len(pids) <= count
    assert not children()


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
    assert not children()


def test_an_item_is_tried_twice_before_it_counts_as_the_killer(tmp_path: Path) -> None:
    def never(item: Path) -> str:
        raise AssertionError(item)

    with processes(2) as mapper:
        items = [tmp_path / str(number) for number in range(3)]
        assert list(mapper(die_once, items, never)) == ["done"] * 3


def test_a_mapper_that_is_used_after_its_block_is_refused() -> None:
    with processes(2) as mapper:
        pass
    with pytest.raises(RuntimeError, match="no more calls"):
        next(mapper(double, [1], minus))
    pool = Pool([Worker()])
    pool.finish()
    with pytest.raises(RuntimeError, match="no more calls"):
        pool.submit(lambda worker: worker.call(double, 1))
    pool.close()


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
    assert not children()


def test_a_reader_who_stops_leaves_no_process() -> None:
    with processes(2) as mapper:
        results = mapper(double, range(1, 1000), minus)
        assert [next(results) for _ in range(5)] == [2, 4, 6, 8, 10]
    assert not children()


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
        until(lambda: len(list(notes.iterdir())) == 2)
        children = [int(path.name) for path in notes.iterdir()]
        assert all(map(runs, children))
        os.kill(parent.pid, signal.SIGKILL)  # the parent alone, not its group
        parent.wait(10)
        until(lambda: not any(map(runs, children)))
    finally:
        if parent.poll() is None or notes.exists():
            for pid in [parent.pid, *(int(path.name) for path in notes.iterdir())]:
                if runs(pid):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()
    assert not children()


def test_a_worker_is_one_process_over_many_calls(worker: Worker) -> None:
    pids = {worker.call(os.getpid) for _ in range(3)}
    assert pids == set(children())
    assert worker.call(len, bytes(5 << 20)) == 5 << 20  # more than a pipe holds
    assert worker.call(bytes, 5 << 20) == bytes(5 << 20)


def test_an_error_comes_back_as_it_was_raised_with_its_hint(worker: Worker) -> None:
    with pytest.raises(DataError) as caught:
        worker.call(refuse, 3)
    assert (caught.value.message, caught.value.hint) == ("3 is odd", "Give an even number.")
    with pytest.raises(LookupError, match="no such thing") as other:
        worker.call(double_or_fail, KILLER)
    assert "in double_or_fail" in other.value.__notes__[0]  # where it was raised
    with pytest.raises(RuntimeError, match="StubbornError: 1 and 2") as stubborn:
        worker.call(refuse_stubbornly)
    assert "in refuse_stubbornly" in stubborn.value.__notes__[0]
    assert worker.call(double, 4) == 8


def test_a_call_that_takes_too_long_is_ended_and_the_next_one_is_answered(worker: Worker) -> None:
    assert worker.call(double, 1, limit=60) == 2
    start = time.monotonic()
    with pytest.raises(DiedError, match="took too long"):
        worker.call(sleep, 60, limit=0.5)
    assert time.monotonic() - start < 10
    assert worker.call(double, 2, limit=60) == 4


def test_a_limit_begins_when_the_process_is_free(worker: Worker, tmp_path: Path) -> None:
    first = worker.call(os.getpid)
    longer = threading.Thread(target=worker.call, args=(note_and_sleep, tmp_path / "note", 4))
    longer.start()
    until((tmp_path / "note").exists)
    assert worker.call(os.getpid, limit=2) == first
    longer.join()


def test_a_second_ctrl_c_leaves_no_answer_of_another_call(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait, waits = subprocess.Popen.wait, []

    def interrupted(popen: subprocess.Popen[bytes], timeout: float | None = None) -> Any:
        waits.append(timeout)
        if len(waits) == 1:
            raise KeyboardInterrupt
        return wait(popen, timeout)

    first = worker.call(os.getpid)
    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.call(Interrupting)
    assert not runs(first)
    assert worker.call(double, 2) == 4


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_request_that_memory_does_not_hold_is_answered(worker: Worker) -> None:
    worker.call(limit_memory, 64 << 20)
    with pytest.raises(DiedError, match="its process died"):
        worker.call(len, bytes(256 << 20), limit=60)
    assert worker.call(double, 2) == 4


def test_a_process_that_dies_at_rest_costs_nothing(worker: Worker) -> None:
    first = worker.call(os.getpid)
    os.kill(first, signal.SIGKILL)
    until(lambda: not children())
    assert worker.call(os.getpid) != first


def test_a_death_names_its_cause(worker: Worker) -> None:
    with pytest.raises(DiedError, match=r"its process died \(exit code 3\)"):
        worker.call(double_or_die, KILLER)
    with pytest.raises(DiedError, match=r"signal 9; out of memory\?"):
        worker.call(os.kill, worker.call(os.getpid), signal.SIGKILL)


def test_what_a_worker_prints_is_no_answer_and_no_output(
    worker: Worker, capfd: pytest.CaptureFixture[str]
) -> None:
    assert worker.call(talk, "hello") == ""
    out, err = capfd.readouterr()
    assert (out, err.split()) == ("", ["hello", "hello"])
    quiet = Worker(quiet=True)
    assert quiet.call(talk, "hello") == ""
    quiet.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_gets_a_process_of_its_own(worker: Worker) -> None:
    own = worker.call(os.getpid)
    child = os.fork()
    if child == 0:
        other = worker.call(os.getpid)
        worker.close()
        os._exit(0 if other != own else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert worker.call(os.getpid) == own


def test_a_closed_worker_answers_no_call(worker: Worker) -> None:
    assert worker.call(double, 1) == 2
    worker.close()
    with pytest.raises(DiedError):
        worker.call(double, 1)


def test_leaving_a_pool_ends_what_is_at_work() -> None:
    with Pool([Worker(), Worker()]) as pool:
        futures = [pool.submit(lambda worker: worker.call(sleep, 60)) for _ in range(4)]
        until(lambda: len(children()) == 2)
        start = time.monotonic()
    assert time.monotonic() - start < 10
    assert not children()
    assert [future.cancelled() for future in futures] == [False, False, True, True]
    assert all(isinstance(future.exception(), DiedError) for future in futures[:2])


def test_where_no_process_can_be_started_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("/no/such/python", "/bin/false"):
        monkeypatch.setattr(sys, "executable", program)
        with pytest.raises(UsageError, match="No further process could be started"):
            Worker().call(double, 1)
