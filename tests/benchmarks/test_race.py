"""The race of the benchmark: its errors, its shares, and what it does not take for its own."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.pairs import PairedData, write_phantom_pairs
from benchmarks.scarce import (
    ADDED,
    PAPERS,
    RACE,
    WITHOUT,
    Finish,
    difference,
    errors_of,
    interval,
    share,
    table,
)

from benchmarks import scarce
from medxlate.config import resolve


def test_a_patients_slices_of_one_label_are_predicted_by_their_mean():
    values = np.array([10.0, 20.0, 50.0, 70.0])
    labels = np.array([18.0, 18.0, 60.0, 60.0])
    assert errors_of(values, labels, ["b", "b", "a", "a"]).tolist() == [0.0, 9.0]  # a, b


def test_where_labels_differ_within_a_patient_no_constant_is_right():
    """Heights in the head, from 0 to 100: their mean predicts none of them."""
    labels = np.tile(np.linspace(0, 100, 5), 3)
    patients = [name for name in "xyz" for _ in range(5)]
    constant = errors_of(np.full(15, 50.0), labels, patients)
    assert constant.tolist() == pytest.approx([np.var(labels[:5])] * 3)
    assert errors_of(labels, labels, patients).tolist() == [0.0] * 3


def test_classes_have_brier_scores():
    values = np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]])
    found = errors_of(values, np.array([0, 0, 1]), ["a", "a", "b"])
    assert found.tolist() == pytest.approx([2 * 0.3**2, 2 * 0.1**2])


def seeds(mean: float, deviation: float = 10.0) -> list[np.ndarray]:
    random = np.random.default_rng(int(mean))
    return [mean + deviation * random.standard_normal((1, 150)) for _ in range(3)]


def test_the_share_of_the_oracles_gain_and_its_interval():
    alone, method, oracle = seeds(300), seeds(250), seeds(200)
    assert share(method, alone, oracle) == pytest.approx(0.5, abs=0.02)
    assert (share(alone, alone, oracle), share(oracle, alone, oracle)) == (0, 1)
    found = interval(method, alone, oracle)
    assert found is not None
    assert found[0] < 0.5 < found[1]
    assert found[1] - found[0] < 0.1  # 450 patients with a deviation of 10 of a gain of 100


def test_the_interval_knows_that_trainings_differ():
    """Three worlds whose trainings lie 40 apart: one training a world hides it."""
    shifts = np.array([-40.0, 0.0, 40.0])[:, None]
    alone, oracle = seeds(300), seeds(200)
    method = [errors + shifts for errors in seeds(250)]
    found = interval(method, alone, oracle)
    assert found is not None
    # A mean of three worlds by three trainings each: its deviation is 33 / 3.
    assert found[1] - found[0] == pytest.approx(2 * 1.96 * np.std(shifts) / 3 / 100, rel=0.15)


def test_one_method_is_better_than_another_by_what_their_patients_say():
    shared = [np.random.default_rng(seed).normal(0, 200, (1, 150)) for seed in range(3)]
    one, other = ([mean + each for each in shared] for mean in (240, 250))
    assert difference(one, other) == pytest.approx((-10, -10, -10))  # the same for each patient


def test_trainings_of_one_entry_stand_together():
    parts = [Finish(np.full((1, 2), e), e, {"mae": e}) for e in (1.0, 3.0)]
    both = scarce.together(parts)
    assert (both.errors.tolist(), both.seconds, both.images) == ([[1, 1], [3, 3]], 2, {"mae": 2})


def test_an_oracle_without_a_gain_gives_no_share():
    assert interval(seeds(250), seeds(301, 100), seeds(300, 100)) is None
    results = {
        name: [Finish(errors, 1.0) for errors in seeds(mean, 100)]
        for name, mean in (("target-only", 301), ("joint", 250), ("oracle", 300))
    }
    assert "the oracle gains nothing for sure" in "\n".join(table(results, unit=1.0))


@pytest.fixture
def heads(tmp_path: Path) -> PairedData:
    return write_phantom_pairs(
        tmp_path / "heads", target=3, source=3, val=1, test=2, held_out=1, slices=1, size=32
    )


def test_another_configuration_or_split_is_trained_again(
    heads: PairedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trained: list[Any] = []
    monkeypatch.setattr(scarce, "train", lambda config, **_: trained.append(config))
    monkeypatch.setattr(scarce, "patient_errors", lambda *_: np.ones(2))
    config = scarce.configured(RACE["target-only"], heads, 0, ())
    scarce.finish("one", config, heads, tmp_path)
    scarce.finish("one", config, heads, tmp_path)
    assert len(trained) == 1
    other = scarce.configured(RACE["target-only"], heads, 0, ["optimizer.epochs=9"])
    scarce.finish("one", other, heads, tmp_path)
    assert len(trained) == 2
    parts = heads.split.parts
    turned = {"train": parts["train"], "val": parts["test"], "test": parts["val"]}
    split = dataclasses.replace(heads.split, parts=turned)
    scarce.finish("one", other, dataclasses.replace(heads, split=split), tmp_path)
    assert len(trained) == 3


@pytest.mark.parametrize("name", [*WITHOUT, *ADDED])
def test_every_row_of_the_ablation_changes_what_it_says(name: str):
    preset = resolve(preset="scarce")
    sets = WITHOUT[name] if name in WITHOUT else (*PAPERS, *ADDED[name])
    assert (resolve(preset="scarce", sets=sets) == preset) == (name == "joint")
    if ADDED.get(name):
        assert resolve(preset="scarce", sets=sets) != resolve(preset="scarce", sets=PAPERS)
