"""From files a user names to translated files and tables of predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import PIL.Image
import pydicom
import pytest
import tifffile
import torch
from torch import nn

import tiny
from conftest import open_file
from medxlate.artifacts.folder import load_generator, load_predictor
from medxlate.artifacts.info import read_model
from medxlate.base.errors import ImageError, ModelError, OutputError, UsageError
from medxlate.base.events import Event, Progress
from medxlate.base.files import sha256
from medxlate.base.grey_levels import to_stored
from medxlate.dataset.index import Dataset
from medxlate.dataset.loading import Slices
from medxlate.images.dicom.write import write_dicom
from medxlate.images.recipes import Recipe, to_network
from medxlate.images.scan import Format, FoundImage, Scan
from medxlate.images.square import from_square
from medxlate.inference import translator as translator_module
from medxlate.inference.engine import run
from medxlate.inference.inputs import find_inputs
from medxlate.inference.names import output_names
from medxlate.inference.predict import Predictor, predict
from medxlate.inference.translate import Translator, translate
from preparing import save_nifti, tissue, write_series


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From 8-bit mri to 16-bit ct, untrained; treat it as read-only."""
    return tiny.write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def same_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both modalities with the same 8-bit recipe."""
    return tiny.write_tiny_model(tmp_path_factory.mktemp("same"), target_recipe=tiny.AS_IS)


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every loaded generator hand its input through."""
    monkeypatch.setattr(
        translator_module, "load_generator", lambda *_: ("mri", nn.Identity().eval())
    )


def tree(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def opened(path: Path) -> np.ndarray[Any, Any]:
    with PIL.Image.open(path) as image:
        return np.asarray(image)


def some_images(folder: Path) -> Path:
    """Write images of several sizes and kinds in a tree."""
    tiny.save(folder / "top.png", tiny.noise(32, 32, seed=0))
    tiny.save(folder / "a" / "wide.png", tiny.noise(24, 50, seed=1))
    tiny.save(folder / "a" / "b" / "high.tif", tiny.noise(61, 40, seed=2))
    tiny.save(folder / "a" / "b" / "colour.jpg", np.stack([tiny.noise(16, 16, seed=3)] * 3, 2))
    return folder


# Translate


def test_every_image_becomes_one_of_the_same_place_name_and_size(tmp_path: Path, model: Path):
    inputs, out = some_images(tmp_path / "in"), tmp_path / "deep" / "out"
    result = translate(inputs, out=out, model=model, device="cpu")
    pairs = {
        "top.png": "top.png",
        "a/wide.png": "a/wide.png",
        "a/b/high.tif": "a/b/high.tif",
        "a/b/colour.jpg": "a/b/colour.png",
    }
    assert tree(out) == {*pairs.values(), "translation.json"}
    assert (result.out, result.files, result.slices, result.failed) == (out, 4, 4, {})
    for before, after in pairs.items():
        pixels = opened(out / after)
        assert pixels.shape == opened(inputs / before).shape[:2]
        assert pixels.std() > 0
    record = json.loads((out / "translation.json").read_text())
    assert {item["input"]: item["output"] for item in record["files"]} == pairs
    assert {item["frame"] for item in record["files"]} == {1}
    assert (record["source"], record["target"], record["failed"]) == ("mri", "ct", {})
    assert record["synthetic"] is True
    assert record["generator_sha256"] == sha256(model / "translator-mri.safetensors")
    assert list(tmp_path.glob("deep/*")) == [out]  # nothing is left beside it


def test_outputs_keep_the_targets_depth(tmp_path: Path, model: Path, same_model: Path):
    inputs = some_images(tmp_path / "in")
    for folder, depth, top in ((model, np.uint16, 65535), (same_model, np.uint8, 255)):
        out = tmp_path / f"out{top}"
        translate(inputs, out=out, model=folder, device="cpu")
        with (out / "top.png").open("rb") as stream:
            assert stream.read(25)[24] == 8 * np.dtype(depth).itemsize
        page = tifffile.imread(out / "a" / "b" / "high.tif")
        assert page.dtype == depth
        assert page.max() > top / 2  # it spans the range
        assert len(np.unique(page)) > (256 if depth == np.uint16 else 20)


def test_outputs_are_marked_as_synthetic(tmp_path: Path, model: Path):
    out = tmp_path / "out"
    translate(some_images(tmp_path / "in"), out=out, model=model, device="cpu")
    with PIL.Image.open(out / "top.png") as image:
        assert image.info["Synthetic"] == "true"
        facts = json.loads(image.info["medxlate"])
    with tifffile.TiffFile(out / "a" / "b" / "high.tif") as tiff:
        assert json.loads(tiff.pages[0].tags["ImageDescription"].value) == facts
        assert "synthetic" in tiff.pages[0].tags["Software"].value
    assert facts == {
        "synthetic": True,
        "from": "mri",
        "to": "ct",
        "generator": sha256(model / "translator-mri.safetensors"),
        "slope": 1.0,
        "intercept": 0.0,
        "unit": "",
    }


def test_stored_values_come_back_to_physical_ones(tmp_path: Path, identity: None):
    """Windowed CT in HU: value = slope * stored + intercept, in DICOM as in PNG."""
    ct = Recipe(kind="ct", window=(40.0, 400.0), unit="HU", output_range=(-160.0, 240.0))
    model = tiny.write_tiny_model(tmp_path / "m", source_recipe=ct, target_recipe=ct)
    stored = tiny.noise(32, 32, seed=0).astype(np.int16) * 2
    write_dicom(
        tmp_path / "in" / "x.dcm",
        stored,
        modality="CT",
        attributes={"RescaleSlope": 1, "RescaleIntercept": -200},
    )
    translate(tmp_path / "in", out=tmp_path / "out", model=model, device="cpu", force=True)
    assert tree(tmp_path / "out") == {"x.dcm", "translation.json"}
    header = pydicom.dcmread(tmp_path / "out" / "x.dcm")
    values = header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
    assert (header.RescaleType, header.Modality) == ("HU", "CT")
    np.testing.assert_allclose(values, np.clip(stored - 200.0, -160, 240), atol=1)
    # The same range in the text of a PNG.
    grey = tiny.write_tiny_model(tmp_path / "g", source_recipe=tiny.AS_IS, target_recipe=ct)
    pixels = tiny.noise(32, 32, seed=1)
    tiny.save(tmp_path / "png" / "x.png", pixels)
    translate(tmp_path / "png", out=tmp_path / "grey", model=grey, device="cpu")
    with PIL.Image.open(tmp_path / "grey" / "x.png") as image:
        facts = json.loads(image.info["medxlate"])
        values = np.asarray(image) * facts["slope"] + facts["intercept"]
    assert facts["unit"] == "HU"
    np.testing.assert_allclose(values, pixels / 255 * 400 - 160, atol=400 / 255)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_an_identity_gives_the_image_back(
    tmp_path: Path, same_model: Path, identity: None, suffix: str
):
    pixels = tiny.noise(32, 32, seed=4)
    wide = tiny.noise(16, 32, seed=5)  # it fills half of the square, without resampling
    tiny.save(tmp_path / "in" / f"x{suffix}", pixels)
    tiny.save(tmp_path / "in" / f"wide{suffix}", wide)
    translate(tmp_path / "in", out=tmp_path / "out", model=same_model, device="cpu")
    for name, wanted in (("x", pixels), ("wide", wide)):
        found = opened(tmp_path / "out" / f"{name}{suffix}").astype(int)
        assert np.abs(found - wanted).max() <= 1


def test_an_identity_gives_16_bit_back(tmp_path: Path, identity: None):
    model = tiny.write_tiny_model(tmp_path / "m", source_recipe=tiny.AS_IS_16)
    pixels = tiny.noise(32, 32, seed=4, bits=16)
    tiny.save(tmp_path / "in" / "x.png", pixels)
    translate(tmp_path / "in", out=tmp_path / "out", model=model, device="cpu")
    assert np.abs(opened(tmp_path / "out" / "x.png").astype(int) - pixels).max() <= 1


def test_an_identity_gives_other_sizes_back_but_for_resampling(
    tmp_path: Path, same_model: Path, identity: None
):
    y, x = np.mgrid[0:1:70j, 0:1:100j]
    pixels = (255 * (0.2 + 0.6 * x * y)).astype(np.uint8)
    tiny.save(tmp_path / "in" / "x.png", pixels)
    translate(tmp_path / "in", out=tmp_path / "out", model=same_model, device="cpu")
    found = opened(tmp_path / "out" / "x.png").astype(int)
    assert np.abs(found - pixels)[4:-4, 4:-4].max() <= 3


def test_translation_takes_the_path_of_training(tmp_path: Path):
    """The generator sees what training saw of the same file, and its output is written."""
    data = tiny.write_dataset(tmp_path)
    dataset = Dataset(data)
    modality = dataset.modality("mri")
    recipe = modality.info.recipe
    model = tiny.write_tiny_model(tmp_path / "m", source_recipe=recipe)
    translate(tmp_path / "raw" / "mri", out=tmp_path / "out", model=model, device="cpu")
    slices = Slices(modality, range(8), task=dataset.info.task, image_size=tiny.SIZE)
    _, generator = load_generator(model, read_model(model), None)
    with torch.no_grad():
        fakes = generator(slices.batch(range(8)).images)
    assert recipe.kind == "mr"
    for row in range(8):
        wanted = to_stored(from_square(fakes[row, 0].numpy(), tiny.SIZE, tiny.SIZE), 16)
        found = opened(tmp_path / "out" / modality.column("file")[row])
        assert np.abs(found.astype(int) - wanted).max() <= 2  # of 65535


def test_the_batch_size_changes_nothing(tmp_path: Path, model: Path):
    inputs = some_images(tmp_path / "in")
    for size in (1, 3):
        translate(inputs, out=tmp_path / str(size), model=model, device="cpu", batch_size=size)
    files = tree(tmp_path / "1") - {"translation.json"}
    assert len(files) == 4
    for name in files:
        one, three = (opened(tmp_path / size / name).astype(int) for size in ("1", "3"))
        assert np.abs(one - three).max() <= 2


def test_equal_stems_keep_their_suffix(tmp_path: Path, model: Path):
    tiny.save(tmp_path / "in" / "a.png", tiny.noise(32, 32, seed=0))
    tiny.save(tmp_path / "in" / "a.jpg", tiny.noise(16, 16, seed=1))
    tiny.save(tmp_path / "in" / "a.tif", tiny.noise(20, 20, seed=2))
    out = tmp_path / "out"
    translate(tmp_path / "in", out=out, model=model, device="cpu")
    assert tree(out) == {"a.png.png", "a.jpg.png", "a.tif", "translation.json"}
    assert opened(out / "a.png.png").shape == (32, 32)
    assert opened(out / "a.jpg.png").shape == (16, 16)


def test_a_single_file_can_be_translated(tmp_path: Path, model: Path):
    inputs = some_images(tmp_path / "in")
    translate(inputs / "top.png", out=tmp_path / "out", model=model, device="cpu")
    assert tree(tmp_path / "out") == {"top.png", "translation.json"}


def test_excluded_files_are_left_out(tmp_path: Path, model: Path):
    inputs, out = some_images(tmp_path / "in"), tmp_path / "out"
    translate(inputs, out=out, model=model, device="cpu", exclude=["*.tif", "w*"])
    assert tree(out) == {"top.png", "a/b/colour.png", "translation.json"}


def spoil(inputs: Path) -> dict[str, str]:
    """Add files that cannot be used; return their names and a part of the reason."""
    whole = tiny.save(inputs / "cut.png", tiny.noise(64, 64, seed=9)).read_bytes()
    (inputs / "cut.png").write_bytes(whole[: len(whole) // 2])
    (inputs / "text.png").write_text("no image")
    tiny.save(inputs / "flat.png", np.full((32, 32), 7, np.uint8))
    return {"cut.png": "damaged", "text.png": "not an image", "flat.png": "empty"}


def test_bad_files_are_listed_and_good_ones_translated(tmp_path: Path, model: Path):
    inputs, out = some_images(tmp_path / "in"), tmp_path / "out"
    wanted = spoil(inputs)
    result = translate(inputs, out=out, model=model, device="cpu")
    assert result.files == 4
    assert set(result.failed) == set(wanted)
    assert all(text in result.failed[name] for name, text in wanted.items())
    assert str(tmp_path) not in json.dumps(result.failed)
    assert json.loads((out / "translation.json").read_text())["failed"] == result.failed
    assert len(tree(out)) == 5


def test_nothing_usable_is_an_error_and_leaves_nothing(tmp_path: Path, model: Path):
    (tmp_path / "in").mkdir()
    spoil(tmp_path / "in")
    with pytest.raises(ImageError, match=r"No image in .* can be used"):
        translate(tmp_path / "in", out=tmp_path / "out", model=model, device="cpu")
    assert {p.name for p in tmp_path.iterdir()} == {"in"}


def test_an_occupied_folder_is_not_touched(tmp_path: Path, model: Path):
    inputs, out = some_images(tmp_path / "in"), tmp_path / "out"
    tiny.save(out / "mine.png", tiny.noise(8, 8, seed=0))
    for overwrite in (False, True):  # it is no translation, so it is not overwritten either
        with pytest.raises(OutputError, match="out"):
            translate(inputs, out=out, model=model, device="cpu", overwrite=overwrite)
    assert tree(out) == {"mine.png"}


def test_an_older_translation_is_replaced_when_asked(tmp_path: Path, model: Path):
    inputs, out = some_images(tmp_path / "in"), tmp_path / "out"
    translate(inputs, out=out, model=model, device="cpu")
    (inputs / "top.png").unlink()
    with pytest.raises(OutputError, match="not empty"):
        translate(inputs, out=out, model=model, device="cpu")
    assert "top.png" in tree(out)
    translate(inputs, out=out, model=model, device="cpu", overwrite=True)
    assert tree(out) == {"a/wide.png", "a/b/high.tif", "a/b/colour.png", "translation.json"}


@pytest.mark.parametrize("place", ["", "out", "a/out"])
def test_out_inside_the_inputs_is_refused(tmp_path: Path, model: Path, place: str):
    inputs = some_images(tmp_path / "in")
    before = tree(inputs)
    with pytest.raises(UsageError if place else OutputError):
        translate(inputs, out=inputs / place, model=model, device="cpu")
    assert tree(inputs) == before


@pytest.mark.parametrize("problem", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_translation_leaves_only_what_it_can_go_on_with(
    tmp_path: Path, model: Path, problem: type[BaseException]
):
    inputs = some_images(tmp_path / "in")
    seen = []

    def listener(event: Event) -> None:
        if isinstance(event, Progress) and event.done == 2:
            seen.extend(tmp_path.glob("deep/.out.*"))
            raise problem

    with pytest.raises(problem):
        translate(
            inputs,
            out=tmp_path / "deep" / "out",
            model=model,
            device="cpu",
            batch_size=1,
            listener=listener,
        )
    assert seen  # it had begun
    assert {p.name for p in (tmp_path / "deep").iterdir()} == {".out.work"}
    translate(inputs, out=tmp_path / "deep" / "out", model=model, device="cpu", batch_size=1)
    assert {p.name for p in (tmp_path / "deep").iterdir()} == {"out"}


def test_a_source_that_the_model_has_not_is_named(tmp_path: Path, model: Path):
    inputs = some_images(tmp_path / "in")
    with pytest.raises(ModelError, match="no translator from 'mr'"):
        translate(inputs, out=tmp_path / "out", model=model, source="mr", device="cpu")
    assert not (tmp_path / "out").exists()


def test_the_library_way(model: Path, tmp_path: Path):
    translator = Translator.load(model)
    recipe = translator.reader.recipe
    found = find_inputs(some_images(tmp_path / "in"), recipe, name="mri", exclude=())
    failed: dict[str, str] = {}
    batch = [item for scan in found.scans for item in translator.reader.slices(scan, failed)]
    assert (len(batch), failed) == (4, {})
    fakes = translator.translate(batch)
    wanted = [(item.slice.height, item.slice.width) for item in batch]
    assert [fake.shape for fake in fakes] == wanted
    assert all(fake.dtype == np.float32 and np.abs(fake).max() <= 1 for fake in fakes)


# Predict


def write_patients(folder: Path) -> Path:
    """Write DICOM images of two patients, three and one, under names that do not tell."""
    for i, name in enumerate(["Zebrowski^Ada", "Zebrowski^Ada", "Quux^Bo", "Zebrowski^Ada"]):
        write_dicom(
            folder / f"{i}.dcm",
            tiny.noise(40, 32, seed=i, bits=16),
            modality="CT",
            attributes={"PatientID": f"ID-{name}", "PatientName": name},
        )
    return folder


@pytest.fixture(scope="module")
def percentile_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = Recipe(kind="mr", percentiles=(0.5, 99.5))
    return tiny.write_tiny_model(tmp_path_factory.mktemp("pct"), target_recipe=recipe)


def direct(model: Path, files: list[Path]) -> np.ndarray[Any, Any]:
    """Compute predictions by hand from the network and the target's recipe."""
    info = read_model(model)
    network = load_predictor(model, info)
    recipe = info.target_recipe
    stacks = [open_file(file, recipe)[1] for file in files]
    squares = [
        to_network(recipe.store(stack.read(0), tiny.SIZE, limits=recipe.limits(stack)), tiny.SIZE)
        for stack in stacks
    ]
    with torch.no_grad():
        outputs = network(torch.from_numpy(np.stack(squares))[:, None])
    return info.predictor.head.predictions(outputs).numpy()


def test_the_table_has_a_row_a_slice_and_a_row_a_patient(tmp_path: Path, percentile_model: Path):
    inputs = write_patients(tmp_path / "in")
    out = tmp_path / "deep" / "p.csv"
    result = predict(inputs, out=out, model=percentile_model, device="cpu")
    text = out.read_text()
    for secret in ("Zebrowski", "Quux", "ID-", str(tmp_path)):
        assert secret not in text
    table = pd.read_csv(out, keep_default_na=False)
    assert list(table.columns) == [
        "level",
        "patient",
        "file",
        "slice",
        "slices",
        "age",
        "low",
        "high",
        "outside",
    ]
    assert list(table["level"]) == ["slice"] * 4 + ["patient"] * 2
    first, second = "patient-0001", "patient-0002"
    assert list(table["patient"]) == [first, first, second, first, first, second]
    assert list(table["file"]) == ["0.dcm", "1.dcm", "2.dcm", "3.dcm", "", ""]
    assert list(table["slice"]) == ["1", "1", "1", "1", "", ""]
    assert list(table["slices"]) == [1, 1, 1, 1, 3, 1]
    ages = direct(percentile_model, [inputs / f"{i}.dcm" for i in range(4)])
    assert np.ptp(ages) > 0.01
    wanted = [*ages, ages[[0, 1, 3]].mean(), ages[2]]
    np.testing.assert_allclose(table["age"], wanted, atol=2e-4)  # four decimals are written
    assert list(result.table["age"]) == list(table["age"])
    assert (result.out, result.failed) == (out, {})
    assert {p.name for p in out.parent.iterdir()} == {"p.csv"}


def write_volumes(folder: Path) -> Path:
    """Write two volumes of 6 axial slices; the lowest and the highest show next to nothing."""
    for seed, name in enumerate(["one/a.nii.gz", "two/b.nii.gz"]):
        voxels = np.random.default_rng(seed).integers(0, 256, (32, 32, 6)).astype(np.uint8)
        voxels[:, :, [0, 5]] //= 30
        save_nifti(folder / name, voxels)
    return folder


def test_volumes_have_a_row_of_their_own_and_near_empty_slices_none(
    tmp_path: Path, same_model: Path
):
    inputs = write_volumes(tmp_path / "in")
    out = tmp_path / "p.csv"
    predict(inputs, out=out, model=same_model, patient="folder:1", batch_size=3, device="cpu")
    table = pd.read_csv(out, keep_default_na=False)
    assert list(table["level"]) == ["slice"] * 8 + ["volume"] * 2 + ["patient"] * 2
    slices, volumes = table[table["level"] == "slice"], table[table["level"] == "volume"]
    assert list(slices["slice"]) == ["2", "3", "4", "5"] * 2
    assert list(slices["file"]) == ["one/a.nii.gz"] * 4 + ["two/b.nii.gz"] * 4
    assert list(volumes["file"]) == ["one/a.nii.gz", "two/b.nii.gz"]
    assert list(volumes["slices"]) == [4, 4]
    assert list(volumes["patient"]) == ["patient-0001", "patient-0002"]
    ages = slices["age"].to_numpy().reshape(2, 4)
    assert np.ptp(ages) > 0.01
    np.testing.assert_allclose(volumes["age"], ages.mean(axis=1), atol=1e-4)
    np.testing.assert_allclose(table["age"][10:], ages.mean(axis=1), atol=1e-4)


def test_a_series_is_a_volume_and_its_slices_keep_their_files(tmp_path: Path):
    recipe = Recipe(kind="ct", window=(40, 400), unit="HU", output_range=(-160.0, 240.0))
    model = tiny.write_tiny_model(tmp_path / "m", target_recipe=recipe)
    names = write_series(tmp_path / "in" / "x", tissue(5, side=32), patient="ID-Zebrowski")
    table = predict(tmp_path / "in", out=tmp_path / "p.csv", model=model, device="cpu").table
    assert list(table["level"]) == ["slice"] * 5 + ["volume", "patient"]
    assert list(table["file"]) == [*(f"x/{name}" for name in names), "x", ""]
    assert list(table["slice"][:5]) == [1, 2, 3, 4, 5]
    assert set(table["patient"]) == {"patient-0001"}
    assert "Zebrowski" not in (tmp_path / "p.csv").read_text()


def test_volumes_without_a_slice_to_show_cannot_be_predicted(tmp_path: Path, same_model: Path):
    save_nifti(tmp_path / "in" / "dark.nii", np.eye(32, dtype=np.uint8)[:, :, None].repeat(4, 2))
    with pytest.raises(ImageError, match="near-empty"):
        predict(tmp_path / "in", out=tmp_path / "p.csv", model=same_model, device="cpu")
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


def test_near_empty_slices_become_the_targets_black(tmp_path: Path, same_model: Path):
    inputs, out = write_volumes(tmp_path / "in"), tmp_path / "out"
    result = translate(inputs, out=out, model=same_model, device="cpu", batch_size=4)
    assert (result.files, result.slices) == (2, 12)
    for name in ("one/a.nii.gz", "two/b.nii.gz"):
        fake = np.asarray(nibabel.load(out / name).dataobj)
        assert fake.shape == (32, 32, 6)
        spread = fake.std(axis=(0, 1))
        assert list(spread > 0) == [False, True, True, True, True, False]
        np.testing.assert_array_equal(fake[:, :, [0, 5]], 0)


def test_without_known_patients_there_are_only_slices(tmp_path: Path, model: Path):
    result = predict(some_images(tmp_path / "in"), out=tmp_path / "p.csv", model=model)
    table = pd.read_csv(tmp_path / "p.csv", keep_default_na=False)
    assert list(table["level"]) == ["slice"] * 4
    assert set(table["patient"]) == {""}
    assert list(table["file"]) == ["a/b/colour.jpg", "a/b/high.tif", "a/wide.png", "top.png"]
    assert len(result.table) == 4


def test_patients_can_be_read_from_the_path(tmp_path: Path, model: Path):
    inputs = some_images(tmp_path / "in")
    table = predict(inputs, out=tmp_path / "p.csv", model=model, patient="folder:1").table
    means = table[table["level"] == "patient"]
    assert list(means["patient"]) == ["patient-0001"]  # top.png lies in no folder
    assert list(means["slices"]) == [3]
    assert means["age"].iloc[0] == pytest.approx(table["age"][:3].mean(), abs=1e-3)


def test_classes_come_with_probabilities(tmp_path: Path):
    model = tiny.write_tiny_model(tmp_path / "m", task=tiny.GROUP)
    inputs = write_patients(tmp_path / "in")
    table = predict(inputs, out=tmp_path / "p.csv", model=model, device="cpu").table
    assert list(table.columns[5:]) == ["group", "p(middle)", "p(old)", "p(young)"]
    chances = table.iloc[:, 6:].to_numpy()
    by_hand = direct(model, [inputs / f"{i}.dcm" for i in range(4)])
    np.testing.assert_allclose(chances[:4], by_hand, atol=1e-5)
    np.testing.assert_allclose(chances[4], by_hand[[0, 1, 3]].mean(axis=0), atol=1e-5)
    assert list(table["group"]) == [tiny.GROUP.classes[i] for i in chances.argmax(axis=1)]


def test_bad_files_do_not_stop_a_prediction(tmp_path: Path, model: Path):
    inputs = some_images(tmp_path / "in")
    wanted = spoil(inputs)
    result = predict(inputs, out=tmp_path / "p.csv", model=model, device="cpu", batch_size=2)
    assert set(result.failed) == set(wanted)
    assert len(result.table) == 4


def test_an_existing_table_is_kept(tmp_path: Path, model: Path):
    inputs, out = some_images(tmp_path / "in"), tmp_path / "p.csv"
    out.write_text("mine\n")
    with pytest.raises(OutputError, match=r"p\.csv already exists"):
        predict(inputs, out=out, model=model, device="cpu")
    assert out.read_text() == "mine\n"
    predict(inputs, out=out, model=model, device="cpu", overwrite=True)
    assert out.read_text().startswith("level,")
    with pytest.raises(OutputError, match="exists"):  # a folder is never replaced
        predict(inputs, out=inputs, model=model, device="cpu", overwrite=True)


def test_an_interrupted_prediction_leaves_no_table(tmp_path: Path, model: Path):
    def listener(event: Event) -> None:
        if isinstance(event, Progress) and event.done == 4:
            raise KeyboardInterrupt

    inputs = some_images(tmp_path / "in")
    with pytest.raises(KeyboardInterrupt):
        predict(inputs, out=tmp_path / "p.csv", model=model, listener=listener)
    assert {p.name for p in tmp_path.iterdir()} == {"in", ".p.csv.work"}


def test_a_table_that_fails_to_be_written_leaves_no_table(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(self: pd.DataFrame, path: Path, **_: object) -> None:
        Path(path).write_text("level,pat")
        raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_csv", broken)
    with pytest.raises(OSError, match="disk full"):
        predict(some_images(tmp_path / "in"), out=tmp_path / "p.csv", model=model, device="cpu")
    assert {p.name for p in tmp_path.iterdir()} == {"in", ".p.csv.work"}
    assert not (tmp_path / ".p.csv.work" / "out").exists()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_prediction_does_not_depend_on_its_batch(tmp_path: Path, model: Path, batch_size: int):
    """SliceBatch norm uses what it learned, not the batch."""
    inputs = some_images(tmp_path / "in")
    table = predict(
        inputs, out=tmp_path / "p.csv", model=model, device="cpu", batch_size=batch_size
    ).table
    ages = direct(model, [inputs / file for file in table["file"]])
    np.testing.assert_allclose(table["age"], ages, atol=2e-4)


def test_networks_are_left_as_they_were_found(model: Path):
    predictor = Predictor.load(model)
    for training in (True, False):
        predictor.network.train(training)
        before = {k: v.clone() for k, v in predictor.network.state_dict().items()}
        run(predictor.network, [torch.rand(3, 1, 32, 32)], compute=predictor.compute)
        assert predictor.network.training is training
        after = predictor.network.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("use", [translate, predict])
def test_a_folder_without_a_model_is_named(tmp_path: Path, use: Callable[..., object]):
    inputs = some_images(tmp_path / "in")
    with pytest.raises(ModelError, match=r"There is no run at .*nowhere"):
        use(inputs, out=tmp_path / "out", model=tmp_path / "nowhere", device="cpu")
    assert {p.name for p in tmp_path.iterdir()} == {"in"}


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (["a.png", "b/a.png"], ["a.png", "b/a.png"]),
        (["a.png", "a.jpg"], ["a.png.png", "a.jpg.png"]),
        (["a.png", "a.jpg", "a.png.png"], ["a.png.png", "a.jpg.png", "a.png.png.png"]),
        (["A.png", "a.jpg"], ["A.png.png", "a.jpg.png"]),
        (["1.2.840.5", "1.2.840.6"], ["1.2.840.5.png", "1.2.840.6.png"]),
        (["scan.v2.dcm"], ["scan.v2.png"]),
    ],
)
def test_no_two_outputs_share_a_name(inputs: list[str], outputs: list[str]):
    found = [FoundImage(Path(name), name, "png", False) for name in inputs]
    scans = [Scan(file.relative, "png", (file,)) for file in found]
    names = output_names(scans, phi="keep", patients=dict.fromkeys(inputs, ""))
    assert names == {(name, 0): new for name, new in zip(inputs, outputs, strict=True)}


@pytest.mark.parametrize(
    ("format_", "inputs", "outputs"),
    [
        ("nifti", ["a.nii", "a.nii.gz", "b.nii"], ["a.nii", "a.nii.gz", "b.nii"]),
        ("nifti", ["x.v2.NII.GZ"], ["x.v2.NII.GZ"]),
        ("nifti", ["a.hdr.img"], ["a.hdr.img.nii.gz"]),
        ("nrrd", ["a.nrrd", "b.nhdr"], ["a.nrrd", "b.nrrd"]),
        ("nrrd", ["a.nrrd", "a.nhdr"], ["a.nrrd.nrrd", "a.nhdr.nrrd"]),
        ("meta", ["a.mha", "b.mhd"], ["a.mha", "b.mha"]),
        ("tiff", ["a.tif", "b.tiff"], ["a.tif", "b.tif"]),
    ],
)
def test_outputs_of_volumes_keep_their_formats_suffix(
    format_: Format, inputs: list[str], outputs: list[str]
):
    found = [FoundImage(Path(name), name, format_, False) for name in inputs]
    scans = [Scan(file.relative, format_, (file,)) for file in found]
    names = output_names(scans, phi="keep", patients=dict.fromkeys(inputs, ""))
    assert list(names.values()) == outputs


def test_the_channel_of_training_is_the_channel_in_use(tmp_path: Path):
    recipe = tiny.AS_IS.model_copy(update={"channel": 1})
    model = tiny.write_tiny_model(tmp_path / "m", source_recipe=recipe)
    grey = tiny.noise(32, 32, seed=1)
    colour = np.stack([tiny.noise(32, 32, seed=2), grey, tiny.noise(32, 32, seed=3)], axis=2)
    tiny.save(tmp_path / "colour" / "a.png", colour)
    translate(tmp_path / "colour", out=tmp_path / "from_colour", model=model, device="cpu")
    plain = tiny.write_tiny_model(tmp_path / "p")
    tiny.save(tmp_path / "grey" / "a.png", grey)
    translate(tmp_path / "grey", out=tmp_path / "from_grey", model=plain, device="cpu")
    np.testing.assert_array_equal(
        opened(tmp_path / "from_colour" / "a.png"), opened(tmp_path / "from_grey" / "a.png")
    )
