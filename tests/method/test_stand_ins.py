"""What is shown in the place of translations, against scikit-image and closed forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from skimage.exposure import match_histograms

import tiny
from medxlate.config import Config
from medxlate.dataset.index import Dataset, Modality
from medxlate.dataset.loading import Slices
from medxlate.dataset.training_data import Data
from medxlate.method import stand_ins
from medxlate.method.stand_ins import (
    LEVELS,
    matched_to_target,
    matching,
    quantiles,
    repeated_target,
)
from medxlate.phantoms.files import write_phantoms
from medxlate.walkthrough import prepare_phantoms

SCAN = 20  # slices


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stand-ins")
    write_phantoms(root / "raw", patients={"ct": 3, "mri": 3}, slices=SCAN, size=32, seed=2)
    prepare_phantoms(root / "raw", root / "data", size=32)
    return root / "data"


def slices_of(folder: Path, name: str) -> Slices:
    dataset = Dataset(folder)
    modality = dataset.modality(name)
    rows = range(len(modality.slices))
    return Slices(modality, rows, task=dataset.info.task, image_size=32)


def opened(folder: Path, **sections: Any) -> tuple[Data, Config]:
    config = tiny.debug_config(folder, **sections)
    return Data({name: slices_of(folder, name) for name in ("mri", "ct")}, {}), config


def images(slices: Slices) -> np.ndarray[Any, Any]:
    return slices.batch(range(len(slices))).images[:, 0].numpy()


def test_a_map_is_the_cumulative_distribution_and_back() -> None:
    """A normal distribution becomes an even one by its own cumulative distribution function."""
    levels = (np.arange(LEVELS) + 0.5) / LEVELS
    normal = norm.ppf((np.arange(100_000) + 0.5) / 100_000).astype(np.float32)
    known, wanted = matching(normal, levels.astype(np.float32))
    x = np.linspace(-3, 3, 50)
    np.testing.assert_allclose(np.interp(x, known, wanted), norm.cdf(x), atol=1e-3)


def test_a_map_is_scikit_images_where_no_value_repeats() -> None:
    random = np.random.default_rng(1)
    values = random.gamma(2.0, 0.2, 20_000).astype(np.float32)
    reference = random.beta(0.6, 1.4, 30_000).astype(np.float32)
    matched = np.interp(values, *matching(values, quantiles(reference)))
    wanted = match_histograms(values, reference)
    inner = (np.quantile(values, 0.01) < values) & (values < np.quantile(values, 0.99))
    assert np.abs(matched - wanted)[inner].max() < 0.01
    assert np.abs(values - wanted).mean() > 0.05


@pytest.mark.parametrize("air", [0.5, 0.6, 0.7])
def test_background_stays_background_whatever_its_share(air: float) -> None:
    random = np.random.default_rng(1)

    def image(share: float) -> np.ndarray[Any, Any]:
        tissue = random.uniform(-0.5, 1, 10_000)
        tissue[: round(share * 10_000)] = -1
        return tissue.astype(np.float32)

    values = image(air)
    matched = np.interp(values, *matching(values, quantiles(image(0.55))))
    assert (matched[values == -1] == -1).all()
    assert (matched[values > 0] > -0.5).all()
    assert (np.diff(matched[np.argsort(values)]) >= 0).all()


def test_each_scan_has_one_map_to_the_targets_distribution(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_ins, "SCAN_IMAGES", SCAN)
    data, config = opened(folder)
    source, target = data.train["mri"], images(data.train["ct"])
    matched = matched_to_target("mri", data, config)
    assert len(matched) == len(source)
    assert matched.patients == source.patients
    for scan in set(source.volumes):
        chosen = [i for i, other in enumerate(source.volumes) if other == scan]
        assert len(chosen) == SCAN
        raw, ours = images(source)[chosen], images(matched)[chosen]
        wanted = match_histograms(raw, target)
        assert np.abs(ours - wanted).mean() < 0.01
        assert np.abs(raw - wanted).mean() > 0.05
    assert matched.batch([7]).images.equal(matched.batch(range(9)).images[7:8])  # in any order


def test_gain_of_a_scan_makes_no_difference(folder: Path) -> None:
    data, config = opened(folder)
    one = images(matched_to_target("mri", data, config))
    raw = images(data.train["mri"])
    dim = data.train["mri"].with_images(lambda i: raw[i] * np.float32(0.7) - np.float32(0.3))
    other = images(matched_to_target("mri", data.showing({"mri": dim}), config))
    np.testing.assert_allclose(one, other, atol=2e-3)


def test_no_more_images_are_read_than_the_sample(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large target a sample, of a long scan some slices, and of each scan once."""
    monkeypatch.setattr(stand_ins, "REFERENCE_IMAGES", 10)
    data, config = opened(folder)
    read: list[tuple[str, int]] = []
    whole = Modality.read

    def counting(self: Modality, rows: Any) -> Any:
        read.append((self.name, len(rows)))
        return whole(self, rows)

    monkeypatch.setattr(Modality, "read", counting)
    matched = matched_to_target("mri", data, config)
    assert read == [("ct", 10)]
    matched.batch([0, 1, SCAN])
    assert sorted(read[1:]) == [("mri", 1)] * 3 + [("mri", stand_ins.SCAN_IMAGES)] * 2


def test_repeated_images_are_the_targets_as_often_as_each_other(folder: Path) -> None:
    data, config = opened(folder, runtime={"seed": 3})
    target, few = data.train["ct"], data.train["ct"].picked(range(25))
    some = Data({"mri": data.train["mri"], "ct": few}, {})
    shown = repeated_target("mri", some, config)
    assert len(shown) == len(data.train["mri"]) == 60
    times = np.unique(shown.rows, return_counts=True)
    assert times[0].tolist() == list(range(25))
    assert set(times[1].tolist()) == {2, 3}
    for place, row in enumerate(shown.rows[:10]):
        one, other = shown.batch([place]), target.batch([int(row)])
        assert one.images.equal(other.images)
        assert one.labels.equal(other.labels)
    assert repeated_target("mri", some, config).rows.tolist() == shown.rows.tolist()
    _, another = opened(folder, runtime={"seed": 4})
    assert repeated_target("mri", some, another).rows.tolist() != shown.rows.tolist()


def test_an_epoch_is_as_long_whatever_is_shown(folder: Path) -> None:
    data, config = opened(folder)
    few = data.train["mri"].picked(range(3))
    assert data.showing({"mri": few, "ct": few}).steps_per_epoch(
        config.optimizer
    ) == data.steps_per_epoch(config.optimizer)
