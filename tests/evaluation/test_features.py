"""Extractors: their features against the networks' own, and where Inception's weights come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from medxlate.base.errors import ModelError
from medxlate.evaluation.features import (
    Extractor,
    extract,
    find_inception,
    inception_extractor,
    open_store,
    predictor_extractor,
    to_eight_bit,
)
from medxlate.evaluation.fidelity import compare_features
from medxlate.method.predictor import PredictorNetwork


@pytest.fixture(scope="module")
def network() -> PredictorNetwork:
    torch.manual_seed(0)
    made = PredictorNetwork(architecture="test_resnet", outputs=3)
    made.eval()
    return made


def some_images(count: int, seed: int, contrast: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 32, 32, generator=generator) * contrast * 2 - 1


def compare(
    fakes: torch.Tensor, reals: torch.Tensor, metrics: list[str], extractor: Extractor
) -> dict[str, float]:
    cpu = torch.device("cpu")
    with open_store(None, extractor, cpu) as store:
        sets = [
            extract(map(to_eight_bit, images.split(16)), extractor, cpu, store)
            for images in (fakes, reals)
        ]
        width, has_classes = extractor.width, extractor.has_classes
        return compare_features(*sets, metrics, width=width, has_classes=has_classes)


def test_fid_and_kid_by_predictor_features_are_their_formulas(network: PredictorNetwork) -> None:
    fakes, reals = some_images(60, 1, 0.5), some_images(70, 2)
    extractor = predictor_extractor(network, has_classes=True)
    found = compare(fakes, reals, ["fid", "kid", "is"], extractor)
    assert set(found) == {"fid", "kid", "is"}

    def pooled(images: torch.Tensor) -> np.ndarray:
        eight = ((images + 1) / 2 * 255).round() / 127.5 - 1
        with torch.inference_mode():
            return network.features(eight).double().numpy()

    a, b = pooled(fakes), pooled(reals)

    def root(matrix: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(matrix)
        return (vectors * np.sqrt(values.clip(0))) @ vectors.T

    # Frechet distance of two Gaussians (Dowson and Landau 1982), in its symmetric form.
    one, other = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    mixed = root(root(one) @ other @ root(one))
    fid = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one + other - 2 * mixed)
    assert found["fid"] == pytest.approx(fid, rel=1e-3)
    assert found["kid"] > 0


def test_inception_weights_must_be_tensors_only(tmp_path: Path) -> None:
    trap = tmp_path / "trap.pth"
    torch.save({"weights": Path}, trap)  # a pickle that names a class
    with pytest.raises(ModelError, match=r"trap\.pth"):
        inception_extractor(trap)


class Listed(torch.utils.data.Dataset):
    """Images as torch-fidelity takes them."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


@pytest.mark.nightly
def test_kid_and_is_of_inception_are_those_of_torch_fidelity(tmp_path: Path) -> None:
    """With random weights in a file: the published ones cannot be had without internet."""
    weights = tmp_path / "inception.pth"
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        blank = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path="x")
    torch.save(blank.state_dict(), weights)
    fakes, reals = some_images(12, 5, 0.5), some_images(14, 6)
    found = compare(fakes, reals, ["kid", "is"], inception_extractor(weights))
    theirs = torch_fidelity.calculate_metrics(
        input1=Listed(to_eight_bit(fakes)),
        input2=Listed(to_eight_bit(reals)),
        feature_extractor_weights_path=str(weights),
        cuda=False, kid=True, isc=True, kid_subset_size=12, batch_size=4,
        save_cpu_ram=True, cache=False, verbose=False,
    )  # fmt: skip
    assert found["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert found["is"] == pytest.approx(theirs["inception_score_mean"], rel=1e-4)


def test_inception_is_found_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert find_inception(None, download=False) is None
    cached = tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    cached.parent.mkdir()
    cached.write_bytes(b"x")
    assert find_inception(None, download=False) == cached
    with pytest.raises(ModelError, match="do not exist"):
        find_inception(tmp_path / "no.pth", download=True)
