"""Checkpoints: when they are written and kept, what is done about damaged ones and full disks."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import tiny
from medxlate.base import files, tensors
from medxlate.base.errors import ConfigError, ModelError, OutputError, StoppedError
from medxlate.base.events import Alarmed, Event, Progress, Stage, Warned
from medxlate.base.files import locked
from medxlate.cli.app import app
from medxlate.cli.signals import stopping
from medxlate.config import RuntimeConfig
from medxlate.training import checkpoints, saver, verify
from medxlate.training.monitor import TrainingMonitor
from medxlate.training.saver import Saver
from medxlate.training.state import TrainingProgress, TrainingState
from medxlate.training.train import resume, train

SECTIONS: dict[str, Any] = {  # 6 steps an epoch
    "optimizer": {"epochs": 2, "batch_size": 3, "steps_per_epoch": 6, "buffer_size": 4},
    "runtime": {"checkpoint_steps": 2, "log_every": 4},
}
TIMES = ("images_per_second", "data_wait", "seconds", "day")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    return train(tiny.debug_config(data, **SECTIONS), runs=tmp_path_factory.mktemp("whole")).run


@pytest.fixture
def stopped(data: Path, tmp_path: Path) -> Path:
    """A run that was asked to stop after step 9, three steps into its second epoch."""
    with pytest.raises(StoppedError, match="Stopped by SIGUSR1 after step 9"):
        train_until(9, data, tmp_path)
    return tmp_path / "mri-to-ct-001"


def train_until(step: int, data: Path, runs: Path, **options: Any) -> None:
    done = [0]

    def listener(event: Event) -> None:
        if isinstance(event, Progress):
            done[0] = event.done

    config = tiny.debug_config(data, **SECTIONS)
    stop = lambda: "SIGUSR1" if done[0] >= step else ""  # noqa: E731
    train(config, runs=runs, stop=stop, listener=listener, **options)


def rewrite(path: Path, **changes: Any) -> None:
    """Change a state.json (``...`` removes a key) so that its own hash fits again."""
    values = {**json.loads(path.read_text()), **changes}
    values = {key: value for key, value in values.items() if value is not ...}
    del values["own_sha256"]
    text = json.dumps(values, sort_keys=True).encode()
    path.write_text(json.dumps({**values, "own_sha256": hashlib.sha256(text).hexdigest()}))


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def same_ends(one: Path, other: Path) -> None:
    for name in ("predictor", "translator-mri"):
        file = Path("model", f"{name}.safetensors")
        assert (one / file).read_bytes() == (other / file).read_bytes()
    records = []
    for run in (one, other):
        events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        records.append([{k: v for k, v in e.items() if k not in TIMES} for e in events])
    assert records[0] == records[1]


# Within an epoch


def test_a_stop_within_an_epoch_saves_the_losses_that_were_not_told_yet(stopped: Path, whole: Path):
    """Step 9 lies between the logs of steps 8 and 12."""
    assert "step-000009" in names(stopped)
    assert not (stopped / "model").exists()
    torch.manual_seed(4)  # whatever a new process begins with
    resume(stopped)
    same_ends(stopped, whole)


def test_a_stop_at_the_end_of_an_epoch_comes_before_its_validation(
    data: Path, tmp_path: Path, whole: Path
):
    with pytest.raises(StoppedError):
        train_until(6, data, tmp_path)
    run = tmp_path / "mri-to-ct-001"
    state = json.loads((run / "checkpoints" / "step-000006" / "state.json").read_text())
    assert (state["step"], state["epoch"]) == (6, 0)
    resume(run)
    same_ends(run, whole)


def test_what_is_kept_are_the_newest_and_the_best(data: Path, tmp_path: Path, whole: Path):
    last = json.loads((whole / "checkpoints" / "step-000012" / "state.json").read_text())
    best = f"step-{last['best_step']:06d}"
    assert set(names(whole)) == {"best", "last", "step-000012", best}
    assert (whole / "checkpoints" / "best").read_text() == best + "\n"
    assert (whole / "checkpoints" / "last").read_text() == "step-000012\n"
    sections = {**SECTIONS, "runtime": {**SECTIONS["runtime"], "keep_checkpoints": 2}}
    result = train(tiny.debug_config(data, **sections), runs=tmp_path)
    assert set(names(result.run)) == {"best", "last", "step-000010", "step-000012", best}
    kept = list((result.run / "checkpoints").glob("step-*/*"))
    assert result.checkpoint_bytes == sum(path.stat().st_size for path in kept)


def test_alarms_are_recorded_once_and_the_watch_is_remembered(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Stopped right before the validation in which an alarm is told."""

    def alarming(self: TrainingMonitor, step: int, *_: Any) -> list[Alarmed]:
        return [Alarmed(step, "a-kind", "ct", 2.0, "it is so", "Do that.")]

    monkeypatch.setattr(TrainingMonitor, "validation", alarming)
    whole = train(tiny.debug_config(data, **SECTIONS), runs=tmp_path / "whole").run
    with pytest.raises(StoppedError):
        train_until(6, data, tmp_path)
    run = tmp_path / "mri-to-ct-001"
    state = json.loads((run / "checkpoints" / "step-000006" / "state.json").read_text())
    assert state["watch"]["step"] == 6
    resume(run)
    same_ends(run, whole)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert sum('"a-kind"' in line for line in lines) == 2  # one an epoch
    assert (checkpoints.read_checkpoint(run / "checkpoints" / "step-000012")).monitor["step"] == 12


@pytest.mark.parametrize("watch", [{}, {"step": 1, "means": {}, "records": {"x": {"no": 1}}}])
def test_a_damaged_record_of_the_monitor_is_reported(stopped: Path, watch: Any):
    rewrite(stopped / "checkpoints" / "step-000009" / "state.json", watch=watch)
    with pytest.raises(ModelError, match="monitor's record in the checkpoint is damaged"):
        resume(stopped)


# Damage


@pytest.mark.parametrize("file", ["networks.safetensors", "training.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    stopped: Path, whole: Path, file: str
):
    path = stopped / "checkpoints" / "step-000009" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    if file == "state.json":
        path.write_bytes(content[: len(content) // 2])
    heard: list[Event] = []
    resume(stopped, listener=heard.append)
    warned = [event.text for event in heard if isinstance(event, Warned)]
    assert len(warned) == 1
    assert str(path) in warned[0]
    assert warned[0].endswith("Using the previous checkpoint.")
    same_ends(stopped, whole)
    assert (stopped / "checkpoints" / "damaged-step-000009").is_dir()


def test_damaged_newer_ones_do_not_crowd_out_what_is_written_then(data: Path, stopped: Path):
    """With one that is kept: what counts are the sound ones."""
    config = stopped / "config.json"
    values = json.loads(config.read_text())
    values["runtime"]["keep_checkpoints"] = 1
    config.write_text(json.dumps(values))
    (stopped / "checkpoints" / "step-000009" / "networks.safetensors").write_bytes(b"")
    done = [0]

    def listener(event: Event) -> None:
        if isinstance(event, Progress):
            done[0] = event.done

    with pytest.raises(StoppedError):  # before it is at step 9 again
        resume(stopped, stop=lambda: "the test" if done[0] >= 9 else "", listener=listener)
    assert checkpoints.last_position(stopped / "checkpoints").step == 9
    assert resume(stopped).steps == 12


def test_a_changed_state_is_noticed(stopped: Path):
    path = stopped / "checkpoints" / "step-000009" / "state.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "step": 7}))
    with pytest.raises(ModelError, match=r"state\.json is damaged: its SHA-256"):
        checkpoints.read_checkpoint(path.parent)
    rewrite(path, step=7, own_sha256="")
    with pytest.raises(ModelError, match=r"state\.json is damaged: it belongs to step 7"):
        checkpoints.read_checkpoint(path.parent)


def test_where_all_are_damaged_nothing_is_guessed(stopped: Path):
    for path in (stopped / "checkpoints").glob("step-*"):
        (path / "state.json").write_text("[]")
    with pytest.raises(ModelError, match=r"All checkpoints in .* are damaged"):
        resume(stopped)


def test_a_damaged_best_one_is_forgotten(whole: Path, tmp_path: Path):
    """A finished run whose best checkpoint is damaged: the last validation makes another."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    folder = run / "checkpoints"
    best = folder / (folder / "best").read_text().strip()
    if best.name == "step-000012":
        pytest.skip("the last one was the best")
    path = best / "networks.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    heard: list[Event] = []
    result = resume(run, listener=heard.append)
    assert result.best_step == 12
    assert any(isinstance(e, Warned) and "It was the best one" in e.text for e in heard)
    assert (folder / "best").read_text() == "step-000012\n"


@pytest.mark.parametrize("text", ["../../elsewhere", "step-1", "", "step-000009/../..", "é"])
def test_a_pointer_leads_nowhere_else(stopped: Path, whole: Path, text: str):
    (stopped / "checkpoints" / "last").write_text(text, encoding="utf-8")
    assert checkpoints.pointed(stopped / "checkpoints", "last") is None
    resume(stopped)  # the newest sound one is found without it
    same_ends(stopped, whole)


@pytest.mark.parametrize(
    ("key", "value"),
    [("step", "nine"), ("step", None), ("epoch", 1.5), ("skipped", True), ("best_error", "low")],
)
def test_a_state_of_the_wrong_kind_is_damaged(stopped: Path, key: str, value: Any):
    path = stopped / "checkpoints" / "step-000009" / "state.json"
    rewrite(path, **{key: value})
    with pytest.raises(ModelError, match=f"state.json is damaged: {key}"):
        checkpoints.read_checkpoint(path.parent)


def test_a_state_without_a_key_is_damaged(stopped: Path):
    path = stopped / "checkpoints" / "step-000009" / "state.json"
    rewrite(path, parts=...)
    with pytest.raises(ModelError, match="'parts' is missing"):
        checkpoints.read_checkpoint(path.parent)


# Writing


def small(step: int = 3, value: float = 1.0) -> TrainingState:
    return TrainingState(
        TrainingProgress(step=step), {"w": torch.full((4,), value)}, {"m": torch.zeros(2)}
    )


def test_what_the_disk_gives_back_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save = tensors.save_file

    def damaging(values: Any, path: Path) -> None:
        save({name: value + 1 for name, value in values.items()}, path)

    monkeypatch.setattr(tensors, "save_file", damaging)
    with pytest.raises(OutputError, match="differs from what was written"):
        checkpoints.write_checkpoint(tmp_path, small(), keep=2)
    assert not list(tmp_path.iterdir())


def test_space_is_looked_for_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OutputError, match=r"needs .* MB, but only 0 MB are free"):
        checkpoints.write_checkpoint(tmp_path / "checkpoints", small(), keep=2)
    assert not list(tmp_path.iterdir())


def test_a_snapshot_is_not_changed_by_later_steps(tmp_path: Path):
    weight = torch.zeros(4)
    taken = TrainingState(TrainingProgress(step=3), {"w": weight}, {})
    begun, go_on = threading.Event(), threading.Event()
    write = saver.write_checkpoint

    def slow(*args: Any, **options: Any) -> Path:
        begun.set()
        assert go_on.wait(20)
        return write(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saver, "write_checkpoint", slow)
        with Saver(tmp_path, runtime=RuntimeConfig()) as saving:
            saving.save(taken)
            assert begun.wait(20)
            weight.fill_(7)  # the training goes on
            go_on.set()
    read = checkpoints.read_checkpoint(tmp_path / "step-000003")
    assert torch.equal(read.networks["w"], torch.zeros(4))


@pytest.mark.parametrize(("left", "thread"), [(None, False), (10**12, False), (10, True)])
def test_without_room_for_a_copy_the_training_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int | None, thread: bool
):
    found: list[bool] = []
    monkeypatch.setattr(saver, "memory_left", lambda: left)
    monkeypatch.setattr(
        saver,
        "write_checkpoint",
        lambda *_, **__: found.append(threading.current_thread() is threading.main_thread()),
    )
    with Saver(tmp_path, runtime=RuntimeConfig()) as saving:
        saving.save(small())
    assert found == [thread]


def test_a_failure_in_the_background_ends_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: Any, **__: Any) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    def training() -> None:
        with Saver(tmp_path, runtime=RuntimeConfig()) as saving:
            saving.save(small())
            while True:
                saving.check()
                time.sleep(0.01)

    monkeypatch.setattr(saver, "write_checkpoint", fail)
    with pytest.raises(OSError, match="No space"):
        training()


def test_the_next_one_begins_so_early_that_it_is_complete_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    now = [0.0]

    def slow(*_: Any, **__: Any) -> None:
        now[0] += 20

    monkeypatch.setattr(saver, "write_checkpoint", slow)
    runtime = RuntimeConfig(checkpoint_minutes=2)
    with Saver(tmp_path, runtime=runtime, clock=lambda: now[0]) as saving:
        saving.save(small())
        saving.finish()
        now[0] = 99
        assert not saving.is_late()
        now[0] = 100
        assert saving.is_late()


def test_minutes_between_checkpoints(tmp_path: Path):
    now = [0.0]
    runtime = RuntimeConfig(checkpoint_minutes=2)
    with Saver(tmp_path, runtime=runtime, clock=lambda: now[0]) as saving:
        now[0] = 119
        assert not saving.is_late()
        now[0] = 120
        assert saving.is_late()
        saving.save(small())
        assert not saving.is_late()
    with Saver(tmp_path, runtime=RuntimeConfig(checkpoint_minutes=None)) as saving:
        assert not saving.is_late()
        assert not saving.is_due(10)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells what is mapped")
def test_a_resumed_training_holds_no_file_of_a_checkpoint(stopped: Path):
    """A removed file that is mapped would keep its space on the disk to the end."""
    mapped: list[str] = []

    def listener(event: Event) -> None:
        if isinstance(event, Progress):
            maps = Path("/proc/self/maps").read_text().splitlines()
            mapped.extend(line for line in maps if str(stopped) in line)

    resume(stopped, listener=listener)
    assert mapped == []


# Two processes, two commands


def test_a_second_process_is_refused(stopped: Path):
    with (
        locked(stopped / ".lock"),
        pytest.raises(OutputError, match=r"Another medxlate process is writing"),
    ):
        resume(stopped)


def test_what_a_killed_process_left_is_cleared_up(stopped: Path):
    left = stopped / "checkpoints" / ".step-000010.abc.partial"
    left.mkdir()
    (left / "networks.safetensors").write_bytes(b"half")
    resume(stopped)
    assert not left.exists()


def test_a_folder_moved_aside_comes_back(tmp_path: Path):
    """As a kill between the two renames of an overwritten folder leaves it."""
    aside = tmp_path / ".step-000009.abc.old" / "step-000009"
    aside.mkdir(parents=True)
    (aside / "state.json").write_text("{}")
    files.remove_stale(tmp_path)
    assert (tmp_path / "step-000009" / "state.json").exists()
    assert not aside.exists()


def test_auto_resume_begins_or_continues(data: Path, tmp_path: Path, whole: Path):
    with pytest.raises(StoppedError):
        train_until(9, data, tmp_path, name="job", proceed=True)
    result = train(tiny.debug_config(data, **SECTIONS), runs=tmp_path, name="job", proceed=True)
    assert result.steps == 12
    same_ends(result.run, whole)
    other = tiny.debug_config(data, **{**SECTIONS, "objective": {"lambda_cycle": 3.0}})
    with pytest.raises(ConfigError, match=r"started with objective.lambda_cycle = 10.0, not 3.0"):
        train(other, runs=tmp_path, name="job", proceed=True)


def test_auto_resume_takes_a_folder_without_configuration(data: Path, tmp_path: Path):
    """As a kill between the making of the folder and its first file leaves it."""
    (tmp_path / "job").mkdir()
    config = tiny.debug_config(data, optimizer={"epochs": 1, "batch_size": 9})
    assert train(config, runs=tmp_path, name="job", proceed=True).steps


# The command line


TRAIN = ["train", "--source", "mri", "--target", "ct", "--preset", "debug"]


@pytest.mark.parametrize("which", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_ends_the_command_with_code_3(data: Path, tmp_path: Path, which: str):
    """And what was begun is continued with the words that the message gives."""
    words = [*TRAIN, "--data", str(data), "--runs", str(tmp_path), "--name", "job", "--keep", "1"]
    words += ["--epochs", "100000", "--compile", "off"]  # so many would be worth trying it
    with subprocess.Popen(
        [sys.executable, "-m", "medxlate", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            record = tmp_path / "job" / "metrics.jsonl"
            wait_for(lambda: record.exists() and "step" in record.read_text())
            process.send_signal(getattr(signal, which))
            _, messages = process.communicate(timeout=60)
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 3, messages
    assert f"Stopped by {which} after step" in messages
    assert f"medxlate train --resume --runs {tmp_path} --name job" in messages
    assert "Traceback" not in messages
    step = checkpoints.last_position(tmp_path / "job" / "checkpoints").step
    assert f"after step {step};" in messages


def test_ctrl_c_is_noted_where_steps_look_at_it_and_interrupts_elsewhere():
    heard: list[Event] = []
    before = signal.getsignal(signal.SIGINT)
    with stopping() as signals:
        listener = signals.watching(heard.append)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)  # while data are read
        assert signals.first() == ""
        listener(Stage("Compiling"))
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert signals.first() == ""  # a step was taken
        signal.raise_signal(signal.SIGINT)
        assert signals.first() == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with stopping() as signals:
        signal.raise_signal(signal.SIGTERM)  # whatever is done: the first step saves
        assert signals.first() == "SIGTERM"
    assert heard == [Stage("Compiling")]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_ctrl_c_interrupts_compiling(data: Path, tmp_path: Path):
    words = [*TRAIN, "--data", str(data), "--runs", str(tmp_path), "--compile", "on"]
    own = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    with subprocess.Popen(
        [sys.executable, "-m", "medxlate", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **own},
    ) as process:
        try:
            assert process.stderr is not None
            assert any("Compiling" in line for line in process.stderr)
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            _, messages = process.communicate(timeout=20)  # compiling takes a minute
        except BaseException:
            process.kill()
            raise
    assert process.returncode in (130, -signal.SIGINT), messages  # a shell calls both 130
    assert "Error: Interrupted." in messages
    assert "Traceback" not in messages


def wait_for(happened: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


def call(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_resuming_is_verified_on_this_machine(data: Path, tmp_path: Path):
    words = [*TRAIN, "--data", str(data), "--runs", str(tmp_path / "runs"), "--verify-resume"]
    result = call(*words, "--method", "cyclegan", "--set", "optimizer.buffer_size=3", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["differences"] == []
    assert (found["steps"], found["stopped_at"]) == (8, 4)
    assert found["tensors"] > 200
    assert not (tmp_path / "runs").exists()


def test_the_verification_tells_of_its_steps(data: Path):
    heard: list[Event] = []
    verify.verify_resume(tiny.debug_config(data), listener=heard.append)
    told = [(e.task, e.done, e.total) for e in heard if isinstance(e, Progress)]
    whole = [("without a stop", done, 8) for done in range(1, 9)]
    assert told == [*whole, *(("with a stop", done, 8) for done in range(5, 9))]


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Checkpoints whose image buffers are lost."""
    read = verify.read_checkpoint

    def without_buffers(*args: Any, **options: Any) -> Any:
        taken = read(*args, **options)
        kept = {k: v for k, v in taken.training.items() if not k.endswith(".images")}
        return TrainingState(taken.position, taken.networks, kept, taken.monitor)

    monkeypatch.setattr(verify, "read_checkpoint", without_buffers)
    return iter(())


def test_the_verification_finds_what_is_not_restored(data: Path, forgetful: None):
    words = [*TRAIN, "--data", str(data), "--set", "optimizer.buffer_size=3", "--verify-resume"]
    result = call(*words)
    assert result.exit_code == 1
    assert "Not the same after 8 steps with and without a stop after step 4" in result.output


def test_deterministic_trains_and_leaves_torch_as_it_was(data: Path, tmp_path: Path):
    words = [*TRAIN, "--data", str(data), "--runs", str(tmp_path), "--deterministic"]
    assert call(*words, "--epochs", "1").exit_code == 0
    assert not torch.are_deterministic_algorithms_enabled()
    config = json.loads((tmp_path / "mri-to-ct-001" / "config.json").read_text())
    assert config["runtime"]["deterministic"] is True


def test_auto_resume_needs_a_name(data: Path):
    result = call(*TRAIN, "--auto-resume")
    assert result.exit_code == 2
    assert "Name the run with --name." in result.output
