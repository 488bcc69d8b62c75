"""The perceptual hash against images stored in other ways, and the search against brute force."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from scipy.ndimage import gaussian_filter

from medxlate.dataset import duplicates, links
from medxlate.dataset.duplicates import (
    NEAR,
    Duplicate,
    near_duplicates,
)
from medxlate.dataset.links import linked_patients
from medxlate.images.perceptual import perceptual_hash

Array = np.ndarray[Any, Any]


def slice_of(seed: int, size: int = 256) -> Array:
    """A smooth picture in [0, 1] on black, as anatomy is."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    texture = gaussian_filter(random.normal(size=(512, 512)), 12)
    head = np.hypot(x / 0.7, y / 0.9) < 1
    picture = np.clip(0.5 + 8 * texture, 0, 1) * head
    return resized(picture, size)


def resized(picture: Array, size: int) -> Array:
    image = PIL.Image.fromarray(picture.astype(np.float32))
    return np.asarray(image.resize((size, size), PIL.Image.Resampling.BILINEAR))


def stored(picture: Array, bits: int = 16) -> Array:
    peak, kind = (255, np.uint8) if bits == 8 else (65535, np.uint16)
    return np.rint(np.clip(picture, 0, 1) * peak).astype(kind)


def jpeg(picture: Array, quality: int) -> Array:
    stream = io.BytesIO()
    PIL.Image.fromarray(stored(picture, 8)).save(stream, "JPEG", quality=quality)
    return np.asarray(PIL.Image.open(stream))


def distance(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


AGAIN: dict[str, Callable[[Array], Array]] = {
    "8 bits": lambda p: stored(p, 8),
    "128 px": lambda p: stored(resized(p, 128)),
    "100 px": lambda p: stored(resized(p, 100)),
    "JPEG 60": lambda p: jpeg(p, 60),
    "noise": lambda p: stored(p + np.random.default_rng(1).normal(0, 0.02, p.shape)),
    "window": lambda p: stored((p - 0.05) / 0.85),
    "dimmed": lambda p: stored(p * 0.6),
}


@pytest.mark.parametrize("again", AGAIN)
@pytest.mark.parametrize("seed", range(3))
def test_the_same_slice_stored_otherwise_is_near(again: str, seed: int) -> None:
    picture = slice_of(seed)
    assert (
        distance(perceptual_hash(stored(picture)), perceptual_hash(AGAIN[again](picture))) <= NEAR
    )


def test_different_slices_are_far() -> None:
    hashes = [perceptual_hash(stored(slice_of(seed))) for seed in range(12)]
    between = [distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(between) > 2 * NEAR


def test_the_hash_is_512_bits_and_half_of_them_are_set() -> None:
    made = perceptual_hash(stored(slice_of(0)))
    assert len(made) == 128
    assert int(made, 16).bit_count() == 256


@pytest.mark.parametrize("size", [32, 36, 100, 256])
def test_a_constant_image_has_no_bits_and_resembles_nothing(size: int) -> None:
    made = perceptual_hash(np.full((size, size), 777, np.uint16))
    assert made == "0" * 128
    frame = table([("a", "x", made), ("b", "y", made)])
    assert near_duplicates({"ct": frame}).pairs == ()


def test_the_first_bit_is_the_lowest_frequency() -> None:
    x = np.linspace(0, 65535, 64).astype(np.uint16)
    rising = perceptual_hash(np.tile(x, (64, 1)))
    falling = perceptual_hash(np.tile(x[::-1], (64, 1)))
    first = {int(made[0], 16) >> 3 for made in (rising, falling)}
    second = [int(made[0], 16) >> 2 & 1 for made in (rising, falling)]
    assert first | set(second) == {0, 1}
    assert distance(rising[:1], falling[:1]) >= 1


def table(rows: list[tuple[str, str, str]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["patient", "pixel_hash", "perceptual_hash"])
    return frame.assign(file=[f"{i}.png" for i in range(len(frame))])


def turned(made: str, bits: int, *, seed: int = 0) -> str:
    chosen = np.random.default_rng(seed).permutation(512)[:bits]
    return f"{int(made, 16) ^ sum(1 << int(bit) for bit in chosen):0128x}"


def random_hash(seed: int) -> str:
    return np.random.default_rng(seed).bytes(64).hex()


def test_pairs_are_listed_within_and_across_modalities() -> None:
    shared, other = random_hash(1), random_hash(2)
    mri = table([("a", "1", shared), ("b", "2", turned(shared, NEAR)), ("c", "3", other)])
    ct = table([("d", "3", other), ("a", "4", turned(shared, 3)), ("e", "5", random_hash(3))])
    near = distance(turned(shared, 3), turned(shared, NEAR))
    found = near_duplicates({"mri": mri, "ct": ct})
    assert list(found.pairs) == [
        Duplicate("exact", 0, "ct", "0.png", "d", "mri", "2.png", "c"),
        Duplicate("near", near, "ct", "1.png", "a", "mri", "1.png", "b"),
        Duplicate("near", NEAR, "mri", "0.png", "a", "mri", "1.png", "b"),
    ]
    assert found.within_patients == 0


def test_one_bit_beyond_the_threshold_is_no_duplicate() -> None:
    shared = random_hash(1)
    for seed in range(20):
        frame = table([("a", "1", shared), ("b", "2", turned(shared, NEAR + 1, seed=seed))])
        assert near_duplicates({"ct": frame}).pairs == ()


@pytest.mark.parametrize("bits", [range(NEAR), range(512 - NEAR, 512)])
def test_a_near_duplicate_is_found_whichever_bits_differ(bits: range) -> None:
    shared = random_hash(1)
    other = f"{int(shared, 16) ^ sum(1 << bit for bit in bits):0128x}"
    frame = table([("a", "1", shared), ("b", "2", other)])
    assert [pair.distance for pair in near_duplicates({"ct": frame}).pairs] == [NEAR]


def test_repeats_within_a_patient_are_only_counted() -> None:
    made = random_hash(1)
    frame = table(
        [("a", "1", made), ("a", "1", made), ("a", "1", made), ("b", "2", random_hash(2))]
    )
    found = near_duplicates({"ct": frame, "mri": frame})
    assert found.pairs == ()
    assert found.within_patients == 2 + 4


def test_an_image_that_many_share_is_listed_once_for_each() -> None:
    made = random_hash(1)
    frame = table([(patient, "1", made) for patient in "abcab"])
    found = near_duplicates({"ct": frame})
    assert [(pair.patient, pair.other_patient) for pair in found.pairs] == [("a", "b"), ("a", "c")]
    assert found.within_patients == 2


def clustered(count: int, *, seed: int) -> pd.DataFrame:
    """Slices in clusters whose members differ in 0 to 60 bits from the cluster's centre."""
    random = np.random.default_rng(seed)
    centres = random.random((max(count // 4, 1), 512)) < 0.5
    bits = centres[random.integers(0, len(centres), count)]
    bits ^= random.random((count, 512)) < random.uniform(0, 0.1, (count, 1))
    hashes = [row.tobytes().hex() for row in np.packbits(bits, axis=1)]
    owners = random.integers(0, count // 3, count)
    return table([(f"p{owner:05d}", f"{i}", hashes[i]) for i, owner in enumerate(owners)])


def brute(frame: pd.DataFrame) -> set[tuple[str, str, int]]:
    rows = list(zip(frame["file"], frame["patient"], frame["perceptual_hash"], strict=True))
    return {
        (a[0], b[0], distance(a[2], b[2]))
        for i, a in enumerate(rows)
        for b in rows[i + 1 :]
        if a[1] != b[1] and distance(a[2], b[2]) <= NEAR
    }


@pytest.mark.parametrize("block", [7, 64, 1000])
def test_the_search_finds_what_comparing_all_pairs_finds(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "_BLOCK", block)
    frame = clustered(300, seed=5)
    truth = brute(frame)
    assert len(truth) > 50
    found = near_duplicates({"ct": frame}).pairs
    assert {(pair.file, pair.other_file, pair.distance) for pair in found} == truth
    linked = {(link.patient, link.other) for link in linked_patients([frame])}
    owner = dict(zip(frame["file"], frame["patient"], strict=True))
    assert linked == {tuple(sorted((owner[a], owner[b]))) for a, b, _ in truth}


def test_beyond_a_number_of_pairs_every_two_patients_keep_their_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame = clustered(300, seed=5)
    frame["patient"] = frame["patient"].str[-1]  # ten patients
    whole = near_duplicates({"ct": frame}).pairs
    monkeypatch.setattr(duplicates, "KEPT_PAIRS", 0)
    kept = near_duplicates({"ct": frame}).pairs
    nearest: dict[frozenset[str], int] = {}
    for pair in whole:
        patients = frozenset((pair.patient, pair.other_patient))
        nearest[patients] = min(nearest.get(patients, 999), pair.distance)
    assert {frozenset((p.patient, p.other_patient)): p.distance for p in kept} == nearest
    assert len(kept) == len(nearest) < len(whole)


def test_links_do_not_depend_on_the_order_of_tables_and_are_searched_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, two = clustered(90, seed=1), clustered(90, seed=2)
    two = two.assign(pixel_hash=[f"other {i}" for i in range(len(two))])
    first = linked_patients([one, two])
    monkeypatch.setattr(links, "shared_images", lambda rows: pytest.fail("searched again"))
    assert linked_patients([two, one]) == first


def test_empty_tables_have_no_duplicates() -> None:
    assert near_duplicates({"ct": table([])}).pairs == ()
    assert near_duplicates({}).pairs == ()


def test_twenty_thousand_slices_are_searched_in_seconds() -> None:
    frame = clustered(20_000, seed=0)
    began = time.process_time()
    near_duplicates({"ct": frame})
    assert time.process_time() - began < 20  # about 2 s on one core; generous for busy machines


def test_real_patients_are_far_apart_and_their_slices_stored_again_are_near(
    real_data: Callable[[str], Path],
) -> None:
    files = sorted(real_data("lgg-mri").rglob("*.tif"))[::6]
    again: list[int] = []
    rows = []
    for file in files:
        if file.stem.endswith("_mask"):
            continue
        for channel, pixels in enumerate(np.moveaxis(np.asarray(PIL.Image.open(file)), 2, 0)):
            picture = pixels / 255
            made = perceptual_hash(stored(resized(picture, 256)))
            rows.append((file.parent.name, f"{file.name} {channel}", made))
            again += [distance(made, perceptual_hash(jpeg(resized(picture, 128), 60)))]
    assert len(rows) > 300
    assert linked_patients([table(rows)]) == ()
    assert np.mean(np.array(again) <= NEAR) > 0.98
