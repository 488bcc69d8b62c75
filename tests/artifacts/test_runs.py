"""``medxlate runs``: what is said of runs, and what is removed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medxlate.artifacts.history import list_runs, remove_run, show_run
from medxlate.base.errors import ModelError, OutputError, UsageError
from medxlate.base.files import locked
from medxlate.cli.app import app


def make(runs: Path, name: str, *, age: float = 0, epochs: int = 2, finished: bool = True) -> Path:
    run = runs / name
    (run / "checkpoints" / "step-000010").mkdir(parents=True)
    config = {"method": "joint", "data": {"folder": "data", "sources": ["mri"], "target": "ct"}}
    (run / "config.json").write_text(json.dumps(config | {"optimizer": {"epochs": 7}}))
    (run / "split.json").write_text("{}")
    (run / "checkpoints" / "last").write_text("step-000010\n")
    (run / "checkpoints" / "step-000010" / "state.json").write_text("{}")
    lines = [{"event": "step", "step": 1, "epoch": 1, "losses": {}}]
    for epoch in range(1, epochs + 1):
        error = {1: 5.0, 2: 3.0}.get(epoch, 4.0)
        metrics = {"val_error": error, "mse": error}
        lines.append(
            {"event": "epoch", "step": epoch, "epoch": epoch, "epochs": 7, "metrics": metrics}
        )
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run / "metrics.jsonl").write_text(text + '{"event": "epoch", "step": 9, "ep')  # cut by a kill
    if finished:
        (run / "model").mkdir()
        weights = {"predictor": {"weights": {"file": "predictor.safetensors"}}}
        (run / "model" / "model.json").write_text(json.dumps(weights))
        (run / "model" / "predictor.safetensors").write_bytes(b"x" * 1000)
    for file in (run / "config.json", run / "metrics.jsonl"):
        os.utime(file, (time.time() - age,) * 2)
    (runs / "latest").write_text(name + "\n")
    return run


def call(*words: str | Path, text: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words], input=text)
    return result.exit_code, result.stdout, result.stderr


def test_list_says_state_errors_and_size(tmp_path: Path) -> None:
    done = make(tmp_path, "done", age=7200, epochs=3)
    (done / "evaluation").mkdir()
    figure = {"group": "prediction", "name": "mae", "value": 2.5, "level": "image"}
    constant = {**figure, "of": "constant", "value": 9.0}
    text = json.dumps({"metrics": [constant, {**figure, "value": None}, figure]})
    (done / "evaluation" / "evaluation.json").write_text(text)
    make(tmp_path, "stopped", finished=False, age=60)
    busy = make(tmp_path, "busy", finished=False)
    (busy / "split.json").unlink()  # still to come
    (busy / "link").symlink_to(done)
    with locked(busy / ".lock"):
        found = {run.name: run for run in list_runs(tmp_path)}
    assert list(found) == ["busy", "stopped", "done"]
    assert [run.state for run in found.values()] == ["running", "stopped", "finished"]
    assert (found["done"].metric, found["done"].test) == ("mae", 2.5)
    assert (found["done"].epochs, found["done"].best_error) == (3, 3.0)
    assert (found["done"].sources, found["done"].target) == (("mri",), "ct")
    assert found["done"].seconds == pytest.approx(7200, abs=60)
    assert [run.latest for run in found.values()] == [True, False, False]
    files = [path for path in done.rglob("*") if path.is_file()]
    assert found["done"].bytes == sum(path.stat().st_size for path in files)
    assert found["busy"].bytes < 2000, "a link was followed"


def test_a_lock_that_a_kill_left_is_no_running(tmp_path: Path) -> None:
    run = make(tmp_path, "killed", finished=False)
    (run / ".lock").touch()
    assert list_runs(tmp_path)[0].state == "stopped"


@pytest.mark.parametrize(
    "file",
    [
        "config.json",
        "split.json",
        "model/model.json",
        "model/predictor.safetensors",
        "checkpoints/step-000010/state.json",
    ],
)
def test_damage_is_told_by_the_file_that_is_missing(tmp_path: Path, file: str) -> None:
    run = make(tmp_path, "hurt")
    (run / file).unlink()
    found = list_runs(tmp_path)[0]
    assert found.state == "damaged"
    assert found.problem == f"{run / file} does not exist."
    code, out, _ = call("runs", "list", "--runs", tmp_path)
    assert code == 0
    assert f"hurt is damaged: {run / file}" in out


def test_show_says_what_differs_from_the_defaults(tmp_path: Path) -> None:
    make(tmp_path, "one")
    details = show_run(tmp_path, "latest")
    assert details.differences["optimizer.epochs"] == 7
    assert details.differences["data.target"] == "ct"
    assert not {"method", "split.seed"} & set(details.differences)
    assert details.files["model/"] > 1000
    assert details.metrics == {"val_error": 3.0, "mse": 3.0}
    code, out, _ = call("runs", "show", "one", "--runs", tmp_path, "--json")
    assert code == 0
    assert json.loads(out)["run"]["name"] == "one"
    assert call("runs", "show", "--runs", tmp_path)[0] == 0
    with pytest.raises(ModelError, match="no run 'two'"):
        show_run(tmp_path, "two")


def test_remove_asks_and_repoints(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    make(runs, "older", age=500)
    make(runs, "old", age=100)
    run = make(runs, "new")
    (run / "link").symlink_to(outside)
    assert call("runs", "rm", "new", "--runs", runs)[0] == 2  # nobody answers
    assert call("runs", "rm", "new", "--runs", runs, text="n\n")[0] == 2
    assert run.exists()
    assert call("runs", "rm", "new", "--runs", runs, text="y\n")[0] == 0
    assert not run.exists()
    assert (outside / "kept").exists()
    assert (runs / "latest").read_text() == "old\n"
    assert call("runs", "rm", "older", "--runs", runs, "--yes", "--json")[0] == 0
    assert (runs / "latest").read_text() == "old\n"
    remove_run(runs, "latest")
    assert list(runs.iterdir()) == []


def test_what_is_not_removed(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    run = make(runs, "busy")
    with locked(run / ".lock"):
        with pytest.raises(OutputError, match="being trained"):
            remove_run(runs, "busy")
        code, _, err = call("runs", "rm", "busy", "--runs", runs, "--yes")
        assert (code, "lock is held" in err) == (1, True)
    foreign = runs / "thesis"
    foreign.mkdir()
    (foreign / "text.tex").touch()
    with pytest.raises(UsageError, match="does not look like a run"):
        remove_run(runs, "thesis")
    (runs / "alias").symlink_to(run)
    with pytest.raises(UsageError, match="is a link"):
        remove_run(runs, "alias")
    for name in ("..", "../outside", ".", ""):
        with pytest.raises(ModelError):
            remove_run(runs, name)
    assert (run / "config.json").exists()


@pytest.mark.alone
@pytest.mark.nightly
def test_five_hundred_runs_are_listed_quickly(tmp_path: Path) -> None:
    for number in range(500):
        make(tmp_path, f"run-{number:03d}", epochs=20)
    began = time.perf_counter()
    assert len(list_runs(tmp_path)) == 500
    assert time.perf_counter() - began < 3
