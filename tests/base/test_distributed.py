"""Several processes train as one would: gloo, two of them, started by torchrun."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import sharing
import tiny
from medxlate.base.distributed import Ranks

TESTS = Path(__file__).parents[1]
TOLERANCE = 1e-9  # relative, in float64: sums are taken in another order


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_dataset(tmp_path_factory.mktemp("tiny"))


def torchrun(*words: object, restarts: int = 0, count: int = 2) -> subprocess.CompletedProcess[str]:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(count), "--max-restarts", str(restarts)),
        *map(str, words),
    ]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=TESTS,
    )


@pytest.fixture(scope="module")
def shared(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which two processes have trained all cases."""
    out = tmp_path_factory.mktemp("shared")
    done = torchrun("sharing.py", "cases", data, out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("case", sharing.CASES)
def test_two_processes_have_the_losses_of_one(data: Path, tmp_path: Path, shared: Path, case: str):
    config = sharing.config_of(data, case)
    if case == "parts":  # without sync_bn each process's part has its own statistics
        runtime = config.runtime.model_copy(update={"accumulate": 2})
        config = config.model_copy(update={"runtime": runtime})
    wanted = sharing.run_case(config, tmp_path, case)
    found = json.loads((shared / "losses.json").read_text())[case]
    assert len(found) == len(wanted) == sharing.STEPS
    for step, (ours, theirs) in enumerate(zip(found, wanted, strict=True), start=1):
        for losses in (ours, theirs):  # a ratio of norms: each process's is of its own part
            losses.pop("mri.gradient_ratio", None)
        assert ours == pytest.approx(theirs, rel=TOLERANCE), step


def test_two_processes_have_the_weights_of_one(data: Path, tmp_path: Path, shared: Path):
    sharing.run_case(sharing.config_of(data, "joint"), tmp_path, "joint")
    compare_weights(tmp_path / "runs" / "joint", shared / "runs" / "joint")


def test_a_training_goes_on_in_fewer_processes(data: Path, tmp_path: Path, shared: Path):
    run = shared / "runs" / "stopped"
    assert not (run / "model").exists()
    sharing.finish(run)
    sharing.run_case(sharing.config_of(data, "joint"), tmp_path, "joint")
    compare_weights(tmp_path / "runs" / "joint", run)


def compare_weights(one: Path, other: Path) -> None:
    for file in ("networks", "training"):
        path = Path("checkpoints", f"step-{sharing.STEPS:06d}", f"{file}.safetensors")
        ours, theirs = load_file(one / path), load_file(other / path)
        assert set(ours) == set(theirs)
        for name, value in theirs.items():
            if value.is_floating_point() and not name.startswith("random"):
                torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=1e-9)


def test_synced_batch_norm_is_that_of_all_images(shared: Path):
    """Against torch's own batch norm over the whole batch: outputs, statistics, gradients."""
    found = json.loads((shared / "norm.json").read_text())
    wanted = sharing.norm_gradients(sharing.some_images())
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name


def test_a_killed_process_is_restarted_and_the_run_ends_where_it_should(data: Path, tmp_path: Path):
    words = ["--source", "mri", "--target", "ct", "--preset", "debug", "--data", data]
    words += ["--batch-size", 4, "--epochs", 2, "--set", "optimizer.steps_per_epoch=6"]
    words += ["--set", "runtime.checkpoint_steps=3", "--runs", tmp_path]
    words += ["--set", "optimizer.ema_decay=0.5"]  # what is exported is the average
    mark = tmp_path / "mark.1"
    killed = torchrun("sharing.py", "killed", mark, "train", *words, "--name", "killed", restarts=1)
    assert killed.returncode == 0, killed.stderr
    assert killed.stderr.count("Training joint on") == 2  # the second time from step 6
    whole = torchrun("-m", "medxlate", "train", *words, "--name", "whole", "--json")
    assert whole.returncode == 0, whole.stderr
    assert json.loads(whole.stdout)["steps"] == 12  # one result, of the first process
    for name in ("predictor", "translator-mri"):
        file = Path("model", f"{name}.safetensors")
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    losses = [_losses(tmp_path / name) for name in ("killed", "whole")]
    assert losses[0] == losses[1]


@pytest.mark.nightly
def test_two_machines_restart_together(data: Path, tmp_path: Path):
    """Torchrun counts restarts for each machine apart, and its store remembers the dead."""
    words = ["--source", "mri", "--target", "ct", "--preset", "debug", "--data", str(data)]
    words += ["--batch-size", "4", "--set", "optimizer.steps_per_epoch=6", "--epochs", "2"]
    words += ["--runs", str(tmp_path), "--name", "job", "--auto-resume"]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
        *("--max-restarts=2", "--rdzv-id=1", "--rdzv-backend=c10d"),
        *(f"--rdzv-endpoint=localhost:{port}", "sharing.py", "killed"),
        *(str(tmp_path / "mark.0"), "train", *words),
    ]
    machines = [
        subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=TESTS,
        )
        for _ in range(2)
    ]
    messages = [machine.communicate(timeout=240)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], messages
    assert (tmp_path / "mark.0").exists()
    assert sum(text.count("Training joint on") for text in messages) == 2
    assert (tmp_path / "job" / "model" / "model.json").is_file()


def _losses(run: Path) -> list[Any]:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(e["event"], e["step"], e.get("losses"), e.get("metrics")) for e in events]


def test_a_job_that_may_be_restarted_needs_a_name(data: Path, tmp_path: Path):
    words = ["--source", "mri", "--target", "ct", "--data", data, "--runs", tmp_path]
    done = torchrun("-m", "medxlate", "train", *words, restarts=1, count=1)
    assert "Name the run with --name." in done.stderr
    assert 'Traceback (most recent call last):\n  File "' not in done.stderr.split("Error:")[0]


def test_a_batch_is_divided_without_rest():
    for count in range(1, 6):
        for size in range(0, 12):
            parts = [range(size)[Ranks(rank, count).part(size)] for rank in range(count)]
            assert [i for part in parts for i in part] == list(range(size))
            assert [len(part) for part in parts] == Ranks(0, count).sizes(size)
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone_everything_is_ones_own():
    alone = Ranks()
    assert alone.broadcast({"a": 1}) == {"a": 1}
    assert alone.gather(3) == [3]
    assert alone.part(7) == slice(0, 7)
