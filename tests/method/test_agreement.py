"""FID, KID, IS, precision and recall are those of the tools of the field, given equal weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_kid import kernel_mmd
from torch_fidelity.metric_prc import calculate_precision_recall_full

from medxlate.evaluation.jackknife import NORMAL, Set, deviations, statistics

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import agreement


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inception with random weights that all tools are given."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(agreement.random_inception(), path)
    return path


@pytest.mark.nightly
def test_figures_are_those_of_other_tools(tmp_path: Path, weights: Path) -> None:
    # As wide as Inception sees them, so that no tool's way of resizing counts.
    folders = agreement.write_folders(tmp_path, 12, 299)
    ours = agreement.by_medxlate(folders, weights)
    # Random weights may see no difference at all, and then every tool agrees.
    assert ours["fid"] > 1
    assert ours["kid"] > 0.01
    assert ours["is"] > 1.001
    assert agreement.by_torch_fidelity(folders, weights) == pytest.approx(ours, rel=1e-3)
    pytest.importorskip("pytorch_fid")
    pytest.importorskip("cleanfid")
    fitting = tmp_path / "folded.pth"
    torch.save(agreement.folded(torch.load(weights)), fitting)
    for take in (agreement.by_pytorch_fid, agreement.by_clean_fid):
        assert take(folders, fitting) == {"fid": pytest.approx(ours["fid"], rel=1e-3)}


def test_images_are_resized_as_torch_fidelity_does(tmp_path: Path, weights: Path) -> None:
    folders = agreement.write_folders(tmp_path, 4, 96)
    ours, theirs = (
        take(folders, weights) for take in (agreement.by_medxlate, agreement.by_torch_fidelity)
    )
    assert ours["fid"] > 1
    for name in ("fid", "kid"):  # of four images they take no IS
        assert ours[name] == pytest.approx(theirs[name], rel=1e-3)


def test_figures_of_features_are_torch_fidelitys() -> None:
    random = np.random.default_rng(0)
    a, b = (
        random.normal(m, s, (n, 8)).astype(np.float32) for m, s, n in ((0, 1, 50), (0.3, 1.2, 70))
    )
    sets = Set(a, ["p"] * 50), Set(b, ["q"] * 70)
    every = np.ones(50, dtype=bool), np.ones(70, dtype=bool)
    figures = statistics(*sets, 8, ["fid", "kid", "precision", "recall"])
    found = {name: figure(*every) for name, figure in figures.items()}
    found["kid"] = figures["kid"](every[0], np.arange(70) < 50)  # theirs takes equal numbers
    near = calculate_precision_recall_full(torch.tensor(a), torch.tensor(b))
    wanted = {
        "fid": fid_statistics_to_metric(*map(statistics_of, (a, b)), False)[
            "frechet_inception_distance"
        ],
        "kid": kernel_mmd(a, b[:50]),
        "precision": near[0],
        "recall": near[1],
    }
    assert found == pytest.approx(wanted, rel=1e-5)


def statistics_of(rows: np.ndarray[Any, Any]) -> dict[str, Any]:
    plain = rows.astype(np.float64)
    return {"mu": plain.mean(axis=0), "sigma": np.cov(plain, rowvar=False)}


def test_a_figure_without_some_images_is_that_of_the_others() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(30, 12)), random.normal(0.5, 1, size=(40, 12))
    keep = random.random(30) < 0.7
    names = ["fid", "kid", "is", "precision", "recall"]
    whole = statistics(Set(a, ["p"] * 30), Set(b, ["q"] * 40), 8, names)
    part = statistics(Set(a[keep], ["p"] * keep.sum()), Set(b, ["q"] * 40), 8, names)
    every = np.ones(40, dtype=bool)
    for name in names:
        found = whole[name](keep, every)
        assert found == pytest.approx(part[name](np.ones(keep.sum(), dtype=bool), every))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Images of a patient are alike, and the sets differ in size: 60 studies of 20 and 30."""
    random = np.random.default_rng(0)

    def patients(people: int, shift: float) -> Set:
        center = np.repeat(random.normal(0, 1, (people, 12)), 4, axis=0)
        rows = center + random.normal(shift, 0.6, (people * 4, 12))
        return Set(rows.astype(np.float32), [f"p{i // 4}" for i in range(people * 4)])

    names = ["fid", "kid", "precision", "recall"]
    values, said = [], []
    for _ in range(60):
        sets = patients(20, 0.0), patients(30, 0.3)
        every = [np.ones(len(each.rows), dtype=bool) for each in sets]
        values.append([f(*every) for f in statistics(*sets, 12, names).values()])
        said.append([d or 0.0 for d in deviations(*sets, 12, names).values()])
    apart = np.abs(np.array(values) - np.mean(values, axis=0))
    held = (apart <= NORMAL * np.array(said)).mean(axis=0)
    assert (held >= 0.88).all(), held
    assert (np.mean(said, axis=0) / np.std(values, axis=0) < 1.6).all()


def test_too_few_images_have_no_interval() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    few, enough = Set(rows, ["p", "p", "q", "q"]), Set(np.tile(rows, (9, 1)), list("abcdefghi") * 4)
    assert set(deviations(few, enough, 8, ["fid", "kid"]).values()) == {None}
