from __future__ import annotations

import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from medxlate.config import SplitConfig
from medxlate.dataset.duplicates import NEAR
from medxlate.dataset.splits import PARTS, Split, check_no_leak, split_patients
from medxlate.errors import DataError


def hash_of(text: str) -> str:
    """A perceptual hash; those of two texts differ in about half of their 512 bits."""
    return hashlib.sha512(text.encode()).hexdigest()


def nearly(perceptual_hash: str, *, bits: int) -> str:
    """The hash with that many bits turned."""
    turned = np.random.default_rng(0).permutation(512)[:bits]
    return f"{int(perceptual_hash, 16) ^ sum(1 << int(bit) for bit in turned):0128x}"


def table(patients, *, per_patient: int = 3, prefix: str = "image") -> pd.DataFrame:
    """A modality in which every image is different."""
    rows = [
        {
            "patient": f"p{patient:03d}",
            "pixel_hash": f"{prefix} {patient} {i}",
            "perceptual_hash": hash_of(f"{prefix} {patient} {i}"),
        }
        for patient in patients
        for i in range(per_patient)
    ]
    return pd.DataFrame(rows)


def mixed() -> dict[str, pd.DataFrame]:
    """100 patients of the source, 40 of the target, 15 of both, with uneven numbers of images."""
    random = np.random.default_rng(1)
    mri = pd.concat(
        [table([i], per_patient=int(random.integers(1, 9)), prefix="m") for i in range(100)],
        ignore_index=True,
    )
    return {"mri": mri, "ct": table(range(85, 125), prefix="c")}


def side(split: Split, patient: str) -> str:
    found = [part for part in PARTS if patient in split.parts[part]]
    assert len(found) == 1
    return found[0]


def sizes(split: Split, patients: set[str]) -> list[int]:
    return [len(patients & set(split.parts[part])) for part in PARTS]


@pytest.mark.parametrize("seed", range(20))
def test_no_patient_and_no_image_is_on_two_sides_for_any_seed(seed):
    slices = mixed()
    split = split_patients(slices, target="ct", config=SplitConfig(seed=seed))
    everyone = {patient for frame in slices.values() for patient in frame["patient"]}
    assert sorted(p for part in PARTS for p in split.parts[part]) == sorted(everyone)
    for frame in slices.values():
        rows = {part: split.rows(frame, part) for part in PARTS}
        assert sorted(row for part in PARTS for row in rows[part]) == list(range(len(frame)))
        for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
            for column in ("patient", "pixel_hash"):
                shared = set(frame[column].iloc[rows[one]]) & set(frame[column].iloc[rows[other]])
                assert not shared
    check_no_leak(split, slices.values())


def test_the_shares_are_those_asked_for_in_the_target_and_in_the_rest():
    slices = mixed()
    split = split_patients(slices, target="ct", config=SplitConfig())
    target = set(slices["ct"]["patient"])
    assert sizes(split, target) == [28, 4, 8]
    assert sizes(split, set(slices["mri"]["patient"]) - target) == [60, 8, 17]
    split = split_patients(slices, target="ct", config=SplitConfig(train=0.5, val=0.25, test=0.25))
    assert sizes(split, target) == [20, 10, 10]


def test_the_seed_alone_decides():
    slices = mixed()
    first, again, other = (
        split_patients(slices, target="ct", config=SplitConfig(seed=seed)) for seed in (3, 3, 4)
    )
    assert first == again
    assert first.parts != other.parts


def test_the_order_of_the_modalities_does_not_matter():
    slices = mixed()
    swapped = dict(reversed(slices.items()))
    config = SplitConfig(seed=3)
    assert split_patients(slices, target="ct", config=config) == split_patients(
        swapped, target="ct", config=config
    )


@pytest.mark.parametrize("seed", range(10))
def test_an_image_filed_under_two_ids_keeps_the_patients_together(seed):
    slices = mixed()
    mri, ct = slices["mri"], slices["ct"]
    one, two = (mri.index[mri["patient"] == patient][0] for patient in ("p001", "p002"))
    mri.loc[two, "pixel_hash"] = mri.loc[one, "pixel_hash"]
    ct.loc[ct["patient"] == "p110", "pixel_hash"] = mri.loc[one, "pixel_hash"]
    split = split_patients(slices, target="ct", config=SplitConfig(seed=seed))
    assert side(split, "p001") == side(split, "p002") == side(split, "p110")
    check_no_leak(split, slices.values())


@pytest.mark.parametrize("seed", range(10))
def test_a_nearly_identical_image_keeps_the_patients_together(seed):
    slices = mixed()
    mri, ct = slices["mri"], slices["ct"]
    shared = mri["perceptual_hash"][mri.index[mri["patient"] == "p001"][0]]
    two = mri.index[mri["patient"] == "p002"][0]
    mri.loc[two, "perceptual_hash"] = nearly(shared, bits=NEAR)
    ct.loc[ct["patient"] == "p110", "perceptual_hash"] = nearly(shared, bits=7)
    split = split_patients(slices, target="ct", config=SplitConfig(seed=seed))
    assert side(split, "p001") == side(split, "p002") == side(split, "p110")
    check_no_leak(split, slices.values())


def test_images_that_are_only_alike_do_not_join_patients():
    slices = {"ct": table(range(3), per_patient=1)}
    ct = slices["ct"]
    ct.loc[1, "perceptual_hash"] = nearly(ct["perceptual_hash"][0], bits=NEAR + 1)
    split = split_patients(slices, target="ct", config=SplitConfig())
    assert [len(split.parts[part]) for part in PARTS] == [1, 1, 1]


def test_a_chain_through_most_patients_is_refused():
    frame = table(range(50))
    for patient in range(25):  # each resembles the next, the first and the last not at all
        one, two = (frame.index[frame["patient"] == f"p{p:03d}"] for p in (patient, patient + 1))
        hashes = frame["perceptual_hash"]
        frame.loc[two[0], "perceptual_hash"] = nearly(hashes[one[1]], bits=20)
    with pytest.raises(DataError, match=r"join 26 of 50 ct patients into one group.*leave those"):
        split_patients({"ct": frame}, target="ct", config=SplitConfig())


def test_a_table_of_an_older_version_must_be_prepared_again():
    frame = table(range(5)).drop(columns="perceptual_hash")
    with pytest.raises(DataError, match=r"no perceptual hashes.*prepare RAW"):
        split_patients({"ct": frame}, target="ct", config=SplitConfig())


def test_a_split_without_enough_patients_is_a_clear_error():
    with pytest.raises(DataError, match=r"no ct patient for .*there are 2 patients.*At least 3"):
        split_patients({"ct": table(range(2))}, target="ct", config=SplitConfig())
    same = table(range(5))
    same["pixel_hash"] = "the same image"
    same["perceptual_hash"] = hash_of("the same image")
    with pytest.raises(DataError, match="5 patients in 1 independent groups"):
        split_patients({"ct": same}, target="ct", config=SplitConfig())


def test_three_patients_are_enough_for_every_part():
    split = split_patients({"ct": table(range(3))}, target="ct", config=SplitConfig())
    assert [len(split.parts[part]) for part in PARTS] == [1, 1, 1]


def planted(**changes: tuple[str, ...]) -> Split:
    parts = {"train": ("p000", "p001"), "val": ("p002",), "test": ("p003",), **changes}
    return Split(parts, 0)


def test_the_guard_accepts_a_clean_split():
    check_no_leak(planted(), [table(range(4)), table(range(3), prefix="other")])


def test_the_guard_names_a_planted_patient():
    with pytest.raises(DataError, match="Patient p001 is in train and in test at once"):
        check_no_leak(planted(test=("p001", "p003")), [table(range(4))])


def test_the_guard_finds_a_planted_image():
    frame = table(range(4))
    frame.loc[frame.index[-1], "pixel_hash"] = frame["pixel_hash"][0]
    with pytest.raises(DataError, match="identical image is in train and in test"):
        check_no_leak(planted(), [frame])


def test_the_guard_finds_an_image_planted_across_modalities():
    source, target = table(range(4)), table([3], prefix="ct")
    target.loc[0, "pixel_hash"] = source["pixel_hash"][0]
    with pytest.raises(DataError, match="identical image"):
        check_no_leak(planted(), [source, target])


@pytest.mark.parametrize("bits", [0, NEAR])
def test_the_guard_finds_a_planted_near_duplicate_across_modalities(bits):
    source, target = table(range(4)), table([3], prefix="ct")
    target.loc[0, "perceptual_hash"] = nearly(source["perceptual_hash"][0], bits=bits)
    with pytest.raises(DataError, match="A nearly identical image is in train and in test"):
        check_no_leak(planted(), [source, target])


def test_the_guard_names_a_patient_who_came_after_the_split():
    with pytest.raises(DataError, match=r"1 patients, such as p004, are not in the split"):
        check_no_leak(planted(), [table(range(5))])


def test_split_json_gives_the_split_back():
    split = split_patients(mixed(), target="ct", config=SplitConfig(seed=5))
    assert Split.from_json(json.loads(json.dumps(split.to_json()))) == split


def move(values):
    values["patients"]["train"].append(values["patients"]["test"].pop())


def copy(values):
    values["patients"]["train"].append(values["patients"]["test"][0])


def drop(values):
    values["patients"]["test"].pop()


def rehash(values):
    values["hash"] = "0" * 64


@pytest.mark.parametrize("tamper", [move, copy, drop, rehash])
def test_split_json_that_was_changed_is_refused(tamper):
    values = split_patients(mixed(), target="ct", config=SplitConfig()).to_json()
    tamper(values)
    with pytest.raises(DataError, match=r"split\.json was changed"):
        Split.from_json(values)


@pytest.mark.parametrize("key", ["patients", "hash", "seed"])
def test_split_json_that_lacks_a_key_is_refused(key):
    values = split_patients(mixed(), target="ct", config=SplitConfig()).to_json()
    del values[key]
    with pytest.raises(DataError, match=r"split\.json is damaged"):
        Split.from_json(values)


def test_real_patients_stay_on_one_side(real_data, tmp_path):
    from medxlate.dataset.index import Dataset
    from medxlate.dataset.options import PrepareOptions
    from medxlate.dataset.prepare import prepare

    prepare(
        real_data("chest-ct"),
        modality="ct",
        data=tmp_path,
        size=32,
        options=PrepareOptions(label="PatientAge"),
    )
    frame = Dataset(tmp_path).modality("ct").slices
    split = split_patients({"ct": frame}, target="ct", config=SplitConfig())
    check_no_leak(split, [frame])
    counts = frame["patient"].value_counts()
    assert counts.max() > 1
    for patient in counts.index:
        rows = [
            part
            for part in PARTS
            if set(split.rows(frame, part)) & set(np.flatnonzero(frame["patient"] == patient))
        ]
        assert rows == [side(split, patient)]


def test_the_split_follows_from_the_files_and_not_from_the_pseudonyms():
    slices = mixed()
    pseudonyms = {f"p{i:03d}": f"x{(i * 37) % 1000:03d}" for i in range(125)}
    renamed = {
        name: frame.assign(patient=frame["patient"].map(pseudonyms))
        for name, frame in slices.items()
    }
    one = split_patients(slices, target="ct", config=SplitConfig(seed=4))
    other = split_patients(renamed, target="ct", config=SplitConfig(seed=4))
    for part in PARTS:
        assert {pseudonyms[patient] for patient in one.parts[part]} == set(other.parts[part])


def test_the_targets_parts_do_not_depend_on_the_sources():
    slices = mixed()
    with_mri = split_patients(slices, target="ct", config=SplitConfig(seed=4))
    alone = split_patients({"ct": slices["ct"]}, target="ct", config=SplitConfig(seed=4))
    for part in PARTS:
        assert with_mri.rows(slices["ct"], part) == alone.rows(slices["ct"], part)
