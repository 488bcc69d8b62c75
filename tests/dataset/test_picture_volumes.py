"""Pictures that are the slices of one volume: ``prepare --volume-from``."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import noise, save_raster
from medxlate.base.errors import UsageError
from medxlate.dataset.options import PrepareOptions
from preparing import SIZE, run, slices, tissue, write_series, write_table

# Two stacks of Ann, one of Bob; the second slice of Ann's first stack is black, and left out.
STACKS = {"ann/t1": ("Ann", 11), "ann/t2": ("Ann", 3), "bob/t1": ("Bob", 3)}
BLACK = "ann/t1/cut_2.png"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Slices as pictures: a folder a patient, in it a folder a stack."""
    rows, folder = [], tmp_path / "raw"
    for stack, (patient, count) in STACKS.items():
        for number in range(1, count + 1):
            name = f"{stack}/cut_{number}.png"
            pixels = noise(40, 40, seed=len(rows))
            save_raster(folder / name, np.zeros_like(pixels) if name == BLACK else pixels)
            rows.append((name, "60", patient))
    write_table(folder / "t.csv", rows)
    return folder


def stacks(data: Path) -> dict[str, list[str]]:
    """Return the files of each volume in the order of their positions, by its first file."""
    found = defaultdict(list)
    for row in slices(data).sort_values(["series", "position"]).itertuples():
        found[row.series].append(str(row.file))
    return {files[0]: files for files in found.values()}


def taken(stack: str) -> list[str]:
    names = [f"{stack}/cut_{number}.png" for number in range(1, STACKS[stack][1] + 1)]
    return [name for name in names if name != BLACK]


@pytest.mark.parametrize("said", ["folder", "folder:2", "folder:-1", r"regex:^(\w+/\w+)/cut"])
def test_pictures_of_one_folder_or_name_are_one_volume(raw, tmp_path, said):
    result = run(raw, tmp_path / "data", volume_from=said)
    assert (result.images, result.scans, result.patients) == (16, 3, 2)
    wanted = {f"{stack}/cut_1.png": taken(stack) for stack in STACKS}
    assert stacks(tmp_path / "data") == wanted
    places = slices(tmp_path / "data").set_index("file")["position"]
    for stack in STACKS:  # the black one is missed, not closed up; 10 comes after 9
        numbers = [int(re.findall(r"\d+", name)[-1]) for name in taken(stack)]
        assert places[taken(stack)].tolist() == [number - 1 for number in numbers]
    planned = run(raw, tmp_path / "other", volume_from=said, dry_run=True)
    assert planned.scans == 3


def test_a_volume_may_lie_in_several_folders(raw, tmp_path):
    assert run(raw, tmp_path / "data", volume_from="folder:1").scans == 2
    names = stacks(tmp_path / "data")
    assert set(names) == {"ann/t1/cut_1.png", "bob/t1/cut_1.png"}
    assert names["ann/t1/cut_1.png"] == taken("ann/t1") + taken("ann/t2")


def test_every_picture_stands_for_itself_unless_asked(raw, tmp_path):
    assert run(raw, tmp_path / "data").scans == 16
    assert slices(tmp_path / "data")["position"].eq(0).all()
    some = r"regex:^(ann/t2)"  # what a pattern does not fit stands for itself, too
    assert run(raw, tmp_path / "some", volume_from=some).scans == 1 + 13


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("regex:cut", "images of several patients into one volume"),
        ("folder:3", "matches no path of a PNG"),
        ("regex:^eve", "matches no path of a PNG"),
        ("folder:0", "whole number other than 0"),
        ("regex:(", "not a valid regular expression"),
        ("ann", "must be folder, folder:N or regex:PATTERN"),
        ("file", "must be folder, folder:N or regex:PATTERN"),
    ],
)
def test_what_is_no_volume_is_refused(raw, tmp_path, said, message):
    with pytest.raises(UsageError, match=message):
        run(raw, tmp_path / "data", volume_from=said)
    assert not (tmp_path / "data" / "mri").exists()


@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_a_damaged_picture_leaves_a_gap(raw, tmp_path, damage):
    broken = raw / "bob" / "t1" / "cut_2.png"
    content = {"empty": b"", "text": b"no picture", "cut": broken.read_bytes()[:200]}
    broken.write_bytes(content[damage])
    run(raw, tmp_path / "data", volume_from="folder")
    places = slices(tmp_path / "data").set_index("file")["position"]
    assert places[["bob/t1/cut_1.png", "bob/t1/cut_3.png"]].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("names", "doubtful"),
    [
        (["z-5", "z0", "z5"], True),
        (["c_1", "c_1_mask"], True),
        (["IMG3", "img2"], True),
        (["10²3", "9²3"], False),
        (["s1", "s10", "s2"], False),
    ],
)
def test_names_that_may_not_tell_the_order_are_noted(tmp_path, names, doubtful):
    raw = tmp_path / "raw"
    for number, name in enumerate(names):
        save_raster(raw / "p" / f"{name}.png", noise(40, 40, seed=number))
    rows = [(f"p/{name}.png", "60", "Ann") for name in names]
    write_table(raw / "t.csv", rows)
    result = run(raw, tmp_path / "data", volume_from="folder")
    assert any("check the order" in note for note in result.notes.values()) == doubtful


@pytest.mark.parametrize("asked", [{"n4": True, "recipe": "mr"}, {"plane": "coronal"}])
def test_what_pictures_cannot_have_is_refused(raw, tmp_path, asked):
    with pytest.raises(UsageError, match=f"--{next(iter(asked))} applies only to"):
        run(raw, tmp_path / "data", **asked)


def test_series_know_their_slices_themselves(tmp_path):
    write_series(tmp_path / "raw", tissue(3, side=SIZE), patient="A")
    asked = PrepareOptions(label="PatientAge", volume_from="folder")
    with pytest.raises(UsageError, match="--volume-from applies only to"):
        run(tmp_path / "raw", tmp_path / "data", "ct", options=asked)


def test_a_study_of_the_same_options_finds_its_volumes_again(raw, tmp_path):
    run(raw, tmp_path / "data", volume_from="folder")
    assert run(raw, tmp_path / "data", volume_from="folder").state == "unchanged"
    assert run(raw, tmp_path / "data", volume_from="folder:1", overwrite=True).scans == 2


def test_real_lgg_slices_are_a_volume_a_patient(
    real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    raw = real_data("lgg-mri-native")
    result = run(raw, tmp_path, options=PrepareOptions(), layout="lgg-mri")
    files = [p for p in raw.rglob("*.tif") if "_mask" not in p.name]
    cases = {p.parent.name for p in files}
    assert (result.images, result.scans) == (len(files), len(cases))
    for names in stacks(tmp_path).values():
        assert len({Path(name).parent for name in names}) == 1
        numbers = [int(re.findall(r"\d+", Path(name).stem)[-1]) for name in names]
        assert numbers == sorted(numbers)
