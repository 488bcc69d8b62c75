"""Layouts: small trees in exactly the layouts in which the public sets are published.

The functions ``write_...`` build them and return which files a layout takes, with the patient and
the age (None: unknown) of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from conftest import Array, noise, save_dicom, save_raster, save_tiff
from medxlate.base.errors import DataError, UsageError
from medxlate.dataset.annotate import Annotator
from medxlate.dataset.layouts import LAYOUTS, apply_layout
from medxlate.dataset.options import PrepareOptions
from medxlate.images.find import find_images
from medxlate.images.scan import Scan

Expected = dict[str, tuple[str, float | None]]
SIDE, SLICES = 16, 3
PET_STORAGE = "1.2.840.10008.5.1.4.1.1.128"


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def hu(*shape: int, seed: int) -> Array:
    """Values such as a head CT holds, int16."""
    return np.random.default_rng(seed).integers(-1000, 1500, shape, dtype=np.int16)


def save_nifti(path: Path, volume: Array) -> Path:
    """Write a volume [i, j, k] of 1 x 1 x 5 mm voxels with nibabel alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([-1.0, -1.0, 5.0, 1.0])), path)
    return path


# --- the trees -------------------------------------------------------------------------------


def write_lgg(root: Path) -> Expected:
    """The archive of Kaggle: the folder kaggle_3m, and once more below another folder."""
    expected: Expected = {}
    cases = {
        "TCGA_AA_0001_19960909": 67,
        "TCGA_AA_0002_19950405": 48,
        "TCGA_BB_A00A_20000127": None,
    }
    for folder in ("kaggle_3m", "lgg-mri-segmentation/kaggle_3m"):
        table = "Patient,gender,age_at_initial_pathologic,death01\n"
        for number, (case, age) in enumerate(cases.items()):
            table += f"{case[:12]},1,{'' if age is None else age},0\n"
            for slice_ in (1, 2):
                name = f"{folder}/{case}/{case}_{slice_}"
                pixels = noise(SIDE, SIDE, 3, seed=2 * number + slice_)
                save_tiff(root / f"{name}.tif", pixels, photometric="rgb")
                save_tiff(root / f"{name}_mask.tif", pixels[..., 0])
                if folder == "kaggle_3m":
                    expected[f"{name}.tif"] = case[:12], age
        write_text(root / folder / "data.csv", table)
    return expected


def write_ct_ich_jpeg(root: Path) -> Expected:
    """PhysioNet ct-ich 1.0.0: slices as JPEG, one line of the header broken within a name."""
    ages = {49: 31.0, 50: 0.5833, 101: 64.0}
    table = (
        'Patient Number,"Age\n(years)",Gender,Intraventricular,Intraparenchymal,Subarachnoid,'
        "Epidural,Subdural,Fracture (Yes/No),Condition on file,Note\n"
        '49,31,Male,,1,,1,,1,Intracranial HGE ,"Special case, later than the others"\n'
        "50,0.5833,Female,,,,,,,Normal CT,\n"
        "100,8,Male,,,,,,,Normal CT,\n"
        "101,64,Male,,,,,1,,Subdural HGE ,\n"
    )
    write_text(root / "patient_demographics.csv", table)
    labels = "PatientNumber,SliceNumber,Intraventricular,No_Hemorrhage\n49,1,0,0\n"
    write_text(root / "hemorrhage_diagnosis.csv", labels)
    expected: Expected = {}
    for number, age in ages.items():
        for slice_ in (1, 2, 10):
            name = f"Patients_CT/{number:03d}/brain/{slice_}.jpg"
            save_raster(root / name, noise(SIDE, SIDE, seed=number + slice_))
            save_raster(root / name.replace("brain", "bone"), noise(SIDE, SIDE, seed=slice_))
            expected[name] = str(number), age
        mask = np.zeros((SIDE, SIDE), np.uint8)
        save_raster(root / f"Patients_CT/{number:03d}/brain/2_HGE_Seg.jpg", mask)
    return expected


def write_ct_ich_nifti(root: Path) -> Expected:
    """PhysioNet ct-ich 1.3.1: volumes in HU, the table with a header of two rows."""
    ages = {49: 31.0, 58: 0.5833, 130: 64.0}
    table = (
        'Patient Number,"Age\n(years)",Gender,Hemorrhage type based on the radiologists diagnosis '
        ",,,,,Fracture (yes 1/no 0),Note1\n"
        ",,,Intraventricular,Intraparenchymal,Subarachnoid,Epidural,Subdural,,\n"
        "49,31,Male,,1,,1,,1,\n"
        "58,0.5833,Female,,,,,,,\n"
        "59,6,Female,,,,,,,\n"  # 59 to 65 are in the table and have no scan
        "130,64,Male,,,,,1,,\n"
    )
    write_text(root / "Patient_demographics.csv", table)
    labels = "PatientNumber,SliceNumber,Intraventricular,No_Hemorrhage\n49,1,0,0\n"
    write_text(root / "hemorrhage_diagnosis_raw_ct.csv", labels)
    expected: Expected = {}
    for number, age in ages.items():
        name = f"ct_scans/{number:03d}.nii"
        save_nifti(root / name, hu(SIDE, SIDE, SLICES, seed=number))
        save_nifti(root / f"masks/{number:03d}.nii", np.zeros((SIDE, SIDE, SLICES), np.uint8))
        expected[name] = str(number), age
    return expected


def write_head_neck(root: Path) -> dict[str, Expected]:
    """TCIA Head-Neck-PET-CT; returns what is taken as ct and what as pet."""
    expected: dict[str, Expected] = {"ct": {}, "pet": {}}
    patients = {
        "HN-CHUM-001": ("063Y", 63.0),
        "HN-HGJ-002": ("071Y", 71.0),
        "HN-HMR-003": ("", None),
    }
    for number, (patient, (age, years)) in enumerate(patients.items()):
        study = f"Head-Neck-PET-CT/{patient}/08-27-1885-TEP-TDM tete et cou-0044{number}"
        person: dict[str, Any] = {"PatientID": patient, "PatientAge": age}
        series = {
            "ct": ("3.000000-StandardFull-CT", {"Modality": "CT"}),
            "pet": ("4.000000-LOR-RAMLA-PET", pet_attributes()),
        }
        for modality, (folder, attributes) in series.items():
            for name in write_series(root, f"{study}/{folder}", number, {**person, **attributes}):
                expected[modality][name] = patient, years
        contours = root / study / "1.000000-RTstructCTsim-CTPET-CT-45294" / "1-1.dcm"
        save_contours(contours, person)
    write_text(root / "Head-Neck-PET-CT/LICENSE", "TCIA")
    return expected


def pet_attributes() -> dict[str, Any]:
    """What SUVbw is computed from (PS3.3 C.8.9), with a dose that decayed for one hour."""
    tracer = Dataset()
    tracer.RadionuclideTotalDose = "370000000"
    tracer.RadionuclideHalfLife = "6586.2"
    tracer.RadiopharmaceuticalStartTime = "090000"
    return {
        "SOPClassUID": PET_STORAGE,
        "Modality": "PT",
        "Units": "BQML",
        "DecayCorrection": "START",
        "CorrectedImage": ["ATTN", "DECY"],
        "PatientWeight": "70",
        "SeriesDate": "18850827",
        "SeriesTime": "100000",
        "AcquisitionDate": "18850827",
        "AcquisitionTime": "100000",
        "RescaleSlope": "2",
        "RescaleIntercept": "0",
        "RadiopharmaceuticalInformationSequence": DicomSequence([tracer]),
    }


def write_series(root: Path, folder: str, seed: int, attributes: dict[str, Any]) -> list[str]:
    """Write an axial series of three slices; returns the relative paths."""
    uid = generate_uid(entropy_srcs=[folder])
    names = [f"{folder}/1-{number}.dcm" for number in range(1, SLICES + 1)]
    for number, name in enumerate(names):
        save_dicom(
            root / name,
            noise(SIDE, SIDE, seed=10 * seed + number, dtype=np.uint16) // 32,
            SeriesInstanceUID=uid,
            InstanceNumber=number + 1,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            ImagePositionPatient=[0, 0, 3.0 * number],
            PixelSpacing=[1, 1],
            **attributes,
        )
    return names


def save_contours(path: Path, attributes: dict[str, Any]) -> None:
    """Write an RTSTRUCT: DICOM without an image."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = Dataset()
    header.file_meta = meta
    header.SOPClassUID = RTStructureSetStorage
    header.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    header.Modality = "RTSTRUCT"
    for keyword, value in attributes.items():
        setattr(header, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, header, enforce_file_format=True)


def write_bids(root: Path) -> Expected:
    """A BIDS data set: a subject without sessions, one with two, one whose age is not known."""
    write_text(root / "dataset_description.json", '{"Name": "t", "BIDSVersion": "1.10.0"}')
    people = "participant_id\tage\tsex\nsub-01\t34\tM\nsub-02\t61\tF\nsub-03\tn/a\tF\n"
    write_text(root / "participants.tsv", people)
    write_text(root / "participants.json", '{"age": {"Description": "age", "Units": "year"}}')
    write_text(root / "sub-02/sub-02_sessions.tsv", "session_id\tage\nses-b\t63.5\n")
    expected: Expected = {
        "sub-01/anat/sub-01_T1w.nii.gz": ("sub-01", 34.0),
        "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz": ("sub-02", 61.0),
        "sub-02/ses-b/anat/sub-02_ses-b_run-1_T1w.nii": ("sub-02", 63.5),
        "sub-03/anat/sub-03_T1w.nii.gz": ("sub-03", None),
    }
    others = (
        "sub-01/anat/sub-01_T2w.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_part-phase_T1w.nii.gz",
        "sub-02/ses-a/func/sub-02_ses-a_task-rest_bold.nii.gz",
        "derivatives/fmriprep/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
        "derivatives/fmriprep/sub-01/anat/sub-01_desc-preproc_T2w.nii.gz",
        "sourcedata/sub-01/anat/sub-01_T1w.nii.gz",
        "sourcedata/sub-01/anat/sub-01_T2w.nii.gz",
    )
    for number, name in enumerate((*expected, *others)):
        volume = noise(SIDE, SIDE, SLICES, seed=number, dtype=np.int16)
        save_nifti(root / name, np.abs(volume.astype(np.int32)).clip(0, 32767).astype(np.int16))
        write_text(root / f"{name.split('.')[0]}.json", '{"MagneticFieldStrength": 3}')
    return expected


# --- what a layout takes ---------------------------------------------------------------------


def taken(options: PrepareOptions, root: Path) -> Expected:
    """Find and annotate as prepare does; an age that is missing is None."""
    search = find_images(root, include=options.include, exclude=options.exclude)
    annotator = Annotator(options, [Scan(i.relative, i.format, (i,)) for i in search.images])
    found: Expected = {}
    reasons: set[str] = set()
    for image in search.images:
        tags: dict[str, str] = {}
        if image.format == "dicom":
            header = pydicom.dcmread(image.path, stop_before_pixels=True)
            if header.Modality != options.dicom_modality:
                continue
            tags = {tag: str(header.get(tag, "")) for tag in annotator.tags}
        try:
            annotation = annotator.annotate(image.relative, tags)
            assert isinstance(annotation.label, float)
            found[image.relative] = annotation.patient, annotation.label
        except DataError as problem:
            reasons.add(str(problem))
            found[image.relative] = "", None
    assert reasons <= {"the label is missing"}
    return found


def known(expected: Expected) -> Expected:
    """The patient of an image without age is not looked at."""
    return {name: (who if age is not None else "", age) for name, (who, age) in expected.items()}


def below(folder: str, expected: Expected) -> Expected:
    """The same files as seen from that folder."""
    return {name.removeprefix(folder + "/"): value for name, value in expected.items()}


def test_lgg_takes_each_slice_once_without_its_mask(tmp_path):
    expected = write_lgg(tmp_path)
    options = apply_layout("lgg-mri", "mri", tmp_path, PrepareOptions())
    assert taken(options, tmp_path) == known(expected)
    assert (options.channel, options.recipe) == (1, "as-is")
    inside = tmp_path / "kaggle_3m"
    options = apply_layout("lgg-mri", "mri", inside, PrepareOptions())
    assert taken(options, inside) == known(below("kaggle_3m", expected))


@pytest.mark.parametrize("folder", ["", "Patients_CT"])
@pytest.mark.parametrize("above", ["", "[downloads] 1.0.0"])
def test_ct_ich_jpeg_takes_the_brain_window_without_masks(tmp_path, folder, above):
    expected = write_ct_ich_jpeg(tmp_path / above)
    root = tmp_path / above / folder if folder else tmp_path
    seen = (
        below(folder, expected)
        if folder
        else {f"{above}/{name}".lstrip("/"): value for name, value in expected.items()}
    )
    options = apply_layout("ct-ich", "ct", root, PrepareOptions())
    assert taken(options, root) == seen
    assert (options.recipe, options.window) == ("as-is", None)
    assert (options.task_name, options.task_unit) == ("age", "years")


@pytest.mark.parametrize("folder", ["", "ct_scans"])
def test_ct_ich_nifti_takes_volumes_in_the_brain_window_without_masks(tmp_path, folder):
    expected = write_ct_ich_nifti(tmp_path)
    root = tmp_path / folder
    options = apply_layout("ct-ich", "ct", root, PrepareOptions())
    assert taken(options, root) == (below(folder, expected) if folder else expected)
    assert (options.recipe, options.window) == ("ct", "brain")


def test_ct_ich_prefers_the_volumes_unless_pointed_at_the_jpegs(tmp_path):
    pictures, volumes = (
        write_ct_ich_jpeg(tmp_path / "v1.0.0"),
        write_ct_ich_nifti(tmp_path / "v1.3.1"),
    )
    options = apply_layout("ct-ich", "ct", tmp_path, PrepareOptions())
    assert taken(options, tmp_path) == {f"v1.3.1/{name}": it for name, it in volumes.items()}
    root = tmp_path / "v1.0.0" / "Patients_CT"
    options = apply_layout("ct-ich", "ct", root, PrepareOptions())
    assert taken(options, root) == below("Patients_CT", pictures)


def test_ct_ich_finds_its_columns_when_the_line_break_was_lost(tmp_path):
    expected = write_ct_ich_jpeg(tmp_path)
    table = tmp_path / "patient_demographics.csv"
    write_text(table, table.read_text().replace("Age\n(years)", "Age(years)"))
    options = apply_layout("ct-ich", "ct", tmp_path, PrepareOptions())
    assert taken(options, tmp_path) == expected


def test_ct_ich_can_be_read_in_its_bone_window(tmp_path):
    expected = write_ct_ich_jpeg(tmp_path)
    options = PrepareOptions(include=("**/bone/*.jpg",))
    options = apply_layout("ct-ich", "ct", tmp_path, options)
    bone = {name.replace("brain", "bone"): value for name, value in expected.items()}
    assert taken(options, tmp_path) == bone


def test_ct_ich_leaves_masks_out_whatever_else_is_included(tmp_path):
    expected = write_ct_ich_nifti(tmp_path)
    options = apply_layout("ct-ich", "ct", tmp_path, PrepareOptions(include=("*.nii",)))
    assert taken(options, tmp_path) == expected


@pytest.mark.parametrize(("modality", "tag"), [("ct", "CT"), ("pet", "PT")])
@pytest.mark.parametrize("folder", ["", "Head-Neck-PET-CT", "Head-Neck-PET-CT/HN-CHUM-001"])
def test_head_neck_takes_the_series_of_the_modality(tmp_path, modality, tag, folder):
    expected = write_head_neck(tmp_path)[modality]
    root = tmp_path / folder
    options = apply_layout("head-neck-pet-ct", modality, root, PrepareOptions())
    inside = {name: it for name, it in expected.items() if name.startswith(folder)}
    assert taken(options, root) == known(below(folder, inside) if folder else inside)
    assert (options.dicom_modality, options.recipe) == (tag, modality)
    assert (options.task_name, options.task_unit) == ("age", "years")


def test_bids_takes_the_anatomy_of_subjects_with_the_age_of_the_session(tmp_path):
    expected = write_bids(tmp_path)
    options = apply_layout("bids", "t1", tmp_path, PrepareOptions())
    assert taken(options, tmp_path) == known(expected)
    assert (options.recipe, options.task_name, options.task_unit) == ("mr", "age", "years")


@pytest.mark.parametrize(
    ("pattern", "name", "recipe"),
    [
        ("*_T2w.nii.gz", "sub-01/anat/sub-01_T2w.nii.gz", "mr"),
        (
            "sub-*/**/func/*_bold.nii.gz",
            "sub-02/ses-a/func/sub-02_ses-a_task-rest_bold.nii.gz",
            "auto",
        ),
    ],
)
def test_bids_takes_other_images_where_asked(tmp_path, pattern, name, recipe):
    write_bids(tmp_path)
    options = apply_layout("bids", "mri", tmp_path, PrepareOptions(include=(pattern,)))
    assert set(taken(options, tmp_path)) == {name}
    assert options.recipe == recipe


@pytest.mark.parametrize(
    ("units", "unit"),
    [('"Units": "weeks"', "weeks"), ('"Units": "years"', "years"), ('"Levels": {}', "years")],
)
def test_bids_ages_have_the_unit_that_their_description_says(tmp_path, units, unit):
    write_bids(tmp_path)
    write_text(tmp_path / "participants.json", f'{{"age": {{{units}}}}}')
    assert apply_layout("bids", "t1", tmp_path, PrepareOptions()).task_unit == unit
    own = PrepareOptions(unit="days")
    assert apply_layout("bids", "t1", tmp_path, own).task_unit == "days"


def test_bids_without_ages_of_participants_takes_those_of_sessions(tmp_path):
    write_bids(tmp_path)
    write_text(tmp_path / "participants.tsv", "participant_id\tsex\nsub-01\tM\nsub-02\tF\n")
    write_text(tmp_path / "sessions.json", '{"age": {"Units": "weeks"}}')
    write_text(tmp_path / "participants.json", "no JSON")
    options = apply_layout("bids", "t1", tmp_path, PrepareOptions())
    assert options.task_unit == "weeks"
    options = replace(options, include=("sub-02/**/*_T1w.nii*",))
    assert taken(options, tmp_path) == {
        "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz": ("", None),
        "sub-02/ses-b/anat/sub-02_ses-b_run-1_T1w.nii": ("sub-02", 63.5),
    }


# --- what the user said wins -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "write", "modality"),
    [
        ("lgg-mri", write_lgg, "mri"),
        ("ct-ich", write_ct_ich_jpeg, "ct"),
        ("ct-ich", write_ct_ich_nifti, "ct"),
        ("head-neck-pet-ct", write_head_neck, "pet"),
        ("bids", write_bids, "t1"),
    ],
)
def test_what_was_chosen_stays(tmp_path, name, write, modality):
    write(tmp_path)
    own = PrepareOptions(
        label="column:sex",
        labels=tmp_path / "own.csv",
        patient="folder:1",
        patient_column="who",
        sessions=tmp_path / "elsewhere",
        task="classification",
        unit="x",
        include=("*.x",),
        exclude=("y*",),
        dicom_modality="MR",
        channel=0,
        recipe="xray",
        window=(1, 2),
        volume_from="folder:1",
    )
    options = apply_layout(name, modality, tmp_path, own)
    assert "y*" in options.exclude
    assert replace(options, exclude=("y*",)) == own


@pytest.mark.parametrize(("recipe", "window"), [("ct", "bone"), ("as-is", None)])
def test_a_window_goes_with_the_recipe_ct_alone(tmp_path, recipe, window):
    write_ct_ich_nifti(tmp_path)
    own = PrepareOptions(recipe=recipe, window=window)
    options = apply_layout("ct-ich", "ct", tmp_path, own)
    assert (options.recipe, options.window) == (recipe, window)


# --- what is not there -----------------------------------------------------------------------


def test_an_unknown_layout_names_the_nearest(tmp_path):
    with pytest.raises(UsageError, match=r"Unknown layout 'lgg'.*'lgg-mri'"):
        apply_layout("lgg", "mri", tmp_path, PrepareOptions())


@pytest.mark.parametrize("modality", ["mri", "pt", "ct2"])
def test_head_neck_has_no_other_modality(tmp_path, modality):
    write_head_neck(tmp_path)
    with pytest.raises(UsageError, match=rf"no modality '{modality}'.*ct or --modality pet"):
        apply_layout("head-neck-pet-ct", modality, tmp_path, PrepareOptions())


MISSING: Sequence[tuple[str, str]] = [
    ("lgg-mri", r"found no data\.csv in .*kaggle_3m"),
    ("ct-ich", r"neither ct_scans nor Patients_CT in .*unpacked"),
    ("head-neck-pet-ct", r"no patient folder \(HN-CHUM-001\.\.\.\) in .*Head-Neck-PET-CT"),
    ("bids", r"no participants\.tsv in .*root"),
]


def test_every_layout_says_what_it_misses_in_a_folder_of_another_layout(tmp_path):
    assert {name for name, _ in MISSING} == set(LAYOUTS)
    for name, reason in MISSING:
        with pytest.raises(DataError, match=reason) as caught:
            apply_layout(name, "ct", tmp_path, PrepareOptions())
        assert str(tmp_path) in caught.value.message


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (None, r"no patient_demographics\.csv next to .*--labels"),
        ("Number,Age\n49,3\n", r"no column 'Age \(years\)' in .*--label"),
        ("Number,Age (years)\n49,3\n", r"no column 'Patient Number' in .*--patient-column"),
    ],
)
def test_ct_ich_says_what_its_table_lacks(tmp_path, table, reason):
    write_ct_ich_jpeg(tmp_path)
    path = tmp_path / "patient_demographics.csv"
    path.unlink()
    if table is not None:
        write_text(path, table)
    with pytest.raises(DataError, match=reason):
        apply_layout("ct-ich", "ct", tmp_path, PrepareOptions())
