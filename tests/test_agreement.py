"""FID, KID, IS, precision and recall are those of the tools of the field, given equal weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch_fidelity
from scipy.ndimage import gaussian_filter
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_kid import kernel_mmd
from torch_fidelity.metric_prc import calculate_precision_recall_full

from medxlate.evaluation.distribution import (
    compare_features,
    extract,
    inception_features,
    open_store,
)
from medxlate.evaluation.spread import NORMAL, Set, deviations, statistics

SIDE = 299  # as Inception sees them, so that no tool's way of resizing counts
COUNT = 12


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inception with random weights that all tools are given."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(random_inception(), path)
    return path


def random_inception() -> dict[str, torch.Tensor]:
    """Return random weights under the published file's names; the module reads one when built."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        patch.setattr(torch, "load", lambda *_, **__: {})
        blank = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path="x")
    return dict(blank.state_dict())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two folders of grey images."""
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, width in (("fake", 6.0), ("real", 9.0)):
        (root / name).mkdir()
        for i in range(COUNT):
            smooth = gaussian_filter(random.normal(size=(SIDE, SIDE)), width)
            pixels = np.clip(128 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)
            PIL.Image.fromarray(pixels).convert("RGB").save(root / name / f"{i:02d}.png")
    return {name: root / name for name in ("fake", "real")}


@pytest.fixture(scope="module")
def ours(weights: Path, folders: dict[str, Path]) -> dict[str, float]:
    features, device = inception_features(weights), torch.device("cpu")
    with open_store(None, features, device) as store:
        sets = [
            extract([images(folder)[i : i + 4] for i in (0, 4, 8)], features, device, store)
            for folder in folders.values()
        ]
        found = compare_features(*sets, ["fid", "kid", "is"], features)
    return found


def images(folder: Path) -> torch.Tensor:
    stacked = [np.asarray(PIL.Image.open(path)) for path in sorted(folder.iterdir())]
    return torch.from_numpy(np.stack(stacked)).permute(0, 3, 1, 2)


def test_torch_fidelity(ours: dict[str, float], weights: Path, folders: dict[str, Path]) -> None:
    theirs = torch_fidelity.calculate_metrics(
        input1=str(folders["fake"]),
        input2=str(folders["real"]),
        fid=True,
        kid=True,
        isc=True,
        kid_subset_size=COUNT,
        feature_extractor_weights_path=str(weights),
        cuda=False,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
    )
    wanted = {
        "fid": theirs["frechet_inception_distance"],
        "kid": theirs["kernel_inception_distance_mean"],
        "is": theirs["inception_score_mean"],
    }
    assert ours == pytest.approx(wanted, rel=1e-3, abs=1e-9)


def test_pytorch_fid(
    ours: dict[str, float],
    weights: Path,
    folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = pytest.importorskip("pytorch_fid.inception")
    score = pytest.importorskip("pytorch_fid.fid_score")
    monkeypatch.setattr(module, "load_state_dict_from_url", lambda *_, **__: torch.load(weights))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = score.calculate_fid_given_paths(
            [str(folders["fake"]), str(folders["real"])], 4, torch.device("cpu"), 2048, 0
        )
    assert ours["fid"] == pytest.approx(theirs, rel=1e-3)


def test_clean_fid(
    ours: dict[str, float],
    weights: Path,
    folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fid = pytest.importorskip("cleanfid.fid")
        module: Any = pytest.importorskip("cleanfid.inception_pytorch")
        monkeypatch.setattr(
            module, "load_state_dict_from_url", lambda *_, **__: torch.load(weights)
        )
        theirs = fid.compute_fid(
            str(folders["fake"]),
            str(folders["real"]),
            mode="legacy_pytorch",
            device=torch.device("cpu"),
            num_workers=0,
            batch_size=4,
            use_dataparallel=False,
            verbose=False,
        )
    assert ours["fid"] == pytest.approx(theirs, rel=1e-3)


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
