"""Two processes of a job, as torchrun starts them, against one process: the same bits."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import dividing
import tiny
from conftest import tree
from medxlate.base.files import locked
from medxlate.evaluation import subject as subject_module
from medxlate.evaluation.feature_store import FOLDER
from medxlate.images.recipes import Recipe
from medxlate.inference import stream as stream_module
from medxlate.training.train import train
from preparing import KEY, plant_key, write_mixed

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="needs torch's gloo"
)
CT = Recipe(kind="ct", window=(40, 400), unit="HU", output_range=(-160.0, 240.0))


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    before = stream_module.BATCHES, subject_module.BATCHES
    dividing.small_units()
    yield
    stream_module.BATCHES, subject_module.BATCHES = before


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw CT of every kind, a model for it, a key, and a finished run with its dataset."""
    root = tmp_path_factory.mktemp("job")
    write_mixed(root / "raw")
    tiny.write_tiny_model(root, source_recipe=CT, target_recipe=CT)
    (root / "pseudonym.key").write_text(KEY)
    config = tiny.debug_config(tiny.write_dataset(root / "own"), optimizer={"epochs": 1})
    train(config, runs=root / "runs", name="joint")
    return root


def environment(root: Path) -> dict[str, str]:
    source = Path(dividing.__file__).parents[1] / "src"
    return os.environ | {"PYTHONPATH": str(source), "TORCH_HOME": str(root / "hub")}


def torchrun(root: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a Python program in two processes."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment(root),
    )


def test_two_processes_write_the_same_bits_as_one(root: Path) -> None:
    for name in ("alone", "shared"):
        plant_key(root / name / "data")
    said = dividing.everything(root, root / "alone")
    features = root / "own" / "data" / FOLDER
    shutil.rmtree(features)
    done = torchrun(root, dividing.__file__, "all", root)
    assert done.returncode == 0, done.stderr
    assert tree(root / "shared") == tree(root / "alone")
    assert said["prepared"][0] == "prepared"
    assert said["prepared"][3] == "unchanged"
    assert said["translated"][1] > 48
    for rank in range(2):  # each knows the whole
        assert json.loads((root / f"said-{rank}.json").read_text()) == json.loads(json.dumps(said))
    first, second = (json.loads((root / f"read-{rank}.json").read_text()) for rank in range(2))
    assert abs(len(first) - len(second)) <= 1
    assert len({*first, *second}) == len(first) + len(second)  # and none was read twice
    pieces = [json.loads(path.read_text())["images"] for path in features.rglob("*.json")]
    kept = [name for piece in pieces for name in piece]
    assert len(kept) == len(set(kept))  # neither took the other's features


def test_when_one_of_them_is_killed_a_process_alone_goes_on_to_the_same_bits(root: Path) -> None:
    done = torchrun(root, dividing.__file__, "killed", root)
    assert done.returncode != 0
    assert "SIGKILL" in done.stderr or "Signal 9" in done.stderr
    work = root / ".killed.work"
    noted = [
        json.loads(line)["key"]
        for path in work.glob("journal-*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert len(noted) >= 2
    assert (work / "journal-1.jsonl").read_text()  # the second one had its share
    assert not (root / "killed").exists()
    dividing.translation(root, root / "killed")
    assert not work.exists()
    dividing.translation(root, root / "truth")
    assert tree(root / "killed") == tree(root / "truth")


def test_an_error_of_one_ends_the_job_in_one_line(root: Path) -> None:
    done = torchrun(root, dividing.__file__, "full", root)
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert errors == ["Error (process 1): No space is left on the disk for x.dcm."]
    assert done.returncode != 0
    assert list((root / ".full.work").glob("journal-*.jsonl"))  # what can be continued


def test_a_second_job_is_refused_in_one_line_and_no_process_waits(root: Path) -> None:
    """Without torchrun's agent, which would end the second process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["translate", root / "raw", "--force", "--out", root / "out", "--model", root / "model"]
    with locked(root / ".out.lock"):
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "medxlate", *map(str, words), "--device", "cpu"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(root)
                | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
                | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            )
            for rank in range(2)
        ]
        said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [1, 1]
    assert said[0][1].splitlines()[0] == (
        f"Error (process 0): Another medxlate process is writing to {root} (it holds .out.lock)."
    )
    assert [out for out, _ in said] == ["", ""]
    assert "Error" not in said[1][1]
    assert not (root / "out").exists()
