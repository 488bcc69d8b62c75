"""A study of every method: the same numbers however it is carried out, and what it leaves."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import test_workers

from medxlate.base.device import choose_compute
from medxlate.base.errors import DataError
from medxlate.base.events import Progress, Stage, Warned
from medxlate.config import Config
from medxlate.dataset.index import Dataset
from medxlate.inference.predict import Predictor
from medxlate.method import registry as registry
from medxlate.method.registry import METHODS
from medxlate.study import cell as cell_module
from medxlate.study import cluster, workers
from medxlate.study import compare as compare_module
from medxlate.study.begin import Grid
from medxlate.study.cell import Assignment, Done
from medxlate.study.compare import Where, compare
from medxlate.study.study import StudyFolder
from medxlate.study.workers import Outcome
from studies import (
    BRIEF,
    Heard,
    Run,
    assert_same,
    by_cell,
    by_image,
    call,
    carry_out,
    dataset,
    demo_dataset,
    flat,
    grid,
    kill_when,
    place,
    read_json,
)
from tiny import debug_config
from working import children, until

AUGMENTED = "joint+autoaugment"
EVERY = (*(name for name in METHODS if name != "oracle"), AUGMENTED)  # without pairs
SEVERAL = ("constant", "target-only", "joint", "cyclegan", "transfer")
STEPS = 5  # of an epoch, of two
SHARES = {"train": 0.4, "val": 0.2, "test": 0.4}  # every class in training and test, seeds 4 and 5
PROC = Path("/proc/self/statm").exists()
ray_head = test_workers.head


def settings(data: Path) -> Config:
    return debug_config(data, optimizer={"steps_per_epoch": STEPS})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_dataset(tmp_path_factory)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Every method, two repeats, one cell after the other."""
    wanted = Grid(methods=EVERY, sources=("mri",), repeats=2)
    return carry_out(settings(data), wanted, tmp_path_factory.mktemp("whole") / "compare")


@pytest.fixture(scope="module")
def doses(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two source sets and two target fractions."""
    wanted = Grid(
        methods=("target-only", "joint", "cyclegan", "transfer"),
        sources=("mri", "pet+mri"),
        repeats=1,
        target_fractions=(1.0, 0.5),
    )
    config = debug_config(data, optimizer=BRIEF)
    return carry_out(config, wanted, tmp_path_factory.mktemp("doses") / "compare")


@pytest.fixture
def copy(whole: Run, tmp_path: Path) -> Path:
    """The finished study, to be changed."""
    return Path(shutil.copytree(whole.folder, tmp_path / "compare"))


# ----- Every method -----


def test_every_method_is_trained_and_reported(whole: Run) -> None:
    assert not whole.result.failed
    assert whole.result.cells == len(whole.results) == 2 * len(EVERY)
    assert set(whole.results["method"]) == set(EVERY)
    assert np.isfinite(whole.results[["loss", "patient_loss", "mse", "mae"]]).all(axis=None)
    assert whole.result.findings is not None
    counted = whole.results.groupby("method")[["source_patients", "source_images"]].min()
    assert not counted.loc[["target-only", "duplicate-real"]].any(axis=None)  # nobody new is shown
    assert (counted.loc[["raw-mix", "histogram", "joint", "transfer"]] > 0).all(axis=None)
    compared = {
        (each.system.method, each.system.sources) for each in whole.result.findings.comparisons
    }
    assert compared == {
        (name, "mri" if registry.find_method(name).uses_sources else "")
        for name in EVERY
        if name != "target-only"
    }
    loss = by_image(whole.predictions)["prediction"].sub(by_image(whole.predictions)["label"]) ** 2
    means = loss.groupby(level=["method", "repeat"]).mean()
    found = whole.results.set_index(["method", "repeat"])["loss"]
    np.testing.assert_allclose(found, means[found.index], rtol=1e-5)


def test_progress_covers_the_grid(whole: Run) -> None:
    ended = whole.heard.cells
    assert [event.done for event in ended] == [*range(1, 29)]
    assert {event.total for event in ended} == {28}
    losses = {event.name: event.loss for event in ended}
    for cell in grid(whole.folder):
        assert (
            losses[cell.name]
            == read_json(StudyFolder(whole.folder).cell(cell) / "cell.json")["loss"]
        )
    progress = whole.heard.of(Progress)
    assert {event.task for event in progress} == {"study"}
    done = [event.done for event in progress]
    assert done == sorted(done)
    assert progress[-1].done == progress[-1].total
    stages = [event.text for event in whole.heard.of(Stage)]
    assert stages == ["28 of 28 cells to train, after 4 shared first stages", "Comparing"]


def test_what_is_on_disk(whole: Run) -> None:
    folder = whole.folder
    assert {path.name for path in folder.iterdir()} == {
        "cells",
        "figures",
        "predictions.parquet",
        "report.html",
        "report.md",
        "results.csv",
        "results.parquet",
        "splits",
        "statistics.json",
        "study.json",
        "subgroups.csv",
        "tables",
    }
    assert pd.read_parquet(folder / "results.parquet").to_csv() == whole.results.to_csv()
    pd.testing.assert_frame_equal(
        pd.read_parquet(folder / "predictions.parquet"), whole.predictions
    )
    assert len(pd.read_csv(folder / "results.csv")) == 28
    for path in (folder / "figures").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG\r\n")
    figures = {path.name for path in (folder / "figures").iterdir()}
    assert figures == {"errors.png", "translations-mri.png"}
    tables = {path.name for path in (folder / "tables").iterdir()}
    assert {Path(name).suffix for name in tables} == {".md", ".tex", ".csv"}
    assert {Path(name).stem for name in tables} >= {"overview"}
    assert len(tables) == 3 * 5
    statistics = read_json(folder / "statistics.json")
    assert len(statistics["against_target_only"]) == 13
    report = (folder / "report.md").read_text()
    assert report.count("](figures/") == 2
    for name in EVERY:
        assert name in report
    assert not list(folder.rglob(".*"))


def test_no_patient_is_named(whole: Run) -> None:
    """The patients' ids are in the files' names and headers, which the dataset knows."""
    named = re.compile("(CT|MRI|PET)0[0-9][0-9]|Phantom")
    tables = []
    for path in whole.folder.rglob("*"):
        text = ""
        assert not named.search(path.name)
        if path.suffix == ".parquet":
            text = pd.read_parquet(path).to_csv()
            tables.append(text)
        elif path.suffix in (".json", ".jsonl", ".csv", ".md", ".tex"):
            text = path.read_text()
        assert not named.search(text), path
    assert len(tables) == 30


def test_of_the_weights_only_those_that_judge_images_stay(whole: Run) -> None:
    left = {
        path.relative_to(whole.folder).parts[1:] for path in whole.folder.rglob("*.safetensors")
    }
    expected = {
        (place(whole.folder, "target-only", repeat).name, "run", "model", "predictor.safetensors")
        for repeat in range(2)
    }
    assert left == expected
    assert not list(whole.folder.rglob("checkpoints"))


def test_models_are_kept_where_they_are_wanted(data: Path, tmp_path: Path) -> None:
    compare(
        debug_config(data, optimizer=BRIEF),
        Grid(methods=("raw-mix", "cyclegan"), sources=("mri",), repeats=1),
        out=tmp_path / "compare",
        where=Where(keep_models=True),
    )
    for method in ("raw-mix", "cyclegan"):
        model = place(tmp_path / "compare", method) / "run" / "model"
        assert Predictor(model, compute=choose_compute("cpu")).head.outputs == 1
    assert (model / "translator-mri.safetensors").is_file()


# ----- Fairness -----


def test_methods_of_a_repeat_share_test_images_updates_and_first_weights(whole: Run) -> None:
    for repeat in range(2):
        own = whole.predictions[whole.predictions["repeat"] == repeat]
        tested = {tuple(some["slice_id"]) for _, some in own.groupby("method")}
        assert len(tested) == 1
        results = whole.results[whole.results["repeat"] == repeat]
        assert set(results["updates"]) == {0, 2 * STEPS}
        assert set(results["method"][results["updates"] == 0]) == {"constant"}
        begun = [each for each in whole.trainings if each.config.runtime.seed == repeat]
        weights = {each.config.method: each.weights for each in begun}
        for method, found in weights.items():
            if method != "translator":
                for name, value in weights["target-only"].items():
                    assert value.equal(found[name]), (method, name)
    first, second = (
        next(t for t in whole.trainings if t.config.runtime.seed == repeat) for repeat in range(2)
    )
    assert first.config.split.seed != second.config.split.seed
    one, other = (set(some["slice_id"]) for _, some in whole.predictions.groupby("repeat"))
    assert one != other


def test_no_patient_is_on_two_sides(whole: Run, doses: Run) -> None:
    for run in (whole, doses):
        for repeat in set(run.predictions["repeat"]):
            own = run.predictions[run.predictions["repeat"] == repeat]
            tested = set(own["patient"])
            written = pd.read_csv(run.folder / "splits" / f"r{repeat:02d}.csv", dtype=str)
            sides = {part: set(rows["patient"]) for part, rows in written.groupby("part")}
            assert tested == sides["test"]
            assert set(own["slice_id"]) == set(written["slice_id"][written["part"] == "test"])
            assert not (sides["train"] & tested) | (sides["val"] & (tested | sides["train"]))
            for training in run.trainings:
                if training.config.runtime.seed == repeat:
                    seen = set().union(*map(training.patients, training.data.train))
                    validated = set(training.data.val["ct"].patients)
                    assert not tested & (seen | validated)
                    assert not seen & validated
                    assert training.patients("ct") <= sides["train"]


def test_fractions_are_nested_and_leave_test_images_alone(doses: Run) -> None:
    assert len(doses.results) == 2 * (1 + 3 * 2)
    tested = {tuple(some["slice_id"]) for _, some in by_groups(doses.predictions)}
    assert len(tested) == 1
    methods = {each.config.method for each in doses.trainings} - {"source-only"}
    for method in methods:
        own = [each for each in doses.trainings if each.config.method == method]
        shares = {each.config.data.target_fraction: each for each in own}
        half, full = shares[0.5], shares[1.0]
        assert half.patients("ct") < full.patients("ct")
        assert len(half.patients("ct")) == round(len(full.patients("ct")) / 2)
        assert half.patients("mri") == full.patients("mri") if "mri" in half.data.train else True
    counts = doses.results.groupby("target_fraction")[["train_patients", "updates"]].agg(set)
    full_count = len(full.patients("ct"))
    assert counts["train_patients"].to_dict() == {0.5: {round(full_count / 2)}, 1.0: {full_count}}
    assert list(counts["updates"]) == [{1}, {1}]
    assert (doses.folder / "figures" / "dose.png").is_file()


def test_smaller_fractions_are_parts_of_larger_ones(data: Path, tmp_path: Path) -> None:
    """Of the target and of the source, of nine patients each."""
    shares = (0.3, 0.6, 1.0)
    wanted = Grid(("raw-mix",), ("mri",), 1, target_fractions=shares, source_fractions=shares)
    run = carry_out(debug_config(data, optimizer=BRIEF), wanted, tmp_path / "compare")
    for name, other in (("target", "source"), ("source", "target")):
        kept = {
            getattr(each.config.data, f"{name}_fraction"): each.patients(
                "ct" if name == "target" else "mri"
            )
            for each in run.trainings
            if getattr(each.config.data, f"{other}_fraction") == 1
        }
        assert kept[0.3] < kept[0.6] < kept[1.0]
        assert [len(kept[share]) for share in shares] == [3, 5, 9]


def by_groups(predictions: pd.DataFrame) -> Any:
    return predictions.groupby(["method", "sources", "target_fraction", "source_fraction"])


def test_work_that_cells_share_is_done_once(doses: Run) -> None:
    """A translator depends on the target's share, not on the other sources; see first_stages."""
    counted = Counter(each.config.method for each in doses.trainings)
    assert counted == {
        "target-only": 2,
        "joint": 4,
        "cyclegan": 4,
        "transfer": 4,
        "source-only": 2,
        "translator": 4,
    }
    shared = {
        (each.config.method, *each.config.data.sources, each.config.data.target_fraction)
        for each in doses.trainings
        if each.config.method in registry.STAGES
    }
    assert len(shared) == 6
    seconds = doses.results.set_index("method")["shared_seconds"]
    assert (seconds[["cyclegan", "transfer"]] > 0).all()
    assert (seconds[["joint", "target-only"]] == 0).all()


@pytest.mark.parametrize("policy", ["patient", "image"])
def test_the_policy_is_reported_beside_the_numbers(data: Path, tmp_path: Path, policy: str) -> None:
    config = debug_config(data, optimizer=BRIEF, split={"policy": policy})
    heard, out = Heard(), tmp_path / "compare"
    wanted = Grid(methods=("constant", "raw-mix"), sources=("mri",), repeats=2)
    result = compare(config, wanted, out=out, listener=heard)
    assert result.findings is not None
    assert set(result.findings.results["policy"]) == {policy}
    written = pd.read_csv(out / "splits" / "r00.csv", dtype=str)
    sides = {part: set(rows["patient"]) for part, rows in written.groupby("part")}
    warned = [event.text for event in heard.of(Warned) if "--policy image" in event.text]
    places = [out / "report.md", *(out / "tables").glob("*.md"), *(out / "tables").glob("*.tex")]
    assert len(places) > 2
    for path in places:
        text = flat(path.read_text())
        assert ("say nothing about new patients" in text) == (policy == "image")
        assert ("The results apply to new patients" in text) == (policy == "patient")
    assert bool(sides["train"] & sides["test"]) == bool(warned) == (policy == "image")


# ----- The same numbers -----


def test_a_finished_study_is_read_again_and_not_trained(whole: Run, copy: Path) -> None:
    heard = Heard()
    result = compare(out=copy, listener=heard)
    assert not heard.cells
    assert (result.overhead, result.training_seconds) == (None, 0.0)
    assert result.findings is not None
    pd.testing.assert_frame_equal(result.findings.results, whole.results, check_exact=True)


def test_what_was_half_written_when_a_study_was_killed_is_removed(copy: Path) -> None:
    names = (
        ".results.parquet.a1.partial",
        ".report.html.b2.partial",
        ".statistics.json.c3.partial",
    )
    left = [copy / name for name in names]
    left += [copy / "figures" / ".errors.png.d4.partial", copy / "tables" / ".t.md.e5.partial"]
    mine = copy / ".mine.partial"
    for path in (*left, mine):
        path.touch()
    compare(out=copy)
    assert not [path for path in left if path.exists()]
    assert mine.exists()


def test_processes_give_the_same_numbers_though_two_are_killed(
    whole: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cells that the killed ones worked on fail, and are trained by the next call."""
    monkeypatch.setattr(workers, "cores", lambda: 2)  # so that each computes on one thread
    folder = StudyFolder(tmp_path / "compare")

    def kill() -> None:
        until(lambda: any(folder.cells.glob(".*.work/run/config.json")), 120)
        for pid in children():
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    heard = Heard()
    wanted = Grid(methods=EVERY, sources=("mri",), repeats=2)
    result = compare(settings(data), wanted, out=folder.path, where=Where(jobs=2), listener=heard)
    killer.join()
    assert 1 <= len(result.failed) <= 2
    for name, error in result.failed.items():
        assert error == "its process died (signal 9; out of memory?)"
        assert read_json(folder.cells / f"{name}.failed.json")["error"] == error
        assert f"- {name}: {error}" in (folder.path / "report.md").read_text()
    assert result.findings is not None
    assert len(result.findings.results) == 28 - len(result.failed)
    assert {event.name: event.error for event in heard.cells if event.error} == result.failed

    again = compare(out=folder.path)
    assert not again.failed
    assert not list(folder.cells.glob("*.failed.json"))
    assert again.findings is not None
    assert len(again.findings.results) == 28
    assert_same(again.findings, whole.result.findings)


@test_workers.needs_ray
def test_a_ray_cluster_gives_the_same_numbers(
    whole: Run, data: Path, tmp_path: Path, ray_head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_require_cluster", lambda address: None)  # it is known to run
    wanted = Grid(methods=EVERY, sources=("mri",), repeats=2)
    result = compare(settings(data), wanted, out=tmp_path / "compare", where=Where(ray=ray_head))
    assert not result.failed
    assert result.findings is not None
    assert len(result.findings.results) == 28
    assert_same(result.findings, whole.result.findings)


def test_a_study_that_is_killed_goes_on_to_the_same_numbers(
    whole: Run, data: Path, tmp_path: Path
) -> None:
    """Killed within a shared stage, then within the third cell."""
    folder = StudyFolder(tmp_path / "compare")
    words = ["compare", "--target", "ct", "--source", "mri", "--repeats", "2", "--preset", "debug"]
    words += ["--data", str(data), "--device", "cpu", "--seed", "0", "--out", str(folder.path)]
    words += ["--set", f"optimizer.steps_per_epoch={STEPS}", "--set", "split.sources=divided"]
    words += [word for method in SEVERAL for word in ("--method", method)]
    kill_when(lambda: any(folder.path.glob("shared/*/checkpoints/last")), *words)
    assert not list(folder.path.glob("shared/*/stage.json"))
    assert not list(folder.cells.glob("*/cell.json"))

    kill_when(lambda: any(folder.cells.glob(".*joint*.work/run/checkpoints/last")), *words)
    assert {path.parent.name[:4] for path in folder.cells.glob("*/cell.json")} == {"0000", "0001"}
    assert len(list(folder.cells.glob(".*.work"))) == 1

    result = compare(out=folder.path)
    assert not result.failed
    assert not list(folder.path.rglob(".*"))
    assert result.findings is not None
    results = result.findings.results
    assert len(results) == 10
    interrupted = results.loc[results["seconds"].isna(), ["method", "repeat"]]
    assert interrupted.to_numpy().tolist() == [["joint", 0]]
    assert_same(result.findings, whole.result.findings)


@pytest.mark.parametrize("damage", ["gone", "half gone"])
def test_a_cell_that_is_killed_while_it_is_put_away_is_not_lost(
    whole: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    def remove(path: Path, **options: Any) -> None:
        if path.exists():
            next(path.rglob("networks.safetensors")).unlink()
            if damage == "gone":
                shutil.rmtree(path)
            raise RuntimeError("killed")

    wanted = Grid(methods=("constant", "cyclegan"), sources=("mri",), repeats=1)
    with monkeypatch.context() as patch:
        patch.setattr(cell_module, "shutil", SimpleNamespace(rmtree=remove))
        first = compare(settings(data), wanted, out=tmp_path / "compare")
    assert list(first.failed.values()) == ["RuntimeError: killed"]
    second = compare(out=tmp_path / "compare")
    assert not second.failed
    assert_same(second.findings, whole.result.findings, quality=False)


def test_cells_one_by_one_give_the_same_numbers(whole: Run, data: Path, tmp_path: Path) -> None:
    config, out = settings(data), tmp_path / "compare"
    methods = ("constant", "target-only", "joint", "cyclegan", "transfer")
    wanted = Grid(methods=methods, sources=("mri",), repeats=1)
    for index in (4, 0, 2, 1, 3):
        result = compare(config, wanted, out=out, where=Where(cell=index))
        assert result.findings is None
        assert (out / "cells" / grid(out)[index].name / "cell.json").is_file()
        assert not (out / "results.parquet").exists()
    heard = Heard()
    collected = compare(out=out, listener=heard)
    assert not heard.cells
    assert collected.findings is not None
    assert list(collected.findings.results["method"]) == list(methods)
    assert_same(collected.findings, whole.result.findings)


def test_a_study_follows_its_dataset_and_may_begin_again_after_a_kill(
    whole: Run, data: Path, tmp_path: Path
) -> None:
    """Splits are written before study.json, which makes a folder a study."""
    out, moved = tmp_path / "compare", tmp_path / "moved"
    config = settings(data)
    wanted = Grid(methods=("constant", "target-only"), repeats=1)
    shutil.copytree(whole.folder / "splits", out / "splits")
    compare(config, wanted, out=out, where=Where(cell=0))
    shutil.copytree(data, moved)
    compare(settings(moved), wanted, out=out, where=Where(cell=1))
    result = compare(out=out)
    assert result.study.config.data.folder == str(moved)
    assert_same(result.findings, whole.result.findings, quality=False)


# ----- Failures -----


def unlucky(*_: object) -> Any:
    raise RuntimeError("no\nluck")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Multitask cannot be trained, nor the first stage of transfer."""
    with monkeypatch.context() as patch:
        for table, name in ((registry.METHODS, "multitask"), (registry.STAGES, "source-only")):
            patch.setitem(table, name, replace(table[name], build=unlucky))
        yield patch


def test_a_cell_that_fails_costs_what_depends_on_it_and_is_tried_again(
    data: Path, tmp_path: Path, failing: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "compare"
    words = ["compare", "--target", "ct", "--source", "mri", "--repeats", "1", "--preset", "debug"]
    words += ["--data", str(data), "--device", "cpu", "--out", str(out), "--set"]
    words += ["optimizer.epochs=1", "--set", "optimizer.steps_per_epoch=1", "--json"]
    methods = ("target-only", "cyclegan", "transfer", "multitask")
    words += [word for method in methods for word in ("--method", method)]
    result = call(*words)
    assert result.exit_code == 1
    failed = read_text(result.stdout)["failed"]
    by_method = {name.split("-")[1]: error for name, error in failed.items()}
    assert by_method == {
        "multitask": "RuntimeError: no luck",
        "transfer": "its first stage failed: RuntimeError: no luck",
    }
    text = flat(result.stderr)
    assert "2 of 4 cells failed" in text
    assert "tries them again" in text
    for name, error in failed.items():
        assert text.count(f"{name} failed: {error}") == 1
        assert read_json(out / "cells" / f"{name}.failed.json")["error"] == error
    assert set(pd.read_csv(out / "results.csv")["method"]) == {"target-only", "cyclegan"}

    failing.undo()
    again = call("compare", "--out", out, "--json")
    assert (again.exit_code, read_text(again.stdout)["failed"]) == (0, {})
    assert set(pd.read_csv(out / "results.csv")["method"]) == set(methods)
    assert "## Failed" not in (out / "report.md").read_text()


def read_text(text: str) -> Any:
    import json

    return json.loads(text)


def test_where_every_cell_fails_one_is_named(
    data: Path, tmp_path: Path, failing: pytest.MonkeyPatch
) -> None:
    config = debug_config(data, optimizer=BRIEF)
    wanted = Grid(methods=("multitask",), sources=("mri",), repeats=1)
    with pytest.raises(DataError, match=r"Every cell of .*multitask.*no luck"):
        compare(config, wanted, out=tmp_path / "compare")


def test_ctrl_c_keeps_the_finished_cells(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> Any:
        raise KeyboardInterrupt

    out = tmp_path / "compare"
    words = ["--target", "ct", "--source", "mri", "--repeats", "1", "--preset", "debug", "--data"]
    words += [str(data), "--method", "constant", "--method", "multitask", "--out", str(out)]
    broken = replace(METHODS["multitask"], build=interrupt)
    monkeypatch.setitem(registry.METHODS, "multitask", broken)
    result = call("compare", *words)
    assert result.exit_code == 130
    assert "Finished cells are kept" in flat(result.stderr)
    assert [path.parent.name[:4] for path in out.glob("cells/*/cell.json")] == ["0000"]


# ----- Other tools -----


def test_another_tool_with_the_predictions_of_a_cell_gets_its_row(
    whole: Run, copy: Path, tmp_path: Path
) -> None:
    own = whole.predictions[whole.predictions["method"] == "joint"]
    table = own[["repeat", "slice_id"]].assign(prediction=own["prediction"].astype(float))
    shuffled = table.sample(frac=1, random_state=0)
    shuffled.to_csv(tmp_path / "elsewhere.csv", index=False)
    result = compare(out=copy, predictions=[tmp_path / "elsewhere.csv"])
    assert result.findings is not None
    results = result.findings.results.set_index(["method", "repeat"]).sort_index()
    assert len(results) == 30
    figures = [name for name in results.columns if name in ("mse", "mae", "r2", "loss", "policy")]
    figures += [
        name for name in results.columns if name.startswith(("patient_", "train_", "test_"))
    ]
    pd.testing.assert_frame_equal(
        results.loc["elsewhere", figures],
        results.loc["joint", figures],
        rtol=1e-12,  # of numbers that went through a table of text
        check_dtype=False,
    )
    rest = results.drop("elsewhere").reset_index()
    expected = by_cell(whole.results)
    pd.testing.assert_frame_equal(by_cell(rest), expected, check_exact=True, check_dtype=False)
    comparisons = {each.system.method: each for each in result.findings.comparisons}
    assert comparisons["elsewhere"].mean == comparisons["joint"].mean
    assert "elsewhere" in (copy / "report.md").read_text()


# ----- Classes -----


def test_classes_are_compared_too(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """Also shares of the source, of which target-only knows nothing."""
    data = dataset(tmp_path_factory, "classification")
    wanted = Grid(
        methods=("constant", "target-only", "joint"),
        repeats=2,
        source_fractions=(0.5, 1.0),
    )
    split = {**SHARES, "seed": 4}
    run = carry_out(debug_config(data, optimizer=BRIEF, split=split), wanted, tmp_path / "compare")
    results = run.results.set_index(["method", "source_fraction", "repeat"]).sort_index()
    assert len(results) == 2 * (1 + 1 + 2)
    np.testing.assert_array_equal(results["loss"], 1 - results["accuracy"])
    classes = Dataset(data).info.task.classes
    shares = run.predictions[[f"p({name})" for name in classes]]
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    best = [classes[i] for i in shares.to_numpy().argmax(axis=1)]
    assert list(run.predictions["prediction"]) == best
    wrong = (run.predictions["prediction"] != run.predictions["label"]).astype(float)
    assert (run.predictions["loss"] == wrong).all()
    half, full = (results.loc["joint", share]["source_patients"] for share in (0.5, 1.0))
    assert (half == (full / 2).round()).all()
    kept = {t.config.data.source_fraction: t for t in run.trainings if t.config.method == "joint"}
    assert kept[0.5].patients("mri") < kept[1.0].patients("mri")
    assert kept[0.5].patients("ct") == kept[1.0].patients("ct")
    assert results["inception_score"].notna().sum() == 4

    certain = run.predictions[run.predictions["method"] == "target-only"]
    certain[["repeat", "slice_id", *shares.columns]].astype(
        dict.fromkeys(shares.columns, float)
    ).to_csv(tmp_path / "shares.csv", index=False)
    certain[["repeat", "slice_id", "prediction"]].to_csv(tmp_path / "names.csv", index=False)
    tables = [tmp_path / "shares.csv", tmp_path / "names.csv"]
    again = compare(out=tmp_path / "compare", predictions=tables)
    assert again.findings is not None
    found = again.findings.results.set_index(["method", "repeat"]).sort_index()
    figures = ["accuracy", "f1", "auroc", "loss", "patient_accuracy", "patient_loss"]
    assert found.loc["shares", figures].equals(found.loc["target-only", figures])
    named = ["accuracy", "f1", "loss"]
    assert found.loc["names", named].equals(found.loc["target-only", named])


# ----- Size and cost -----


@pytest.mark.nightly
@pytest.mark.skipif(not PROC, reason="needs /proc")
def test_a_hundred_and_ten_cells_take_no_memory(data: Path, tmp_path: Path) -> None:
    resident: dict[int, int] = {}

    class Watching(Heard):
        def __call__(self, event: Any) -> None:
            super().__call__(event)
            if self.cells and self[-1] is self.cells[-1]:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                resident[self.cells[-1].done] = pages * os.sysconf("SC_PAGE_SIZE")

    config = debug_config(data, optimizer=BRIEF)
    wanted = Grid(methods=("constant", "raw-mix"), sources=("mri",), repeats=55)
    result = compare(config, wanted, out=tmp_path / "compare", listener=Watching())
    assert not result.failed
    assert result.findings is not None
    assert len(result.findings.results) == 110
    assert resident[110] - resident[20] < 10 << 20


@pytest.mark.parametrize(
    ("where", "assignments"),
    [(Where(), 6), (Where(jobs=2), 6), (Where(ray="host:1"), 6), (Where(cell=3), 1)],
)
def test_the_overhead_is_what_is_not_training(
    where: Where,
    assignments: int,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four cells and a shared stage train 5 s each, a constant 0 s; half a second more for each.

    Compare itself needs 1 s before and 2 s after; how long it waits for them does not count.
    """

    class Runner:
        def run(
            self, function: object, items: list[Assignment]
        ) -> Iterator[Outcome[Assignment, Done]]:
            for item in items:
                yield Outcome(item, Done(0.0 if item.index == 0 else 5.0, 0.5, 1.0))

    times = iter((100.0, 101.0, 181.0, 183.0))
    monkeypatch.setattr(compare_module, "time", SimpleNamespace(monotonic=lambda: next(times)))
    monkeypatch.setattr(compare_module, "_runner", lambda study, where: Runner())
    for name, value in (("finished_cells", True), ("collect", None), ("write_findings", None)):
        monkeypatch.setattr(compare_module, name, lambda *a, value=value, **k: value)
    methods = ("constant", "target-only", "transfer", "multitask", "dann")
    result = compare(
        debug_config(data, optimizer=BRIEF),
        Grid(methods=methods, sources=("mri",), repeats=1),
        out=tmp_path / "compare",
        where=where,
    )
    trained = 5.0 if where.cell is not None else 25.0
    assert (result.training_seconds, result.seconds) == (trained, 83.0)
    assert result.overhead == pytest.approx((3 + 0.5 * assignments) / trained)
