"""Calibrated predictions of files and of volumes in memory, ensembles, shifts, and translations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch

import tiny
from medxlate import Predictor, Translator
from medxlate.artifacts.calibration import Calibration
from medxlate.artifacts.folder import load_predictor
from medxlate.artifacts.info import read_model
from medxlate.base.errors import ImageError, ModelError, UsageError
from medxlate.base.events import Event, Warned
from medxlate.base.tensors import save_tensors
from medxlate.images.recipes import Recipe
from medxlate.inference.predict import predict
from medxlate.inference.shifts import shift_length, shifted, shifts
from medxlate.inference.translate import translate

SCORES = tuple(float(i) for i in range(1, 41))
CT = Recipe(kind="ct", window=(40, 400), unit="HU", output_range=(-160.0, 240.0))
MR = Recipe(kind="mr", percentiles=(1.0, 99.0), output_range=(0.0, 900.0))


def calibrated(model: Path, calibration: Calibration, tta: Calibration | None = None) -> Path:
    """Put a calibration into a model folder."""
    record = json.loads((model / "model.json").read_text())
    record["predictor"]["calibration"] = calibration.model_dump(mode="json")
    if tta is not None:
        record["predictor"]["calibration_tta"] = tta.model_dump(mode="json")
    (model / "model.json").write_text(json.dumps(record))
    return model


def conformal(*scores: float) -> Calibration:
    levels: Any = {"slice": [2 * s for s in scores], "volume": scores, "patient": scores}
    return Calibration(kind="conformal", patients=len(scores), slices=99, scores=levels)


def changed(model: Path, seed: int) -> Path:
    """Give the predictor of a model folder other weights."""
    record = json.loads((model / "model.json").read_text())
    network = load_predictor(model, read_model(model))
    torch.manual_seed(seed)
    state = {
        k: v + 0.05 * torch.randn(v.shape) if v.is_floating_point() and v.ndim > 1 else v
        for k, v in network.state_dict().items()
    }
    sha = save_tensors(model / "predictor.safetensors", state)
    record["predictor"]["weights"]["sha256"] = sha
    (model / "model.json").write_text(json.dumps(record))
    return model


def volume(seed: int = 0, count: int = 6) -> np.ndarray[Any, Any]:
    """Return CT values [count, 40, 32] in HU, the first slice near-empty."""
    values = np.random.default_rng(seed).integers(-200, 300, (count, 40, 32)).astype(np.int16)
    values[0] = -1000
    return values


def save_volume(path: Path, values: np.ndarray[Any, Any], spacing: tuple[float, ...]) -> Path:
    """Write [slices, rows, columns] as shown axially: columns to the left, rows to the back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])
    nibabel.save(nibabel.Nifti1Image(values.transpose(2, 1, 0), affine), path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made = tiny.write_tiny_model(tmp_path / "m", source_recipe=CT, target_recipe=CT)
    return calibrated(made, conformal(*SCORES))


# Tables


def test_rows_have_the_intervals_of_their_level(tmp_path: Path, model: Path):
    for name in "ab":
        save_volume(tmp_path / "in" / name / "x.nii.gz", volume(ord(name)), (1, 1, 1))
    result = predict(
        tmp_path / "in", out=tmp_path / "p.csv", model=model, patient="folder:1", device="cpu"
    )
    table = pd.read_csv(tmp_path / "p.csv")
    half = {"slice": 74, "volume": 37, "patient": 37}  # the 37th of 40
    wanted = table["level"].map(half)
    np.testing.assert_allclose(table["high"] - table["age"], wanted, atol=2e-4)
    np.testing.assert_allclose(table["age"] - table["low"], wanted, atol=2e-4)
    assert result.notes == ()
    narrow = predict(tmp_path / "in", out=tmp_path / "q.csv", model=model, level=0.5, device="cpu")
    volumes = narrow.table[narrow.table["level"] == "volume"]
    np.testing.assert_allclose(volumes["high"] - volumes["age"], 21, atol=2e-4)


def test_models_without_calibration_still_predict_and_say_so(tmp_path: Path):
    model = tiny.write_tiny_model(tmp_path / "m")
    tiny.save(tmp_path / "in" / "x.png", tiny.noise(32, 32, seed=0, bits=16))
    heard: list[Event] = []
    result = predict(
        tmp_path / "in", out=tmp_path / "p.csv", model=model, device="cpu", listener=heard.append
    )
    assert result.table["low"].isna().all()
    assert result.table["high"].isna().all()
    (note,) = result.notes
    assert "older version without calibration" in note
    assert note in [event.text for event in heard if isinstance(event, Warned)]


def test_probabilities_are_those_of_the_tempered_logits(tmp_path: Path):
    model = tiny.write_tiny_model(tmp_path / "m", task=tiny.GROUP, target_recipe=tiny.AS_IS)
    pixels = tiny.noise(32, 32, seed=0)
    before = Predictor.load(model)(pixels).probabilities
    hot = Calibration(kind="temperature", patients=20, slices=40, temperature=3.0)
    found = Predictor.load(calibrated(model, hot))(pixels)
    powers = np.array(list(before.values())) ** (1 / 3)
    np.testing.assert_allclose(list(found.probabilities.values()), powers / powers.sum(), rtol=1e-5)
    assert found.value == max(before, key=lambda name: before[name])
    tiny.save(tmp_path / "in" / "x.png", pixels)
    table = predict(tmp_path / "in", out=tmp_path / "p.csv", model=model, device="cpu").table
    for name, share in found.probabilities.items():
        assert table[f"p({name})"][0] == pytest.approx(share, abs=1e-6)


# Several models


def test_several_models_give_mean_spread_and_a_cautious_interval(tmp_path: Path, model: Path):
    other = tiny.write_tiny_model(tmp_path / "n", source_recipe=CT, target_recipe=CT)
    calibrated(changed(other, 3), conformal(*(2 * s for s in SCORES)))
    inputs = save_volume(tmp_path / "in" / "x.nii.gz", volume(), (1, 1, 1)).parent
    both = predict(inputs, out=tmp_path / "p.csv", model=[model, other], device="cpu").table
    single = [
        predict(inputs, out=tmp_path / f"{i}.csv", model=each, device="cpu").table["age"]
        for i, each in enumerate([model, other])
    ]
    assert np.abs(single[0] - single[1]).min() > 0.01
    np.testing.assert_allclose(both["age"], (single[0] + single[1]) / 2, atol=2e-4)
    np.testing.assert_allclose(both["spread"], (single[0] - single[1]).abs() / 2, atol=2e-4)
    row = both[both["level"] == "volume"].iloc[0]
    assert row["high"] - row["age"] == pytest.approx((39 + 78) / 2, abs=2e-4)  # at 95 % each


def test_models_for_other_things_are_not_combined(tmp_path: Path, model: Path):
    inputs = save_volume(tmp_path / "in" / "x.nii.gz", volume(), (1, 1, 1)).parent
    for word, options in (
        ("tasks", {"task": tiny.GROUP, "target_recipe": CT}),
        ("recipes", {"target_recipe": tiny.AS_IS}),
    ):
        other = tiny.write_tiny_model(tmp_path / word, **options)
        with pytest.raises(ModelError, match=word):
            predict(inputs, out=tmp_path / "p.csv", model=[model, other], device="cpu")
    with pytest.raises(UsageError, match="No model"):
        predict(inputs, out=tmp_path / "p.csv", model=[], device="cpu")
    assert not (tmp_path / "p.csv").exists()


def test_results_of_other_options_are_not_mixed(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    """A prediction that was stopped is begun anew with another level, model or ``tta``."""
    from medxlate.inference import predict as module
    from medxlate.inference import work

    marks: list[str] = []

    def stamp(*args: Any) -> str:
        marks.append(work.stamp(*args))
        return marks[-1]

    monkeypatch.setattr(module, "stamp", stamp)
    inputs = save_volume(tmp_path / "in" / "x.nii.gz", volume(), (1, 1, 1)).parent
    options: list[dict[str, Any]] = [
        {"model": model},
        {"model": [model, model]},
        {"model": model, "level": 0.8},
        {"model": model, "tta": True},
    ]
    for each in [*options, options[0]]:
        predict(inputs, out=tmp_path / "p.csv", device="cpu", overwrite=True, **each)
    assert len(set(marks)) == 4
    assert marks[0] == marks[4]


# Shifts


def test_shifts_are_small_and_repeat_the_border():
    image = torch.arange(64.0 * 64).view(1, 1, 64, 64)
    same, up, down, left, right = shifts(image)
    assert shift_length(64) == 1
    assert torch.equal(same, image)
    assert torch.equal(up[..., :-1, :], image[..., 1:, :])
    assert torch.equal(up[..., -1, :], image[..., -1, :])
    assert torch.equal(down[..., 1:, :], image[..., :-1, :])
    assert torch.equal(left[..., :, :-1], image[..., :, 1:])
    assert torch.equal(right[..., :, 1:], image[..., :, :-1])
    assert (shift_length(32), shift_length(256)) == (1, 4)
    mean = shifted(lambda images: images.mean((2, 3)))(image)
    assert mean.item() == pytest.approx(image.mean().item(), rel=1e-6)


def test_tta_is_the_mean_over_shifts_with_a_calibration_of_its_own(tmp_path: Path, model: Path):
    calibrated(model, conformal(*SCORES), conformal(*(s / 2 for s in SCORES)))
    tiny.save(tmp_path / "in" / "x.png", tiny.noise(32, 32, seed=0))
    flat = tiny.write_tiny_model(tmp_path / "flat", target_recipe=tiny.AS_IS)
    calibrated(flat, conformal(*SCORES), conformal(*(s / 2 for s in SCORES)))
    options: dict[str, Any] = {"model": flat, "device": "cpu"}
    table = predict(tmp_path / "in", out=tmp_path / "p.csv", tta=True, **options).table
    plain = predict(tmp_path / "in", out=tmp_path / "q.csv", **options).table
    pixels = tiny.noise(32, 32, seed=0).astype(np.float32) / 255 * 2 - 1
    padded = np.pad(pixels, 1, mode="edge")
    places = [(1, 1), (0, 1), (2, 1), (1, 0), (1, 2)]
    views = np.stack([padded[i : i + 32, j : j + 32] for i, j in places])[:, None]
    network = load_predictor(flat, read_model(flat))
    with torch.no_grad():
        outputs = network(torch.from_numpy(views)).numpy()[:, 0]
    assert table["age"][0] == pytest.approx(50 + 12 * outputs.mean(), abs=1e-3)
    assert table["age"][0] != plain["age"][0]
    assert table["high"][0] - table["age"][0] == pytest.approx(37, abs=1e-3)
    assert plain["high"][0] - plain["age"][0] == pytest.approx(74, abs=1e-3)


# Volumes in memory


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.7)])
def test_a_volume_is_translated_and_predicted_as_its_file_is(
    tmp_path: Path, model: Path, spacing: tuple[float, float, float]
):
    values = volume()
    inputs = save_volume(tmp_path / "in" / "x.nii.gz", values, spacing).parent
    translate(inputs, out=tmp_path / "out", model=model, device="cpu")
    written = np.asarray(nibabel.load(tmp_path / "out" / "x.nii.gz").dataobj).transpose(2, 1, 0)
    fake = Translator.load(model)(values, spacing=spacing)
    assert (fake.shape, fake.dtype) == (values.shape, np.float32)
    np.testing.assert_array_equal(np.rint(fake), written)  # CT is written in whole HU
    assert (fake[0] == -160).all()
    assert fake[1:].std() > 10
    table = predict(inputs, out=tmp_path / "p.csv", model=model, device="cpu").table
    row = table[table["level"] == "volume"].iloc[0]
    found = Predictor.load(model)(values, spacing=spacing)
    assert (found.value, found.low, found.high) == pytest.approx(
        (row["age"], row["low"], row["high"]), abs=1e-4
    )
    np.testing.assert_allclose(found.slices[1:], table["age"][:5], atol=1e-4)
    assert np.isnan(found.slices[0])
    assert found.notes == ()


def test_percentiles_are_taken_over_the_whole_volume(tmp_path: Path):
    model = tiny.write_tiny_model(tmp_path / "m", source_recipe=MR, target_recipe=MR)
    values = np.random.default_rng(0).normal(300, 100, (5, 32, 32)).astype(np.float32)
    values[3] *= 4
    inputs = save_volume(tmp_path / "in" / "x.nii.gz", values, (1, 1, 1)).parent
    translate(inputs, out=tmp_path / "out", model=model, device="cpu")
    written = np.asarray(nibabel.load(tmp_path / "out" / "x.nii.gz").dataobj).transpose(2, 1, 0)
    translator = Translator.load(model)
    np.testing.assert_allclose(translator(values), written, rtol=1e-5)
    assert not np.allclose(translator(values[:2]), written[:2], rtol=1e-3)


def test_a_single_image_keeps_its_shape(tmp_path: Path):
    model = tiny.write_tiny_model(tmp_path / "m", target_recipe=tiny.AS_IS)
    pixels = tiny.noise(24, 50, seed=1)
    tiny.save(tmp_path / "in" / "x.png", pixels)
    translate(tmp_path / "in", out=tmp_path / "out", model=model, device="cpu")
    import PIL.Image

    with PIL.Image.open(tmp_path / "out" / "x.png") as image:
        written = np.asarray(image)
    fake = Translator.load(model)(pixels)
    assert fake.shape == (24, 50)
    np.testing.assert_array_equal(np.rint(fake), written)
    as_float = Translator.load(model)(pixels.astype(np.float64))  # values of the recipe's range
    np.testing.assert_array_equal(as_float, fake)


def test_arrays_that_are_no_volumes_are_refused(model: Path):
    translator, predictor = Translator.load(model), Predictor.load(model)
    good = volume()
    for bad in (good[0, 0], good[np.newaxis], good[:0], good.astype(complex), good > 0):
        with pytest.raises(UsageError, match="shape"):
            translator(bad)
    with pytest.raises(UsageError, match="spacing"):
        translator(good, spacing=(1, 0, 1))
    with pytest.raises(ImageError, match="not finite"):
        translator(np.full((3, 32, 32), np.nan))
    with pytest.raises(ImageError, match="near-empty"):
        predictor(np.full((3, 32, 32), -1000.0))
