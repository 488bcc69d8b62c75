from __future__ import annotations

import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from medxlate.base.errors import DataError
from medxlate.config import SplitConfig
from medxlate.dataset.division import draw_split, split_patients, split_slices
from medxlate.dataset.duplicates import NEAR
from medxlate.dataset.leaks import check_no_leak, check_part
from medxlate.dataset.splits import PARTS, Split, read_split, training_share


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
    return numbered(pd.DataFrame(rows))


def numbered(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with the slice_id that prepare gives: unique within a modality only."""
    return frame.assign(slice_id=[f"{row:06d}" for row in range(len(frame))])


def mixed() -> dict[str, pd.DataFrame]:
    """100 patients of the source, 40 of the target, 15 of both, with uneven numbers of images."""
    random = np.random.default_rng(1)
    mri = pd.concat(
        [table([i], per_patient=int(random.integers(1, 9)), prefix="m") for i in range(100)],
        ignore_index=True,
    )
    return {"mri": numbered(mri), "ct": table(range(85, 125), prefix="c")}


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
    for name, frame in slices.items():
        rows = {part: split.rows(name, frame, part) for part in PARTS}
        assert sorted(row for part in PARTS for row in rows[part]) == list(range(len(frame)))
        for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
            for column in ("patient", "pixel_hash"):
                shared = set(frame[column].iloc[rows[one]]) & set(frame[column].iloc[rows[other]])
                assert not shared
    check_no_leak(split, slices)


def test_the_shares_are_those_asked_for_in_the_target_and_in_the_rest():
    slices = mixed()
    split = split_patients(slices, target="ct", config=SplitConfig())
    target = set(slices["ct"]["patient"])
    assert sizes(split, target) == [28, 4, 8]
    assert sizes(split, set(slices["mri"]["patient"]) - target) == [73, 4, 8]
    split = split_patients(slices, target="ct", config=SplitConfig(train=0.5, val=0.25, test=0.25))
    assert sizes(split, target) == [20, 10, 10]
    assert sizes(split, set(slices["mri"]["patient"]) - target) == [73, 4, 8]


def test_sources_are_divided_like_the_target_where_that_is_asked_for():
    slices = mixed()
    target = set(slices["ct"]["patient"])
    whole = split_patients(slices, target="ct", config=SplitConfig())
    split = split_patients(slices, target="ct", config=SplitConfig(sources="divided"))
    assert sizes(split, set(slices["mri"]["patient"]) - target) == [60, 8, 17]
    for part in PARTS:  # the target's parts do not hang on it
        assert target & set(split.parts[part]) == target & set(whole.parts[part])


@pytest.mark.parametrize("seed", range(5))
def test_no_test_share_of_the_target_costs_a_source_patient(seed):
    """Of 85 patients without target image, all train but those who share an image with a test."""
    slices = mixed()
    target = set(slices["ct"]["patient"])
    config = SplitConfig(train=0.1, val=0.1, test=0.8, seed=seed, source_val=0, source_test=0)
    split = split_patients(slices, target="ct", config=config)
    held = set(split.parts["val"]) | set(split.parts["test"])
    assert held <= target
    assert held & set(slices["mri"]["patient"])  # those of both go with their target images
    ct, mri = slices["ct"], slices["mri"]
    tested = next(p for p in split.parts["test"] if p in target)
    shared = ct["pixel_hash"][ct["patient"] == tested].iloc[0]
    mri.loc[mri["patient"] == "p001", "pixel_hash"] = shared
    split = split_patients(slices, target="ct", config=config)
    assert side(split, "p001") == side(split, tested)
    check_no_leak(split, slices)


@pytest.mark.parametrize("seed", range(5))
def test_numbers_of_patients_are_met_exactly_though_some_stay_together(seed):
    slices = mixed()
    ct = slices["ct"]
    for one, other in (("p110", "p111"), ("p111", "p112"), ("p100", "p101")):
        first = ct.index[ct["patient"] == one][0]
        second = ct.index[ct["patient"] == other][-1]
        ct.loc[second, "pixel_hash"] = ct.loc[first, "pixel_hash"]
    config = SplitConfig(test_patients=17, val_patients=3, seed=seed)
    split = split_patients(slices, target="ct", config=config)
    assert sizes(split, set(ct["patient"])) == [20, 3, 17]
    check_no_leak(split, slices)
    config = SplitConfig(test_patients=17, seed=seed)  # validation by its share, a tenth of 40
    assert sizes(split_patients(slices, target="ct", config=config), set(ct["patient"]))[1:] == [
        4,
        17,
    ]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"test_patients": 41}, "test should have 41 ct patients .* of 40"),
        ({"test_patients": 38, "val_patients": 3}, "val should have 3 ct patients"),
        ({"test_patients": 37, "val_patients": 3}, "no ct patient for train"),
    ],
)
def test_more_patients_than_there_are_is_a_clear_error(numbers, said):
    with pytest.raises(DataError, match=said):
        split_patients(mixed(), target="ct", config=SplitConfig(**numbers))


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
    check_no_leak(split, slices)


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
    check_no_leak(split, slices)


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
    with pytest.raises(DataError, match=r"link 26 of 50 ct patients into one group.*Leave out"):
        split_patients({"ct": frame}, target="ct", config=SplitConfig())


def test_a_table_of_an_older_version_must_be_prepared_again():
    frame = table(range(5)).drop(columns="perceptual_hash")
    with pytest.raises(DataError, match=r"no perceptual hashes.*prepare RAW"):
        split_patients({"ct": frame}, target="ct", config=SplitConfig())


def test_a_split_without_enough_patients_is_a_clear_error():
    with pytest.raises(
        DataError, match=r"no ct patient for .*there are only 2 patients.*at least 3"
    ):
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
    check_no_leak(planted(), {"mri": table(range(4)), "ct": table(range(3), prefix="other")})


def test_the_guard_names_a_planted_patient():
    with pytest.raises(DataError, match="Patient p001 is in both train and test"):
        check_no_leak(planted(test=("p001", "p003")), {"ct": table(range(4))})


def test_the_guard_finds_a_planted_image():
    frame = table(range(4))
    frame.loc[frame.index[-1], "pixel_hash"] = frame["pixel_hash"][0]
    with pytest.raises(DataError, match="identical image is in both train and test"):
        check_no_leak(planted(), {"ct": frame})


def test_the_guard_finds_an_image_planted_across_modalities():
    source, target = table(range(4)), table([3], prefix="ct")
    target.loc[0, "pixel_hash"] = source["pixel_hash"][0]
    with pytest.raises(DataError, match="identical image"):
        check_no_leak(planted(), {"mri": source, "ct": target})


@pytest.mark.parametrize("bits", [0, NEAR])
def test_the_guard_finds_a_planted_near_duplicate_across_modalities(bits):
    source, target = table(range(4)), table([3], prefix="ct")
    target.loc[0, "perceptual_hash"] = nearly(source["perceptual_hash"][0], bits=bits)
    with pytest.raises(DataError, match="A nearly identical image is in both train and test"):
        check_no_leak(planted(), {"mri": source, "ct": target})


def test_the_guard_names_a_patient_who_came_after_the_split():
    with pytest.raises(DataError, match=r"1 patients, such as p004, are not in the split"):
        check_no_leak(planted(), {"ct": table(range(5))})


POLICIES = {"patient": "patients", "image": "images"}  # and the key in split.json


def drawn(policy: str, *, seed: int = 0) -> Split:
    return draw_split(mixed(), target="ct", config=SplitConfig(policy=policy, seed=seed))


@pytest.mark.parametrize("policy", POLICIES)
def test_split_json_gives_the_split_back(policy):
    split = drawn(policy, seed=5)
    assert Split.from_json(json.loads(json.dumps(split.to_json()))) == split
    assert split.policy == policy


def test_split_json_of_patients_is_what_earlier_versions_wrote():
    parts = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    text = '{"train":["a","b"],"val":["c"],"test":["d"]}'
    values = {"policy": "patient", "seed": 3, "patients": parts}
    values["hash"] = hashlib.sha256(text.encode()).hexdigest()
    split = Split({part: tuple(parts[part]) for part in PARTS}, 3)
    assert split.to_json() == values
    assert Split.from_json(values) == split


def move(values, key):
    values[key]["train"].append(values[key]["test"].pop())


def copy(values, key):
    values[key]["train"].append(values[key]["test"][0])


def drop(values, key):
    values[key]["test"].pop()


def rehash(values, key):
    values["hash"] = "0" * 64


def relabel(values, key):
    """Pass slices off as patients, and the reverse."""
    values["policy"] = next(policy for policy in POLICIES if POLICIES[policy] != key)
    values[POLICIES[values["policy"]]] = values.pop(key)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("tamper", [move, copy, drop, rehash, relabel])
def test_split_json_that_was_changed_is_refused(tamper, policy):
    values = drawn(policy).to_json()
    tamper(values, POLICIES[policy])
    with pytest.raises(DataError, match=r"split\.json was changed"):
        Split.from_json(values)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("key", ["units", "hash", "seed", "policy"])
def test_split_json_that_lacks_a_key_is_refused(key, policy):
    values = drawn(policy).to_json()
    del values[POLICIES[policy] if key == "units" else key]
    with pytest.raises(DataError, match=r"split\.json is damaged"):
        Split.from_json(values)


@pytest.mark.parametrize("policy", ["other", None, ["patient"]])
def test_split_json_of_an_unknown_policy_is_refused(policy):
    with pytest.raises(DataError, match=r"split\.json is damaged"):
        Split.from_json({**drawn("patient").to_json(), "policy": policy})


@pytest.mark.parametrize("policy", POLICIES)
def test_a_file_gives_the_policy_back_and_notices_a_changed_dataset(tmp_path, policy):
    class Fixed:
        def __init__(self, print_: str) -> None:
            self.print = print_

        def fingerprint(self) -> str:
            return self.print

    path = tmp_path / "split.json"
    path.write_text(json.dumps({**drawn(policy).to_json(), "slices": {"ct": "one"}}))
    assert read_split(path, {"ct": Fixed("one")}) == drawn(policy)
    with pytest.raises(DataError, match="ct was prepared again"):
        read_split(path, {"ct": Fixed("other")})


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
    check_no_leak(split, {"ct": frame})
    counts = frame["patient"].value_counts()
    assert counts.max() > 1
    for patient in counts.index:
        rows = [
            part
            for part in PARTS
            if set(split.rows("ct", frame, part)) & set(np.flatnonzero(frame["patient"] == patient))
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
        assert with_mri.rows("ct", slices["ct"], part) == alone.rows("ct", slices["ct"], part)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("patients", [3, 4, 7])
def test_a_split_needs_three_patients_whatever_the_seed(seed, patients):
    config = SplitConfig(seed=seed)
    split = split_patients({"ct": table(range(patients))}, target="ct", config=config)
    assert all(split.parts[part] for part in PARTS)
    slices = {"ct": table(range(2)), "mri": table(range(50), prefix="m")}
    with pytest.raises(
        DataError, match=r"no ct patient for .*there are only 2 patients in 2 indep"
    ):
        split_patients(slices, target="ct", config=config)


def test_the_policy_chooses_what_is_divided():
    slices = mixed()
    for policy, draw in (("patient", split_patients), ("image", split_slices)):
        config = SplitConfig(policy=policy, seed=2)
        split = draw_split(slices, target="ct", config=config)
        assert split == draw(slices, target="ct", config=config)
        assert split.policy == policy


@pytest.mark.parametrize("seed", range(10))
def test_slices_are_divided_with_the_shares_in_every_modality(seed):
    slices = mixed()
    split = drawn("image", seed=seed)
    for name, frame in slices.items():
        rows = {part: split.rows(name, frame, part) for part in PARTS}
        assert sorted(row for part in PARTS for row in rows[part]) == list(range(len(frame)))
        shares = (0.2, 0.1) if name == "ct" else (0.1, 0.05)
        test, val = (round(share * len(frame)) for share in shares)
        expected = [len(frame) - test - val, val, test]
        assert [len(rows[part]) for part in PARTS] == expected
    check_no_leak(split, slices)


def test_dividing_slices_puts_one_patient_on_both_sides():
    slices = mixed()
    frame = slices["ct"]

    def patients(policy, part):
        return set(frame["patient"].iloc[drawn(policy).rows("ct", frame, part)])

    assert not patients("patient", "train") & patients("patient", "test")
    # 3 slices each: the chance that none of a test slice's 2 neighbours is in training is 9 %.
    both = patients("image", "train") & patients("image", "test")
    assert len(both) > 0.5 * len(patients("image", "test"))


def test_dividing_slices_keeps_identical_images_apart_no_more_than_others():
    frame = table(range(40)).assign(pixel_hash="the same", perceptual_hash=hash_of("the same"))
    config = SplitConfig(policy="image")
    split = draw_split({"ct": frame}, target="ct", config=config)
    assert [len(split.parts[part]) for part in PARTS] == [84, 12, 24]
    check_no_leak(split, {"ct": frame})


def test_a_modalitys_slices_are_divided_alike_whatever_the_others_are():
    slices = mixed()
    config = SplitConfig(policy="image", seed=4)
    both = draw_split(slices, target="ct", config=config)
    swapped = draw_split(dict(reversed(slices.items())), target="ct", config=config)
    alone = draw_split({"ct": slices["ct"]}, target="ct", config=config)
    assert both == swapped
    assert both.parts != drawn("image", seed=5).parts
    for part in PARTS:
        assert both.rows("ct", slices["ct"], part) == alone.rows("ct", slices["ct"], part)


def test_modalities_of_one_size_are_not_divided_in_step():
    slices = {"ct": table(range(40)), "mri": table(range(40), prefix="m")}
    split = draw_split(slices, target="ct", config=SplitConfig(policy="image"))
    assert split.rows("ct", slices["ct"], "test") != split.rows("mri", slices["mri"], "test")


def test_too_few_slices_are_a_clear_error():
    frame = table([0], per_patient=2)
    with pytest.raises(DataError, match=r"no ct slice for .*only 2\. .*at least 3"):
        draw_split({"ct": frame}, target="ct", config=SplitConfig(policy="image"))


def planted_slices(**changes: tuple[str, ...]) -> Split:
    parts = {"train": ("ct/000000", "mri/000000"), "val": ("ct/000001",), "test": ("ct/000002",)}
    return Split({**parts, **changes}, 0, "image")


def test_the_guard_accepts_one_patient_on_both_sides_where_slices_were_divided():
    slices = {"ct": table([0]), "mri": table([0], per_patient=1)}
    check_no_leak(planted_slices(), slices)


def test_the_guard_names_a_planted_slice():
    split = planted_slices(test=("ct/000000", "ct/000002"))
    with pytest.raises(DataError, match="Slice ct/000000 is in both train and test"):
        check_no_leak(split, {"ct": table([0])})


def test_the_guard_names_a_slice_that_came_after_the_split():
    slices = {"ct": table([0]), "mri": table([0], per_patient=2)}
    with pytest.raises(DataError, match=r"1 slices, such as mri/000001, are not in the split"):
        check_no_leak(planted_slices(), slices)


def test_images_of_another_part_are_refused():
    frame = table(range(4), per_patient=1)
    for split in (planted(), planted_slices()):
        units = split.units("ct", frame)
        check_part(split, "train", units[:1])
        with pytest.raises(DataError, match=r"(p003|ct/000002) does not belong to train"):
            check_part(split, "train", [units[0], units[3 if split.policy == "patient" else 2]])
    with pytest.raises(DataError, match="Slice mri/000000 does not belong to test"):
        check_part(planted_slices(), "test", planted_slices().units("mri", frame[:1]))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["ct", "mri"])
def test_shares_of_the_training_part_are_nested(policy, name):
    frame = mixed()[name]
    split = drawn(policy)
    rows = split.rows(name, frame, "train")
    units = split.units(name, frame)
    total = len({units[row] for row in rows})
    larger = rows
    for share in (1.0, 0.8, 0.5, 0.25, 0.1, 0.001):
        some = training_share(split, name, frame, rows, share)
        assert set(some) <= set(larger)
        assert some == sorted(some)
        kept = {units[row] for row in some}
        assert len(kept) == max(round(share * total), 1)
        assert some == [row for row in rows if units[row] in kept]  # all of a patient's, or none
        larger = some
    assert training_share(split, name, frame, rows, 1.0) == rows


def test_a_share_is_of_patients_or_of_slices():
    frame = pd.concat(
        [table([0], per_patient=90), table(range(1, 11), per_patient=1)], ignore_index=True
    )
    frame = numbered(frame)
    parts = {"train": tuple(sorted(set(frame["patient"]))), "val": (), "test": ()}
    rows = list(range(100))
    some = training_share(Split(parts, 0), "ct", frame, rows, 0.5)
    assert frame["patient"].iloc[some].nunique() == 6  # round(5.5), to even
    names = tuple(f"ct/{row:06d}" for row in rows)
    split = Split({**parts, "train": names}, 0, "image")
    assert len(training_share(split, "ct", frame, rows, 0.5)) == 50


def test_a_share_follows_from_the_seed_and_not_from_the_pseudonyms():
    frame = mixed()["ct"]
    split = drawn("patient", seed=1)
    rows = split.rows("ct", frame, "train")
    names = {f"p{i:03d}": f"x{(i * 37) % 1000:03d}" for i in range(125)}
    renamed = frame.assign(patient=frame["patient"].map(names))
    parts = {part: tuple(sorted(names[unit] for unit in split.parts[part])) for part in PARTS}
    one = training_share(split, "ct", frame, rows, 0.25)
    assert training_share(Split(parts, 1), "ct", renamed, rows, 0.25) == one
    others = [
        training_share(Split(split.parts, seed), "ct", frame, rows, 0.25) for seed in range(2, 6)
    ]
    assert all(other != one for other in others)


def test_a_share_of_nothing_is_nothing():
    split = drawn("patient")
    assert training_share(split, "ct", mixed()["ct"], [], 0.5) == []
