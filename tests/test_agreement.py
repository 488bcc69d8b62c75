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
from torch_fidelity.metric_prc import calculate_precision_recall_full

from medxlate.evaluation.distribution import (
    compare_features,
    extract,
    inception_features,
    open_store,
)
from medxlate.evaluation.gaussian import frechet_distance
from medxlate.evaluation.spread import Set, deviations, weighted_gaussian, weighted_score, within

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


def test_precision_and_recall_are_torch_fidelitys() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(0, 1, (50, 8)), random.normal(0.3, 1.2, (70, 8))
    found = within(a, b).mean(), within(b, a).mean()
    wanted = calculate_precision_recall_full(
        *(torch.tensor(x, dtype=torch.float32) for x in (a, b))
    )
    assert found == pytest.approx(wanted)


def test_a_weight_is_as_many_copies() -> None:
    random = np.random.default_rng(0)
    rows, weights_ = random.normal(size=(30, 12)), random.integers(0, 3, 30).astype(float)
    copies = np.repeat(rows, weights_.astype(int), axis=0)
    other = weighted_gaussian(random.normal(size=(40, 12)), np.ones(40))
    one = frechet_distance(weighted_gaussian(rows, weights_), other)
    two = frechet_distance(weighted_gaussian(copies, np.ones(len(copies))), other)
    assert one == pytest.approx(two)
    ones = np.ones(len(copies))
    assert weighted_score(rows, weights_) == pytest.approx(weighted_score(copies, ones))


def test_deviations_are_those_of_new_images() -> None:
    """Resampling 80 patients varies about as much as 80 new ones do."""
    random = np.random.default_rng(0)

    def one() -> np.ndarray[Any, Any]:
        return random.normal(0, 1, (80, 6))

    real = np.random.default_rng(1).normal(0.5, 1, (4000, 6))
    fixed = weighted_gaussian(real, np.ones(4000))
    true = np.std(
        [frechet_distance(weighted_gaussian(one(), np.ones(80)), fixed) for _ in range(300)]
    )
    names = [str(i) for i in range(80)]
    everyone = [str(i) for i in range(4000)]
    said = [deviations(Set(one(), names), Set(real, everyone), 6, ["fid"])["fid"] for _ in range(5)]
    assert np.mean(said) == pytest.approx(true, rel=0.35)
