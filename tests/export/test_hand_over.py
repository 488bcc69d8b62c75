"""Translated and real images as data sets for nnU-Net and MONAI, read again by nibabel and ITK."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from typer.testing import CliRunner

import tiny
from medxlate import export_monai, export_nnunet, translate
from medxlate.base.errors import DataError, ImageError, OutputError, UsageError
from medxlate.base.events import Event, Warned
from medxlate.cli.app import app
from medxlate.export.masks import is_named_as_mask, match_masks
from medxlate.images.write import read_facts
from medxlate.training.train import train
from preparing import plant_key, tissue, write_series

CT = tiny.AS_IS_16.model_copy(
    update={"kind": "ct", "window": (40.0, 400.0), "unit": "HU", "output_range": (-160.0, 240.0)}
)
PATIENTS = ("Zebrowski01", "Zebrowski02", "Zebrowski03")
AFFINE = np.array([[0, -1.2, 0, 30], [1.1, 0, 0, -20], [0, 0, 3.0, 7], [0, 0, 0, 1.0]])
SIZE = (34, 40, 5)


def save(path: Path, voxels: Any, affine: Any = AFFINE, descrip: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(voxels, affine)
    image.header["descrip"] = descrip.encode()
    nibabel.save(image, path)
    return path


def drawn(seed: int) -> Any:
    """A mask of two classes, 1 and 4, of no symmetry."""
    mask = np.zeros(SIZE, np.uint8)
    mask[5 + seed : 15, 7:12, 1:3] = 1
    mask[20:30, 20:33, 2:5] = 4
    return mask


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MRI of three patients with masks, translated; DICOM CT of two, masks as of dcm2niix."""
    root = tmp_path_factory.mktemp("hand-over")
    model = tiny.write_tiny_model(root, target_recipe=CT)
    for number, patient in enumerate(PATIENTS):
        noise = np.random.default_rng(number).integers(0, 255, SIZE).astype(np.uint8)
        save(root / "mri" / patient / "t1.nii.gz", noise, descrip=f"{patient}^Jan 19700101")
        save(root / "masks" / patient / "t1_seg.nii.gz", drawn(number))
    translate(root / "mri", out=root / "fake", model=model)
    for number in range(2):
        volume = tissue(6, 24, number)
        write_series(root / "ct" / f"Nowak{number}", volume, patient=f"Nowak{number}")
        # LPS, rows upwards: the first voxel is the lowest row of the DICOM image
        affine = np.diag([-1.0, 1.0, 2.0, 1.0])
        affine[:3, 3] = 0, -23, -50
        lit = (volume > 100).astype(np.uint8)
        save(root / "ct-masks" / f"Nowak{number}.nii.gz", lit.transpose(2, 1, 0)[:, ::-1], affine)
    return root


def written(out: Path) -> bytes:
    """All bytes of a data set, volumes unpacked."""
    return b"".join(
        nibabel.load(path).header.binaryblock if path.suffix == ".gz" else path.read_bytes()
        for path in sorted(out.rglob("*.*"))
    )


def test_nnunet_gets_its_layout_with_masks_on_the_grid_of_the_source(folder: Path, tmp_path: Path):
    out = tmp_path / "Dataset501_Fake"
    made = export_nnunet([folder / "fake"], out=out, masks=[folder / "masks"], patient="folder:1")
    assert made.training == {"real": 0, "synthetic": 3}
    assert made.classes == {"background": 0, "class 1": 1, "class 4": 2}
    description = json.loads((out / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "CT"}
    assert description["labels"] == made.classes
    assert (description["numTraining"], description["file_ending"]) == (3, ".nii.gz")
    names = [f"synthetic_000{number}" for number in (1, 2, 3)]
    assert sorted(path.name for path in (out / "imagesTr").iterdir()) == [
        f"{name}_0000.nii.gz" for name in names
    ]
    for number, name in enumerate(names):
        image = nibabel.load(out / "imagesTr" / f"{name}_0000.nii.gz")
        mask = nibabel.load(out / "labelsTr" / f"{name}.nii.gz")
        source = nibabel.load(folder / "fake" / PATIENTS[number] / "t1.nii.gz")
        np.testing.assert_array_equal(image.get_fdata(), source.get_fdata())
        for each in (image, mask):
            np.testing.assert_allclose(each.affine, AFFINE, atol=1e-5)
        expected = np.where(drawn(number) == 4, 2, drawn(number))
        np.testing.assert_array_equal(np.asarray(mask.dataobj), expected)
        assert image.header["descrip"].item().startswith(b"SYNTHETIC ct from mri, medxlate")
    splits = json.loads((out / "splits_final.json").read_text())
    assert [len(split["val"]) for split in splits] == [1, 1, 1]
    assert all(not set(split["train"]) & set(split["val"]) for split in splits)


def test_no_name_id_or_date_of_a_patient_is_in_it(folder: Path, tmp_path: Path):
    out = tmp_path / "Dataset501_All"
    export_nnunet(
        [folder / "fake", folder / "ct"],
        out=out,
        masks=[folder / "masks", folder / "ct-masks"],
        classes={"a": 1, "b": 4},
    )
    paths = "".join(str(path.relative_to(out)) for path in out.rglob("*"))
    for word in (*PATIENTS, "Zebrowski", "Nowak", "1970", "1.2.826"):
        assert word not in paths
        assert word.encode() not in written(out)


def test_real_dicom_joins_with_masks_that_are_turned(folder: Path, tmp_path: Path):
    """Against ITK, which reads DICOM and NIfTI into one space."""
    out = tmp_path / "Dataset501_All"
    made = export_nnunet(
        [folder / "fake", folder / "ct"],
        out=out,
        masks=[folder / "masks", folder / "ct-masks"],
        patient=None,
    )
    assert made.training == {"real": 2, "synthetic": 3}
    for number in range(2):
        image = sitk.ReadImage(str(out / "imagesTr" / f"real_000{number + 1}_0000.nii.gz"))
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder / "ct" / f"Nowak{number}")))
        series = reader.Execute()
        np.testing.assert_allclose(image.GetOrigin(), series.GetOrigin())
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(series))
        mask = sitk.ReadImage(str(out / "labelsTr" / f"real_000{number + 1}.nii.gz"))
        assert mask.GetDirection() == image.GetDirection()
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(mask), (sitk.GetArrayFromImage(series) > 100) * 1
        )
    splits = json.loads((out / "splits_final.json").read_text())
    assert [split["val"] for split in splits] in (
        [["real_0001"], ["real_0002"]],
        [["real_0002"], ["real_0001"]],
    )  # real ones alone, a patient each


@pytest.mark.parametrize("fault", ["shifted", "larger"])
def test_a_mask_on_another_grid_is_refused_by_name(fault: str, folder: Path, tmp_path: Path):
    affine = AFFINE.copy()
    voxels = drawn(0)
    if fault == "shifted":
        affine[0, 3] += 0.5  # almost half a voxel
    else:
        voxels = np.pad(voxels, ((0, 1), (0, 0), (0, 0)))
    mask = save(tmp_path / "masks" / "Zebrowski01" / "t1.nii.gz", voxels, affine)
    for patient in PATIENTS[1:]:
        save(tmp_path / "masks" / patient / "t1.nii.gz", drawn(0))
    with pytest.raises(ImageError, match="grids") as problem:
        export_nnunet([folder / "fake"], out=tmp_path / "Dataset501_X", masks=[tmp_path / "masks"])
    assert str(mask) in str(problem.value)
    assert "fake/Zebrowski01/t1.nii.gz" in str(problem.value)
    assert not (tmp_path / "Dataset501_X").exists()


def test_a_missing_mask_is_an_error_or_said(folder: Path, tmp_path: Path):
    save(tmp_path / "masks" / "Zebrowski02_mask.nii.gz", drawn(1))
    save(tmp_path / "masks" / "Zebrowski02" / "mask.nii.gz", drawn(1))
    out = tmp_path / "Dataset501_X"
    with pytest.raises(DataError, match="2 of 3 images have no mask"):
        export_nnunet([folder / "fake"], out=out, masks=[tmp_path / "masks"])
    told: list[Event] = []
    made = export_nnunet(
        [folder / "fake"],
        out=out,
        masks=[tmp_path / "masks"],
        skip_unmasked=True,
        listener=told.append,
    )
    assert made.training["synthetic"] == 1
    texts = [each.text for each in told if isinstance(each, Warned)]
    assert any("2 images have no mask and are left out" in text for text in texts)
    assert any("too few patients" in text for text in texts)
    assert not (out / "splits_final.json").exists()


def test_what_is_no_mask_is_refused(folder: Path, tmp_path: Path):
    for patient in PATIENTS:
        save(tmp_path / "masks" / patient / "t1.nii.gz", np.full(SIZE, 0.25, np.float32))
    with pytest.raises(ImageError, match=r"is no mask: it holds values from 0\.25"):
        export_nnunet([folder / "fake"], out=tmp_path / "Dataset501_X", masks=[tmp_path / "masks"])
    ramp = np.arange(np.prod(SIZE)).reshape(SIZE) % 257
    for patient in PATIENTS:
        save(tmp_path / "masks" / patient / "t1.nii.gz", ramp.astype(np.int16))
    with pytest.raises(ImageError, match="is no mask: the masks hold 256 values"):
        export_nnunet([folder / "fake"], out=tmp_path / "Dataset501_X", masks=[tmp_path / "masks"])
    with pytest.raises(DataError, match="holds the value 4, which has no name"):
        export_nnunet(
            [folder / "fake"],
            out=tmp_path / "Dataset501_X",
            masks=[folder / "masks"],
            classes={"tumour": 1},
        )


def test_the_folder_is_called_as_nnunet_wants_it(folder: Path, tmp_path: Path):
    for name in ("fake", "Dataset1_X", "Dataset501"):
        with pytest.raises(UsageError, match="nnU-Net"):
            export_nnunet([folder / "fake"], out=tmp_path / name, masks=[folder / "masks"])
    (tmp_path / "Dataset501_Other").mkdir()
    with pytest.raises(OutputError, match="accepts each number only once"):
        export_nnunet([folder / "fake"], out=tmp_path / "Dataset501_X", masks=[folder / "masks"])


def test_further_images_go_to_imagests_and_no_patient_to_both_sides(folder: Path, tmp_path: Path):
    out = tmp_path / "Dataset501_X"
    made = export_nnunet(
        [folder / "fake"], out=out, masks=[folder / "masks"], test=[folder / "ct" / "Nowak0"]
    )
    assert made.testing == 1
    assert [path.name for path in (out / "imagesTs").iterdir()] == ["real_0001_0000.nii.gz"]
    with pytest.raises(DataError, match="of a patient of the training images"):
        export_nnunet(
            [folder / "fake", folder / "ct"],
            out=tmp_path / "Dataset502_X",
            masks=[folder / "masks", folder / "ct-masks"],
            test=[folder / "ct"],
        )


# Pictures


def test_pictures_of_one_volume_are_joined_in_physical_values(tmp_path: Path):
    model = tiny.write_tiny_model(tmp_path, target_recipe=CT)
    for number in range(12):
        name = f"case/{number}.png"
        tiny.save(tmp_path / "mri" / name, tiny.noise(36, 32, seed=number))
        mask = np.zeros((36, 32), np.uint8)
        mask[number : number + 4, 3:9] = 255
        tiny.save(tmp_path / "mri" / f"case/{number}_mask.png", mask)
    translate(tmp_path / "mri", out=tmp_path / "fake", model=model, exclude=["*_mask.png"])
    out = tmp_path / "Dataset501_X"
    export_nnunet(
        [tmp_path / "fake"],
        out=out,
        masks=[tmp_path / "mri"],
        volume_from="folder",
        patient="folder:1",
        classes={"tumour": 255},
    )
    image = np.asarray(nibabel.load(out / "imagesTr" / "synthetic_0001_0000.nii.gz").dataobj)
    mask = np.asarray(nibabel.load(out / "labelsTr" / "synthetic_0001.nii.gz").dataobj)
    assert image.shape == mask.shape == (32, 36, 12)
    for number in range(12):  # 2 before 10
        path = tmp_path / "fake" / "case" / f"{number}.png"
        facts = read_facts(path)
        stored = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float32)
        expected = stored * facts["slope"] + facts["intercept"]
        np.testing.assert_allclose(image[..., number].T, expected, atol=1e-3)
        lit = np.zeros((36, 32))
        lit[number : number + 4, 3:9] = 1
        np.testing.assert_array_equal(mask[..., number].T, lit)
    assert -160 <= image.min() < image.max() <= 240


def test_lossy_masks_are_cut_at_half_and_single_pictures_are_cases(tmp_path: Path):
    model = tiny.write_tiny_model(tmp_path, target_recipe=CT)
    tiny.save(tmp_path / "ct" / "7.png", tiny.noise(40, 32, seed=1))
    mask = np.zeros((40, 32), np.uint8)
    mask[8:24, 8:16] = 255
    tiny.save(tmp_path / "ct" / "7_HGE_Seg.jpg", mask)
    translate(tmp_path / "ct", out=tmp_path / "fake", model=model, exclude=["*_Seg.jpg"])
    out = tmp_path / "Dataset501_X"
    told: list[Event] = []
    export_nnunet([tmp_path / "fake"], out=out, masks=[tmp_path / "ct"], listener=told.append)
    found = np.asarray(nibabel.load(out / "labelsTr" / "synthetic_0001.nii.gz").dataobj)
    np.testing.assert_array_equal(found[..., 0].T, mask // 255)
    assert any("each counts as a patient" in each.text for each in told if hasattr(each, "text"))


def test_pictures_beside_hounsfield_units_are_pointed_out(folder: Path, tmp_path: Path):
    tiny.save(tmp_path / "real" / "1.png", tiny.noise(40, 32, seed=1))
    told: list[Event] = []
    export_monai([folder / "fake", tmp_path / "real"], out=tmp_path / "out", listener=told.append)
    texts = [each.text for each in told if isinstance(each, Warned)]
    assert any("are in HU, real pictures in grey levels" in text for text in texts)


def test_an_image_that_says_so_is_synthetic_wherever_it_lies(folder: Path, tmp_path: Path):
    """One that was moved out of its folder must not count as real."""
    (tmp_path / "moved").mkdir()
    source = folder / "fake" / PATIENTS[0] / "t1.nii.gz"
    (tmp_path / "moved" / "t1.nii.gz").write_bytes(source.read_bytes())
    made = export_monai([tmp_path / "moved"], out=tmp_path / "out")
    assert made.images == {"training": {"synthetic": 1}}


# Names of masks


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a/1.nii.gz", "a/1_seg.nii.gz"),
        ("a/1.nii.gz", "b/1.mask.nrrd"),
        ("a/1.png", "1_HGE_Seg.jpg"),
        ("a/1.dcm", "mask_1.png"),
        ("case_0000.nii.gz", "labels/case.nii.gz"),
        ("sub-1/anat/sub-1_run-2_T1w.nii.gz", "sub-1_run-2_label-lesion_mask.nii.gz"),
        ("p/series", "p/series/segmentation.nii.gz"),
        ("p/ct.nii.gz", "p/mask.nii.gz"),
        ("p/ct.nii.gz", "p/ct-label.mha"),
    ],
)
def test_masks_are_found_as_people_name_them(image: str, mask: str):
    assert match_masks([image, "q/other.png"], [mask], "M") == {image: mask}


def test_ambiguous_masks_are_refused_and_images_beside_masks_do_not_count():
    with pytest.raises(DataError, match=r"Several masks in M fit a/1\.png: b/1\.png, c/1\.png"):
        match_masks(["a/1.png"], ["b/1.png", "c/1.png"], "M")
    with pytest.raises(DataError, match=r"fits several images: a/1\.png, b/1\.png"):
        match_masks(["a/1.png", "b/1.png"], ["1.png"], "M")
    assert match_masks(["1.png"], ["1.png", "1_mask.png"], "M") == {"1.png": "1_mask.png"}
    assert match_masks(["1.png"], ["2_seg.png"], "M") == {}
    assert not is_named_as_mask("segment.png")
    assert not is_named_as_mask("patient_0001.nii.gz")


# MONAI


def test_the_datalist_holds_labels_of_a_table_and_divides_patients(folder: Path, tmp_path: Path):
    (tmp_path / "ages.csv").write_text(
        "who,age\n" + "".join(f"{patient},{40 + n}\n" for n, patient in enumerate(PATIENTS))
    )
    out = tmp_path / "out"
    made = export_monai(
        [folder / "fake"],
        out=out,
        masks=[folder / "masks"],
        labels=tmp_path / "ages.csv",
        label="age",
        patient="folder:1",
        patient_column="who",
    )
    listed = json.loads(made.datalist.read_text())
    entries = [*listed["training"], *listed["validation"]]
    assert sorted(entry["label"] for entry in entries) == [40, 41, 42]
    assert all((out / entry["image"]).is_file() for entry in entries)
    assert all((out / entry["mask"]).is_file() for entry in entries)
    assert [entry["fold"] for entry in listed["validation"]] == [0]
    assert sorted(entry["fold"] for entry in listed["training"]) == [1, 2]
    assert {entry["origin"] for entry in entries} == {"synthetic"}
    assert made.label == "age"
    assert b"Zebrowski" not in written(out)


@pytest.mark.filterwarnings("ignore")  # MONAI uses what torch deprecates
def test_monai_reads_the_datalist(folder: Path, tmp_path: Path):
    data = pytest.importorskip("monai.data", reason="MONAI is not installed")
    transforms = pytest.importorskip("monai.transforms")
    out = tmp_path / "out"
    export_monai([folder / "fake"], out=out, masks=[folder / "masks"], patient="folder:1")
    items = data.load_decathlon_datalist(out / "datalist.json", data_list_key="training")
    assert len(items) == 2
    keys = ["image", "label", "mask"]
    dataset = data.Dataset(items, transforms.LoadImaged(keys, ensure_channel_first=True))
    for batch in data.DataLoader(dataset, batch_size=2):
        assert batch["image"].shape == batch["label"].shape == (2, 1, *SIZE)
        assert set(np.unique(batch["label"])) == {0, 1, 2}
        np.testing.assert_array_equal(batch["label"], batch["mask"])
        np.testing.assert_allclose(batch["image"].affine[0], AFFINE, atol=1e-5)
        assert batch["origin"] == ["synthetic", "synthetic"]


def test_a_run_says_labels_patients_and_parts(tmp_path: Path):
    """Against the table that was prepared and the split of the run itself."""
    data = tiny.write_dataset(tmp_path)
    config = tiny.debug_config(data, optimizer={"epochs": 1}, split={"train": 0.5, "val": 0.3})
    run = train(config, runs=tmp_path / "runs").run
    translate(tmp_path / "raw" / "mri", out=tmp_path / "fake", model=run)
    split = json.loads((run / "split.json").read_text())["patients"]
    made = export_monai([tmp_path / "fake", tmp_path / "raw" / "ct"], out=tmp_path / "out", run=run)
    listed = json.loads(made.datalist.read_text())
    import pandas as pd

    tables = {name: pd.read_parquet(data / name / "slices.parquet") for name in ("mri", "ct")}
    names = {"training": "train", "validation": "val", "testing": "test"}
    for section, part in names.items():
        entries = listed[section]
        ct = tables["ct"][tables["ct"]["patient"].isin(split[part])]
        real = [entry["label"] for entry in entries if entry["origin"] == "real"]
        assert sorted(real) == sorted(ct["label"])
        synthetic = [entry["label"] for entry in entries if entry["origin"] == "synthetic"]
        mri = tables["mri"][tables["mri"]["patient"].isin(split[part])]
        assert sorted(synthetic) == (sorted(mri["label"]) if part == "train" else [])
    of = {section: {entry["patient"] for entry in listed[section]} for section in names}
    assert not of["training"] & of["validation"]
    assert not of["training"] & of["testing"]
    assert made.left_out == len(tables["mri"]) - made.images["training"]["synthetic"]
    for path in [*(tmp_path / "raw").rglob("*.png")]:
        place = tmp_path / "masks" / path.parent.name / path.name
        tiny.save(place, tiny.noise(tiny.SIZE, tiny.SIZE, seed=3, bits=1))
    out = tmp_path / "Dataset501_Run"
    masks = [tmp_path / "masks" / "mri", tmp_path / "masks" / "ct"]
    folders = [tmp_path / "fake", tmp_path / "raw" / "ct"]
    both = export_nnunet(folders, out=out, masks=masks, run=run)
    assert both.testing == made.images["testing"]["real"] == len(list((out / "labelsTs").iterdir()))
    (split,) = json.loads((out / "splits_final.json").read_text())
    assert len(split["val"]) == made.images["validation"]["real"]
    assert len(split["train"]) == sum(made.images["training"].values())
    with pytest.raises(UsageError, match="Leave --run out"):
        export_monai([tmp_path / "fake"], out=tmp_path / "x", run=run, patient="folder:1")
    tiny.save(tmp_path / "more" / "stranger.png", tiny.noise(32, 32, seed=1))
    with pytest.raises(DataError, match="does not hold"):
        export_monai([tmp_path / "more"], out=tmp_path / "x", run=run)


def test_real_patients_meet_their_pseudonyms_by_the_key(tmp_path: Path):
    key = plant_key(tmp_path / "data") / "pseudonym.key"
    model = tiny.write_tiny_model(tmp_path, target_recipe=CT)
    for number in range(3):
        where = f"Nowak{number}"
        write_series(tmp_path / "mri" / where, tissue(4, 32, number), patient=where, Modality="MR")
        write_series(tmp_path / "ct" / where, tissue(4, 32, 9 + number), patient=where)
    translate(tmp_path / "mri", out=tmp_path / "fake", model=model, key=key)
    both = [tmp_path / "fake", tmp_path / "ct"]
    told: list[Event] = []
    apart = export_monai(both, out=tmp_path / "apart", listener=told.append)
    assert any("--key" in each.text for each in told if isinstance(each, Warned))
    made = export_monai(both, out=tmp_path / "out", key=key)
    for result, count in ((apart, 6), (made, 3)):
        listed = json.loads(result.datalist.read_text())
        entries = [*listed["training"], *listed["validation"]]
        assert len({entry["patient"] for entry in entries}) == count - result.left_out * (count > 3)


def test_classes_come_from_a_tag(folder: Path, tmp_path: Path):
    made = export_monai(
        [folder / "ct"], out=tmp_path / "out", label="PatientAge", task="classification"
    )
    listed = json.loads(made.datalist.read_text())
    assert {entry["label"] for entry in [*listed["training"], *listed["validation"]]} == {"060Y"}
    assert listed["task"]["classes"] == ["060Y"]


def test_one_channel_one_volume_and_not_every_file(tmp_path: Path):
    colour = np.stack([tiny.noise(36, 32, seed=number) for number in range(3)], axis=-1)
    tiny.save(tmp_path / "in" / "a.png", colour)
    series = np.random.default_rng(0).integers(0, 99, (32, 32, 4, 3)).astype(np.int16)
    save(tmp_path / "in" / "b.nii.gz", series)
    (tmp_path / "in" / "c.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    with pytest.raises(ImageError, match="cannot be handed over: it is 4-D"):
        export_monai([tmp_path / "in"], out=tmp_path / "out")
    export_monai([tmp_path / "in"], out=tmp_path / "out", channel=2, volume=1, exclude=["c.*"])
    images = tmp_path / "out" / "images"
    first, second = (nibabel.load(images / f"real_000{n}.nii.gz") for n in (1, 2))
    np.testing.assert_array_equal(first.get_fdata()[..., 0].T, colour[..., 2])
    np.testing.assert_array_equal(second.get_fdata(), series[..., 1])


def test_the_seed_draws_the_folds(folder: Path, tmp_path: Path):
    validating = set()
    for seed in range(6):
        made = export_monai(
            [folder / "fake"], out=tmp_path / str(seed), patient="folder:1", seed=seed
        )
        (entry,) = json.loads(made.datalist.read_text())["validation"]
        validating.add(entry["patient"])
    assert len(validating) > 1


# The commands


def test_the_commands_print_what_was_made(folder: Path, tmp_path: Path):
    def call(*words: object) -> Any:
        return CliRunner().invoke(app, [str(word) for word in words])

    out = tmp_path / "Dataset501_X"
    words = ["export", "nnunet", folder / "fake", "--masks", folder / "masks", "--out", out]
    words += ["--class", "edema=1", "--class", "core=4", "--modality", "CTA", "--json"]
    done = call(*words)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["classes"] == {"background": 0, "edema": 1, "core": 2}
    assert json.loads((out / "dataset.json").read_text())["channel_names"] == {"0": "CTA"}
    assert "exists" in call(*words).stderr
    assert call(*words, "--overwrite", "--class", "x").exit_code == 2
    assert call("export", "nnunet", folder / "fake", "--out", out, "--overwrite").exit_code == 2
    words = ["export", "monai", folder / "fake", "--out", tmp_path / "monai", "--seed", 3]
    done = call(*words)
    assert "validation: 1 synthetic." in done.stdout
    assert (
        call("export", "monai", folder / "fake", "--out", tmp_path / "m", "--file", "f").exit_code
        == 2
    )


def test_real_images_of_another_modality_are_refused(folder: Path, tmp_path: Path):
    write_series(tmp_path / "mr" / "a", tissue(4), patient="a", Modality="MR")
    with pytest.raises(UsageError, match="of the DICOM modality MR"):
        export_monai([folder / "fake", tmp_path / "mr"], out=tmp_path / "out")
