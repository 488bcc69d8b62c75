"""Jobs in turn, on processes of this computer and on a Ray cluster: the same outcomes."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import working
from medxlate.base.errors import UsageError
from medxlate.study import cluster, workers
from medxlate.study.cluster import ray_runner
from medxlate.study.workers import Outcome, Runner, in_turn, local_processes
from working import FAILER, KILLER, LEAVER, MISLABELLED, SECRETIVE, children, runs, until

HERE = str(Path(__file__).parents[1])
PROC = Path("/proc/self/stat").exists()
RAISED = {
    FAILER: "LookupError: no such thing",
    MISLABELLED: "The labels are gone. Look for them.",
}
SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import working
from medxlate.study.workers import local_processes
def main():
    runner = local_processes(2, ["cpu"])
    if sys.argv[2] == "open":
        global outcomes
        outcomes = runner.run(working.first_waits, [0, 1])
        print(next(outcomes))
    else:
        list(runner.run(working.note_and_wait, [Path(sys.argv[2])] * 4))
"""


def by_item(runner: Runner, items: list[int]) -> dict[int, Outcome[int, object]]:
    found = list(runner.run(working.square, items))
    assert len(found) == len(items)
    return {outcome.item: outcome for outcome in found}


def noted(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir()]


def test_in_turn_yields_in_the_order_of_the_items_and_says_what_failed() -> None:
    found = list(in_turn("cuda:1", 3).run(working.square, [3, FAILER, MISLABELLED, 2]))
    assert found == [
        Outcome(3, 9, ""),
        Outcome(FAILER, None, RAISED[FAILER]),
        Outcome(MISLABELLED, None, RAISED[MISLABELLED]),
        Outcome(2, 4, ""),
    ]
    (outcome,) = in_turn("cuda:1", 3).run(working.look, [3])
    assert outcome.result is not None
    assert (outcome.result.pid, outcome.result.device, outcome.result.threads) == (
        os.getpid(),
        "cuda:1",
        3,
    )


def test_in_turn_stops_at_ctrl_c() -> None:
    def interrupt(item: int, device: str, threads: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(in_turn("cpu", 1).run(interrupt, [1, 2]))


def test_an_error_without_a_text_is_named_by_its_type() -> None:
    assert workers.describe(TimeoutError()) == "TimeoutError"


@pytest.fixture(autouse=True)
def only_own_children_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "standing", frozenset(children()))


@pytest.mark.parametrize(("jobs", "devices"), [(0, ["cpu"]), (-1, ["cpu"]), (1, [])])
def test_impossible_processes_are_refused(jobs: int, devices: list[str]) -> None:
    with pytest.raises(UsageError):
        local_processes(jobs, devices)


def test_outcomes_come_in_the_order_of_completion(tmp_path: Path) -> None:
    """The first item can end only after the three others."""
    items = [(tmp_path, number) for number in range(4)]
    found = list(local_processes(2, ["cpu"]).run(working.wait_for_the_others, items))
    assert [outcome.result for outcome in found] == [1, 2, 3, 0]
    assert not any(outcome.error for outcome in found)
    assert list(local_processes(2, ["cpu"]).run(working.square, [])) == []


def test_a_process_that_dies_costs_its_item_only() -> None:
    items = [1, KILLER, 2, LEAVER, FAILER, 3, SECRETIVE, MISLABELLED, KILLER + 100, 4]
    found = by_item(local_processes(2, ["cpu"]), items)
    secretive = found.pop(SECRETIVE)
    assert secretive.result is None
    assert "lambda" in secretive.error
    deaths = {
        KILLER: "its process died (signal 9; out of memory?)",
        LEAVER: "its process died (exit code 3)",
    }
    errors = RAISED | deaths
    assert found == {
        item: Outcome(item, None, errors[item]) if item in errors else Outcome(item, item * item)
        for item in items
        if item != SECRETIVE
    }
    assert not children()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_death_is_seen_where_a_grandchild_keeps_the_pipe_open() -> None:
    start = time.monotonic()
    (found,) = local_processes(1, ["cpu"]).run(working.leave_a_grandchild, [1])
    assert found.error == "its process died (exit code 3)"
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("jobs", "devices", "expected"),
    [
        (3, ["cuda:0", "cuda:1"], ["cuda:0", "cuda:0", "cuda:1"]),
        (2, ["cuda:3", "cuda:5", "cuda:7"], ["cuda:3", "cuda:5"]),
    ],
)
def test_devices_are_dealt_out_in_turn(
    tmp_path: Path, jobs: int, devices: list[str], expected: list[str]
) -> None:
    found = local_processes(jobs, devices).run(working.meet, [(tmp_path, jobs)] * jobs)
    assert sorted(str(outcome.result) for outcome in found) == expected


@pytest.mark.parametrize(("cores", "threads"), [(7, 3), (1, 1)])
@pytest.mark.parametrize("before", [None, "5"])
def test_each_process_has_its_share_of_the_cores_before_it_imports_anything(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: int, before: str | None
) -> None:
    monkeypatch.setattr(workers, "cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if before is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", before)
    (found,) = local_processes(2, ["cpu"]).run(working.look, [1])
    assert found.result is not None
    assert (found.result.threads, found.result.openmp) == (threads, str(threads))
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_closing_the_generator_ends_processes_at_work(tmp_path: Path) -> None:
    with closing(local_processes(2, ["cpu"]).run(working.first_waits, [1, 0, 0])) as outcomes:
        assert next(outcomes).result == 1
        assert len(children()) == 2
        start = time.monotonic()
    assert not children()
    assert time.monotonic() - start < 3


def test_a_process_ends_once_nothing_is_left_for_it() -> None:
    with closing(local_processes(2, ["cpu"]).run(working.first_waits, [0, 1])) as outcomes:
        assert next(outcomes).result == 1
        until(lambda: len(children()) == 1)


@pytest.mark.skipif(not PROC, reason="needs /proc")
def test_sixty_items_take_two_processes_and_no_memory() -> None:
    def resident() -> int:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    pids, early = set(), 0
    for number, outcome in enumerate(local_processes(2, ["cpu"]).run(working.look, range(60))):
        assert outcome.result is not None
        pids.add(outcome.result.pid)
        assert len(children()) <= 2
        early = resident() if number == 10 else early
    assert resident() - early < 2 << 20
    assert len(pids) <= 2


@pytest.mark.alone
@pytest.mark.skipif(not PROC, reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_their_parent(tmp_path: Path, number: int) -> None:
    """Ctrl-C reaches the whole group; SIGKILL the parent alone."""
    script = tmp_path / "main.py"
    # A shell that starts a job in the background lets it ignore Ctrl-C.
    hears = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    script.write_text(hears + SCRIPT + "main()\n")
    notes = tmp_path / "pids"
    notes.mkdir()
    parent = subprocess.Popen(
        [sys.executable, script, HERE, notes], start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: len(noted(notes)) == 2)
        children = noted(notes)
        assert all(map(runs, children))
        (os.killpg if number == signal.SIGINT else os.kill)(parent.pid, number)
        assert parent.wait(5) == -number
        until(lambda: not any(map(runs, children)))
    finally:
        for pid in [parent.pid, *noted(notes)]:
            if runs(pid):
                os.kill(pid, signal.SIGKILL)


def test_a_script_ends_with_an_open_generator_and_needs_no_guard(tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(SCRIPT + "main()\n")
    done = subprocess.run(
        [sys.executable, script, HERE, "open"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(Outcome(1, 1)), "")


# ----- Ray -----

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is absent: pip install 'medxlate[cluster]'"
)


def family(group: int) -> list[int]:
    """The processes of a session that are not zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(session) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The address of a Ray cluster with two CPUs; its processes and files end with the tests.

    Its workers import what these tests import, and the functions of this folder.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # a socket's path is at most 107 bytes long
    options = ["--head", "--block", "--port=0", "--num-cpus=2", "--num-gpus=0"]
    options += ["--disable-usage-stats", "--include-dashboard=false", f"--temp-dir={folder}"]
    options += ["--object-store-memory=100000000", "--node-ip-address=127.0.0.1"]
    options += ['--system-config={"worker_niceness": 0}']  # 15 starves them on a busy computer
    process = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", *options],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([HERE, *filter(None, sys.path)])},
    )
    address = folder / "ray_current_cluster"
    try:
        until(lambda: address.exists() and address.read_text() != "", 180)
        yield address.read_text()
    finally:
        process.terminate()
        process.wait(60)
        left = family(process.pid)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not family(process.pid))
        shutil.rmtree(folder)


@needs_ray
def test_a_cluster_gives_the_outcomes_of_this_computer(
    head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_require_cluster", lambda address: None)  # it is known to run
    items = [1, FAILER, KILLER, MISLABELLED, 2, 3]
    here = by_item(local_processes(2, ["cpu"]), items)
    there = by_item(ray_runner(head, gpus_per_item=0, cpus_per_item=1, retries=1), items)
    assert there.pop(KILLER) == Outcome(KILLER, None, "its process died (WorkerCrashedError)")
    assert here.pop(KILLER).error.startswith("its process died")
    assert there == here
    assert there[FAILER].error == RAISED[FAILER]


@needs_ray
def test_a_cluster_yields_what_is_complete_and_closing_ends_the_rest(
    head: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cluster, "_require_cluster", lambda address: None)
    runner = ray_runner(head, gpus_per_item=0, cpus_per_item=1, retries=1)
    items = [(tmp_path, number) for number in range(4)]
    with closing(runner.run(working.first_notes_and_waits, items)) as outcomes:
        assert sorted(next(outcomes).item[1] for _ in range(3)) == [1, 2, 3]
        until(lambda: len(noted(tmp_path)) == 1)
        assert all(map(runs, noted(tmp_path)))
    until(lambda: not any(map(runs, noted(tmp_path))))
    import ray

    assert not ray.is_initialized()


@needs_ray
def test_an_item_on_a_cluster_receives_its_threads_and_device(
    head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", head)
    runner = ray_runner("auto", gpus_per_item=0, cpus_per_item=2, retries=0)
    (found,) = runner.run(working.look, [3])
    assert found.result is not None
    assert (found.result.value, found.result.device, found.result.threads) == (9, "cpu", 2)
    assert found.result.pid != os.getpid()


@needs_ray
@pytest.mark.parametrize(("gpus", "cpus"), [(1, 1), (0, 3)])
def test_needs_that_no_computer_meets_are_refused(
    head: str, monkeypatch: pytest.MonkeyPatch, gpus: int, cpus: int
) -> None:
    monkeypatch.setattr(cluster, "_require_cluster", lambda address: None)
    runner = ray_runner(head, gpus_per_item=gpus, cpus_per_item=cpus, retries=0)
    with pytest.raises(UsageError, match="No node of the Ray cluster has"):
        next(runner.run(working.look, [1]))


@needs_ray
@pytest.mark.parametrize("listening", [False, True])
def test_an_address_without_a_cluster_is_refused_soon(
    listening: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if not listening:
            server.close()
        start = time.monotonic()
        with pytest.raises(UsageError, match=f"There is no Ray cluster at {address}.*ray start"):
            ray_runner(address, gpus_per_item=0, cpus_per_item=1, retries=0)
        assert time.monotonic() - start < (7 if listening else 2)


@needs_ray
@pytest.mark.parametrize("address", ["local", "", "ray://127.0.0.1:10001", "127.0.0.1", "a b:1"])
def test_addresses_that_would_start_a_cluster_are_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="not the address of a Ray cluster"):
        ray_runner(address, gpus_per_item=0, cpus_per_item=1, retries=0)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(UsageError, match="not the address of a Ray cluster"):
            ray_runner("auto", gpus_per_item=0, cpus_per_item=1, retries=0)


@pytest.mark.parametrize(
    ("gpus", "cpus", "retries"), [(-1, 1, 0), (1.5, 1, 0), (0, 0, 0), (0, 1, -1)]
)
def test_impossible_needs_are_refused(gpus: float, cpus: int, retries: int) -> None:
    with pytest.raises(UsageError):
        ray_runner("auto", gpus_per_item=gpus, cpus_per_item=cpus, retries=retries)


def test_without_ray_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'medxlate\[cluster\]'"):
        ray_runner("auto", gpus_per_item=0, cpus_per_item=1, retries=0)
