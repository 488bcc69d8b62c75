"""``prepare`` as a batch job: the same bytes always, stopped and continued, and never twice."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import crashing
import medxlate.base.files
import medxlate.dataset.assemble
import medxlate.dataset.job
import medxlate.dataset.parts
import medxlate.images.open
from conftest import noise, save_raster, tree
from medxlate.base.errors import DataError, OutputError
from medxlate.base.events import Event, Progress
from medxlate.dataset import index
from medxlate.dataset.index import Dataset
from medxlate.dataset.job import PrepareResult
from medxlate.images.open import open_stack
from medxlate.images.recipes import Recipe
from medxlate.images.scan import Scan
from medxlate.images.stack import Stack
from preparing import (
    ROWS,
    TAGS,
    by_file,
    plant_key,
    record,
    run,
    save_nifti,
    slices,
    tissue,
    write_mixed,
    write_raw,
    write_series,
    write_table,
)

SCANS = 13  # of write_mixed
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Four images of three patients, and their table."""
    return write_raw(tmp_path / "raw")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CT as archives hold it; do not change it."""
    return write_mixed(tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def undisturbed(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The whole data folder after a run in one process that nothing disturbed."""
    data = plant_key(tmp_path_factory.mktemp("truth") / "data")
    run_mixed(mixed, data)
    return tree(data)


def run_mixed(raw: Path, data: Path, *, workers: int = 1, **changes: Any) -> PrepareResult:
    return run(raw, data, "ct", options=replace(TAGS, workers=workers), **changes)


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the scans whose pixels are read."""
    names: list[str] = []

    def counting(scan: Scan, recipe: Recipe) -> Stack:
        names.append(scan.name)
        return open_stack(scan, recipe)

    monkeypatch.setattr(medxlate.images.open, "open_stack", counting)
    return names


# --- the same bytes --------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_bytes_do_not_depend_on_the_number_of_processes(
    mixed: Path, undisturbed: dict[str, bytes], tmp_path: Path, workers: int
) -> None:
    data = plant_key(tmp_path / "data")
    result = run_mixed(mixed, data, workers=workers)
    assert tree(data) == undisturbed
    assert (result.images, result.scans, result.patients) == (12 * 4 + 24, SCANS, 7)
    assert set(result.skipped) == {"s00/scout.dcm", "s01/cut.dcm", "s02/shot.png"}


def test_the_record_says_what_happened_and_not_when(undisturbed: dict[str, bytes]) -> None:
    value = json.loads(undisturbed["ct/prepare.json"])
    assert set(value) == {
        "made_from", "files", "images", "scans", "patients", "skipped", "left_out", "notes",
        "duplicates", "respelled", "label_notes", "other_files", "options",
    }  # fmt: skip
    assert (value["images"], value["scans"], value["patients"]) == (72, SCANS, 7)
    assert value["files"] == 12 * 4 + 4  # but for the table and the JSON file
    assert value["other_files"] == 2  # the table and the JSON file
    assert "workers" not in value["options"]
    shared = {(pair["file"], pair["other_file"]) for pair in value["duplicates"]}
    assert len(shared) == 4
    assert {(one[:3], other[:3]) for one, other in shared} == {("s00", "s11")}


# --- nothing to do ---------------------------------------------------------------------------


def test_on_unchanged_input_nothing_is_done(
    mixed: Path, tmp_path: Path, opened: list[str], undisturbed: dict[str, bytes]
) -> None:
    data = plant_key(tmp_path / "data")
    first = run_mixed(mixed, data)
    before, whole = times(data), tree(data)
    opened.clear()
    again = run_mixed(mixed, data, workers=2)  # the number of processes makes no difference
    assert (first.state, again.state) == ("prepared", "unchanged")
    assert opened == []
    assert (tree(data), times(data)) == (whole, before)
    for name in ("dataset", "images", "scans", "patients", "skipped", "left_out", "notes"):
        assert getattr(again, name) == getattr(first, name)


def change_pixels(raw: Path) -> dict[str, Any]:
    save_raster(raw / "a.png", noise(40, 40, seed=77))
    return {}


def change_files(raw: Path) -> dict[str, Any]:
    save_raster(raw / "e.png", noise(40, 40, seed=78))
    return {}


def remove_file(raw: Path) -> dict[str, Any]:
    (raw / "d.png").unlink()
    return {}


def rename_file(raw: Path) -> dict[str, Any]:
    (raw / "d.png").rename(raw / "x.png")
    return {}


def change_table(raw: Path) -> dict[str, Any]:
    write_table(raw / "t.csv", [*ROWS[:3], ("d.png", "64", "Cem")])
    return {}


def change_recipe(raw: Path) -> dict[str, Any]:
    return {"percentiles": (2, 98)}


def change_kept(raw: Path) -> dict[str, Any]:
    return {"keep": ("who",)}


CHANGES = [
    change_pixels, change_files, remove_file, rename_file, change_table, change_recipe, change_kept,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_changed_input_is_refused_and_replaced_when_asked(
    raw: Path, tmp_path: Path, change: Callable[[Path], dict[str, Any]]
) -> None:
    data = plant_key(tmp_path / "data")
    run(raw, data)
    before, mtimes = tree(data), times(data)
    changes = change(raw)
    with pytest.raises(OutputError, match=r"mri already exists.*--overwrite"):
        run(raw, data, **changes)
    assert (tree(data), times(data)) == (before, mtimes)
    assert run(raw, data, overwrite=True, **changes).state == "prepared"
    fresh = plant_key(tmp_path / "fresh")
    run(raw, fresh, **changes)
    assert tree(data) == tree(fresh) != before
    assert run(raw, data, **changes).state == "unchanged"


def test_a_changed_json_file_beside_a_volume_is_noticed(tmp_path: Path) -> None:
    raw, data = tmp_path / "raw", plant_key(tmp_path / "data")
    voxels = tissue(24).astype(np.int16)
    save_nifti(raw / "a.nii.gz", voxels, PatientAge="033Y", PatientID="Q")
    run_mixed(raw, data)
    assert run_mixed(raw, data).state == "unchanged"
    (raw / "a.json").write_text(json.dumps({"PatientAge": "034Y", "PatientID": "Q"}))
    with pytest.raises(OutputError, match="--overwrite"):
        run_mixed(raw, data)
    run_mixed(raw, data, overwrite=True)
    assert set(slices(data, "ct")["label"]) == {34}


def test_overwrite_prepares_unchanged_input_again(
    raw: Path, tmp_path: Path, opened: list[str]
) -> None:
    data = plant_key(tmp_path / "data")
    run(raw, data)
    before = tree(data)
    opened.clear()
    assert run(raw, data, overwrite=True).state == "prepared"
    assert len(opened) == 4
    assert tree(data) == before


def test_a_damaged_dataset_is_not_called_unchanged(raw: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    run(raw, data)
    (data / "mri" / "slices.parquet").write_bytes(b"half")
    assert run(raw, data).state == "prepared"
    assert len(slices(data)) == 4


# --- a dry run -------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing(mixed: Path, tmp_path: Path, opened: list[str]) -> None:
    data = tmp_path / "new" / "data"
    result = run_mixed(mixed, data, dry_run=True)
    assert not (tmp_path / "new").exists()
    assert opened == []
    assert (result.state, result.dataset) == ("planned", None)
    assert (result.images, result.scans, result.patients) == (12 * 4 + 1, SCANS, 7)
    assert set(result.skipped) == {"s00/scout.dcm", "s01/cut.dcm", "s02/shot.png"}


def test_a_dry_run_beside_a_dataset_leaves_it_alone(raw: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    first = run(raw, data)
    before, whole = times(data), tree(data)
    for modality in ("mri", "ct"):  # it is there; it is not
        result = run(raw, data, modality, dry_run=True, keep=("who",))
        assert (result.state, result.dataset) == ("planned", first.dataset)
        assert result.images == 4
    assert (tree(data), times(data)) == (whole, before)


# --- stopped and continued -------------------------------------------------------------------


def stopping_at(number: int) -> Callable[[Scan, Recipe], Stack]:
    """Press Ctrl-C when the pixels of the n-th scan are about to be read."""
    seen = 0

    def stopping(scan: Scan, recipe: Recipe) -> Stack:
        nonlocal seen
        seen += 1
        if seen == number:
            raise KeyboardInterrupt
        return open_stack(scan, recipe)

    return stopping


@pytest.mark.parametrize("number", [1, 2, 7, SCANS])
def test_a_stopped_run_is_continued_with_what_is_missing(
    mixed: Path,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    opened: list[str],
    number: int,
) -> None:
    data = plant_key(tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr(medxlate.images.open, "open_stack", stopping_at(number))
        with pytest.raises(KeyboardInterrupt):
            run_mixed(mixed, data)
    assert not (data / "ct").exists()
    assert not (data / "dataset.json").exists()
    assert not list(data.rglob("*.partial"))
    assert parts(data) == number - 1
    assert run_mixed(mixed, data).state == "prepared"
    assert len(opened) == len(set(opened)) == SCANS - (number - 1)
    assert tree(data) == undisturbed


@pytest.mark.parametrize("left", ["damaged", "of an older version"])
def test_a_part_that_is_damaged_or_of_an_older_version_is_read_again(
    mixed: Path,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    opened: list[str],
    left: str,
) -> None:
    """A power cut leaves files that are empty; older versions had a JSON file for each part."""
    data = plant_key(tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr(medxlate.images.open, "open_stack", stopping_at(7))
        with pytest.raises(KeyboardInterrupt):
            run_mixed(mixed, data)
    work = data / ".ct.parts"
    files = sorted((work / "parts").iterdir())
    if left == "damaged":
        next(file for file in files if file.stat().st_size).write_bytes(b"")
    else:
        for file in files:
            file.rename(work / file.name)
            listing = {"limits": [0, 1], "slices": [], "skipped": {}, "notes": []}
            (work / file.name).with_suffix(".json").write_text(json.dumps(listing))
        (work / "journal-0.jsonl").unlink()
    run_mixed(mixed, data)
    assert len(opened) == SCANS - (5 if left == "damaged" else 0)
    assert tree(data) == undisturbed


def test_a_run_stopped_twice_in_several_processes_ends_with_the_same_bytes(
    mixed: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    data = plant_key(tmp_path / "data")

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.task == "files" and event.done > 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_mixed(mixed, data, workers=2, listener=stop)
    assert parts(data) >= 4
    run_mixed(mixed, data, workers=2)
    assert tree(data) == undisturbed


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_made_of_other_files_or_options_is_not_taken(
    raw: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], dict[str, Any]],
) -> None:
    data = plant_key(tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr(medxlate.images.open, "open_stack", stopping_at(4))
        with pytest.raises(KeyboardInterrupt):
            run(raw, data)
    changes = change(raw)
    run(raw, data, **changes)
    fresh = plant_key(tmp_path / "fresh")
    run(raw, fresh, **changes)
    assert tree(data) == tree(fresh)


def interrupt_reading(patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Press Ctrl-C after the second image."""

    def listener(event: Event) -> None:
        if isinstance(event, Progress) and event.done == 2:
            raise KeyboardInterrupt

    return {"listener": listener}


def fill_disk(
    place: object, name: str, argument: int = 0
) -> Callable[[pytest.MonkeyPatch], dict[str, Any]]:
    """Let the disk be full when a function is called; some bytes may have been written.

    Args:
        place: Where the function is.
        name: What it is called.
        argument: Which of its arguments is the file that it writes.
    """

    def failing(*arguments: object, **_: object) -> None:
        target = arguments[argument]
        if isinstance(target, Path) and not target.is_dir():
            target.write_bytes(b"half")
        raise FULL

    def install(patch: pytest.MonkeyPatch) -> dict[str, Any]:
        patch.setattr(place, name, failing)
        return {}

    return install


INTERRUPTIONS = {
    "ctrl-c": interrupt_reading,
    "part": fill_disk(medxlate.dataset.parts, "_read", 1),
    "shard": fill_disk(medxlate.dataset.assemble.ShardWriter, "_header"),
    "table": fill_disk(pd.DataFrame, "to_parquet", 1),
    "record": fill_disk(medxlate.dataset.job, "write_json"),
    "rename": fill_disk(medxlate.base.files, "_replace_folder"),
}


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
@pytest.mark.parametrize("modality", ["mri", "ct"])
def test_an_interrupted_prepare_leaves_the_dataset_as_it_was(
    raw: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interruption: str,
    modality: str,
) -> None:
    data = plant_key(tmp_path / "data")
    run(raw, data)
    before = tree(data)
    save_raster(raw / "a.png", noise(40, 40, seed=99))
    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, OSError)):
        run(raw, data, modality, overwrite=True, **INTERRUPTIONS[interruption](patch))
    assert without_parts(data, modality) == before
    assert run(raw, data, modality, overwrite=True).state == "prepared"
    assert not [name for name in tree(data) if name.startswith(".")]


@pytest.mark.parametrize("interruption", [name for name in INTERRUPTIONS if name != "rename"])
def test_an_interrupted_first_prepare_leaves_only_what_it_can_go_on_with(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: str
) -> None:
    data = tmp_path / "new" / "data"
    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, OSError)):
        run(raw, data, **INTERRUPTIONS[interruption](patch))
    assert without_parts(data, "mri") == {}
    assert run(raw, data).state == "prepared"
    assert not [name for name in tree(data) if name.startswith(".")]


def without_parts(data: Path, modality: str) -> dict[str, bytes]:
    """Return a data folder's content but for the parts."""
    content = tree(data)
    made = {name for name in content if name.startswith(f".{modality}.parts/")}
    files = {name for name in made if not name.endswith("/")}
    assert {Path(name).suffix for name in files} <= {".bin", ".jsonl"}
    return {name: text for name, text in content.items() if name not in made}


def test_a_refusal_leaves_nothing_behind(raw: Path, tmp_path: Path) -> None:
    (raw / "a.png").write_text("no image")
    with pytest.raises(DataError, match="--strict"):
        run(raw, tmp_path / "new" / "data", strict=True)
    assert not (tmp_path / "new").exists()
    data = tmp_path / "data"
    run(raw, data)
    before = tree(data)
    with pytest.raises(DataError, match="--strict"):
        run(raw, data, "ct", strict=True)
    assert tree(data) == before


# --- killed ----------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
import {module}
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.prepare import prepare
original = {module}.{name}
def kill(*arguments, **keywords):
    if {late}:
        original(*arguments, **keywords)
    os.kill(os.getpid(), signal.SIGKILL)
{module}.{name} = kill
raw, data = Path(sys.argv[1]), Path(sys.argv[2])
options = PrepareOptions(label="age", labels=raw / "t.csv", file="file", patient="who")
prepare(raw, modality="mri", data=data, options=options, size=32, overwrite={overwrite})
"""
MOMENTS = {
    "before the parts": ("medxlate.dataset.job", "write_part", False),
    "amid the parts": ("medxlate.dataset.job", "write_part", True),
    "before the table": ("medxlate.dataset.assemble.pd.DataFrame", "to_parquet", False),
    "after the table": ("medxlate.dataset.assemble.pd.DataFrame", "to_parquet", True),
    "before the key": ("medxlate.dataset.job", "save_key", False),
    "after the key": ("medxlate.dataset.job", "save_key", True),
    "before the folder": ("medxlate.base.files", "_replace_folder", False),
    "between folder and summary": ("medxlate.base.files", "_replace_folder", True),
}


def kill_at(moment: str, raw: Path, data: Path, *, overwrite: bool = False) -> None:
    """Run prepare in a process that kills itself at a moment."""
    place, name, late = MOMENTS[moment]
    module, _, rest = place.partition(".pd.")
    script = KILLED.format(
        module=module,
        name=f"pd.{rest}.{name}" if rest else name,
        late=late,
        overwrite=overwrite,
    )
    done = subprocess.run([sys.executable, "-c", script, raw, data], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_same_command_continues_a_run_that_was_killed(
    raw: Path, tmp_path: Path, moment: str
) -> None:
    truth, data = plant_key(tmp_path / "truth"), plant_key(tmp_path / "data")
    run(raw, truth)
    kill_at(moment, raw, data)
    run(raw, data)
    assert tree(data) == tree(truth)


@pytest.mark.parametrize("moment", ["after the table", "between folder and summary"])
def test_the_same_command_continues_a_replacement_that_was_killed(
    raw: Path, tmp_path: Path, moment: str
) -> None:
    truth, data = plant_key(tmp_path / "truth"), plant_key(tmp_path / "data")
    run(raw, data)
    save_raster(raw / "a.png", noise(40, 40, seed=99))
    run(raw, truth)
    kill_at(moment, raw, data, overwrite=True)
    run(raw, data, overwrite=True)
    assert tree(data) == tree(truth)


def session(leader: int) -> list[int]:
    """Return the processes of a session that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.005)


@pytest.fixture
def command() -> Iterator[Callable[[Path, Path], subprocess.Popen[str]]]:
    """Start the real command in a session of its own; what is left of it ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(raw: Path, data: Path) -> subprocess.Popen[str]:
        words = ["prepare", raw, "--modality", "ct", "--label", "tag:PatientAge", "--patient"]
        words += ["tag:PatientID", "--size", "32", "--workers", "2", "--data", data, "--json"]
        process = subprocess.Popen(
            [sys.executable, "-m", "medxlate", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        for pid in session(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def prepared(process: subprocess.Popen[str]) -> str:
    """Wait for the end of the command; return the state it reports."""
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return str(json.loads(out)["state"])


def parts(data: Path) -> int:
    """Return how many parts are finished."""
    journals = data.glob(".ct.parts/journal-*.jsonl")
    return sum(len(journal.read_bytes().splitlines()) for journal in journals)


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_killed_at_ten_random_moments_and_continued_it_ends_with_the_same_bytes(
    mixed: Path,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    command: Callable[[Path, Path], subprocess.Popen[str]],
) -> None:
    """The parent alone, or all processes at once, with SIGKILL; a finished run starts anew.

    Where nothing was left by the run before, it strikes when the first part was written.
    """
    moments = random.Random(6)
    data = plant_key(tmp_path / "whole")
    began = time.monotonic()
    assert prepared(command(mixed, data)) == "prepared"
    duration = time.monotonic() - began
    assert tree(data) == undisturbed
    data = plant_key(tmp_path / "data")
    kills = amid = 0
    while kills < 10:
        process = command(mixed, data)
        if kills and not parts(data):
            wait_until(lambda running=process, data=data: parts(data) or running.poll() is not None)
        else:
            with suppress(subprocess.TimeoutExpired):
                process.wait(moments.uniform(0.2, 1) * duration)
        if process.poll() is not None:
            assert prepared(process) in ("prepared", "unchanged")  # killed when it had finished
            assert tree(data) == undisturbed
            data = plant_key(tmp_path / f"data{kills}-{amid}-{process.pid}")
            continue
        if kills % 2:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        amid += parts(data) > 0
        wait_until(lambda leader=process.pid: not session(leader))
    last = command(mixed, data)
    assert prepared(last) in ("prepared", "unchanged")
    wait_until(lambda: not session(last.pid))  # the last of them may just be ending
    assert tree(data) == undisturbed
    assert amid >= 2
    assert prepared(command(mixed, data)) == "unchanged"


# --- a file that kills its reader ------------------------------------------------------------


def test_a_scan_that_kills_its_process_is_skipped_and_the_others_are_read(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(medxlate.dataset.job, "write_part", crashing.die_of_s03)
    result = run_mixed(mixed, plant_key(tmp_path / "data"), workers=2)
    assert result.skipped["s03"] == "it crashed the reader"
    assert result.scans == SCANS - 1
    files = set(by_file(tmp_path / "data", "label", "ct"))
    assert {name[:3] for name in files} == {f"s{n:02d}" for n in range(12) if n != 3} | {"v/a"}


# --- two at once -----------------------------------------------------------------------------


def test_a_modality_that_is_being_prepared_is_locked(raw: Path, tmp_path: Path) -> None:
    data = plant_key(tmp_path / "data")
    refused: list[str] = []

    def other(event: Event) -> None:
        if event == Progress("files", 1, 4):
            with pytest.raises(OutputError) as caught:
                run(raw, data, "ct", overwrite=True)
            refused.append(str(caught.value))

    assert run(raw, data, "ct", listener=other).state == "prepared"
    assert len(refused) == 1
    assert "Another medxlate process is writing to" in refused[0]
    truth = plant_key(tmp_path / "truth")
    run(raw, truth, "ct")
    assert tree(data) == tree(truth)


def test_a_lock_of_another_process_is_heeded_and_ends_with_it(raw: Path, tmp_path: Path) -> None:
    data = plant_key(tmp_path / "data")
    lock = data / ".mri.lock"
    script = (
        "import sys, time; from pathlib import Path; from medxlate.base.files import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, lock], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match="Another medxlate"):
            run(raw, data)
        run(raw, data, "ct")
    finally:
        holder.kill()
        holder.communicate()
    assert lock.exists()  # killed, it could not take it away
    assert run(raw, data).state == "prepared"
    assert not lock.exists()


def test_a_modality_added_meanwhile_by_another_prepare_is_kept(raw: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    run(raw, data, "mri")

    def other(event: Event) -> None:
        if event == Progress("files", 1, 4):
            run(raw, data, "pet")

    run(raw, data, "ct", listener=other)
    assert sorted(Dataset(data).info.modalities) == ["ct", "mri", "pet"]
    assert by_file(data, "patient", "pet") == by_file(data, "patient", "ct")


def test_two_first_prepares_at_once_use_one_key(raw: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"

    def other(event: Event) -> None:
        if event == Progress("files", 1, 4):
            run(raw, data, "pet")

    run(raw, data, "ct", listener=other)
    assert sorted(Dataset(data).info.modalities) == ["ct", "pet"]
    assert by_file(data, "patient", "pet") == by_file(data, "patient", "ct")


def test_a_modality_that_another_prepare_added_meanwhile_is_kept_and_its_key_used(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    original = medxlate.dataset.job.assemble

    def late(*arguments: Any, **keywords: Any) -> Any:
        monkeypatch.setattr(medxlate.dataset.job, "assemble", original)
        run(raw, data, "pet")
        return original(*arguments, **keywords)

    monkeypatch.setattr(medxlate.dataset.job, "assemble", late)
    run(raw, data, "ct")
    assert sorted(Dataset(data).info.modalities) == ["ct", "pet"]
    assert by_file(data, "patient", "pet") == by_file(data, "patient", "ct")


# --- what is asked about twice ---------------------------------------------------------------


def test_images_that_two_patients_share_are_listed(raw: Path, tmp_path: Path) -> None:
    save_raster(raw / "d.png", noise(40, 40, seed=0))  # Cem's is Ann's
    heard: list[Event] = []
    result = run(raw, tmp_path / "data", listener=heard.append)
    (pair,) = result.duplicates
    assert {pair.file, pair.other_file} == {"a.png", "d.png"}
    assert len(record(tmp_path / "data")["duplicates"]) == 1
    assert any("two different patients" in str(event) for event in heard)


def test_images_that_two_modalities_share_are_listed(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path / "data")
    other = tmp_path / "other"
    save_raster(other / "z.png", noise(40, 40, seed=2))
    write_table(other / "t.csv", [("z.png", "50", "Dan")])
    result = run(other, tmp_path / "data", "ct")
    (pair,) = result.duplicates
    assert {(pair.modality, pair.file), (pair.other_modality, pair.other_file)} == {
        ("mri", "c.png"),
        ("ct", "z.png"),
    }


def test_series_of_a_second_patient_join_the_same_folder(tmp_path: Path) -> None:
    """Two series in one folder are two scans."""
    raw, data = tmp_path / "raw", tmp_path / "data"
    write_series(raw / "x", tissue(3, seed=1), patient="A", uid="1.2.3")
    for path in list((raw / "x").iterdir()):
        path.rename(raw / f"a-{path.name}")
    write_series(raw / "x", tissue(3, seed=2), patient="B", uid="1.2.4")
    for path in list((raw / "x").iterdir()):
        path.rename(raw / f"b-{path.name}")
    result = run_mixed(raw, data)
    assert (result.scans, result.patients, result.images) == (2, 2, 6)
    assert list(slices(data, "ct")["series"]) == [0, 0, 0, 1, 1, 1]


# --- read while it is prepared ---------------------------------------------------------------


def test_what_is_being_read_is_not_mixed_with_what_replaces_it(raw: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    run(raw, data)
    opened = Dataset(data).modality("mri")
    before = opened.read(range(4)).copy()
    run(raw, data, "ct")  # another modality does not disturb
    assert np.array_equal(opened.read(range(4)), before)
    for i, (name, *_) in enumerate(ROWS):
        save_raster(raw / name, noise(40, 40, seed=50 + i))
    run(raw, data, overwrite=True)
    with pytest.raises(DataError, match=r"00000\.npy was replaced"):
        opened.read([0])
    again = Dataset(data).modality("mri")
    assert not np.array_equal(again.read(range(4)), before)
    shutil.rmtree(data / "mri")
    with pytest.raises(DataError, match="removed"):
        again.read([0])


def test_a_modality_that_is_replaced_while_it_is_opened_is_noticed(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table would be the old one's, the shards the new one's; all counts agree."""
    data = tmp_path / "data"
    run(raw, data)
    dataset, read = Dataset(data), index.read_slice_table

    def replaced(*args: Any) -> pd.DataFrame:
        table = read(*args)
        monkeypatch.undo()
        save_raster(raw / "a.png", noise(40, 40, seed=99))
        run(raw, data, overwrite=True)
        return table

    monkeypatch.setattr(index, "read_slice_table", replaced)
    with pytest.raises(DataError, match="replaced while it was being opened"):
        dataset.modality("mri")
    assert len(Dataset(data).modality("mri").slices) == 4
