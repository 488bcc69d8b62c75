from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from medxlate.phantoms.anatomy import FOV_MM, MODALITIES, Anatomy, Array, draw_anatomy, render


def patient(age: float = 40, seed: int = 0) -> Anatomy:
    return draw_anatomy(np.random.default_rng(seed), age=age)


def image(anatomy: Anatomy, modality: str, position: float = 0.3, size: int = 160) -> Array:
    return render(anatomy, modality, position, size=size, rng=np.random.default_rng(5))


def straight(age: float, seed: int = 0) -> Anatomy:
    """A head that lies straight in the middle, so that regions have known places."""
    centred = {"rotation": 0.0, "shift_x": 0.0, "shift_y": 0.0, "tilt": 0.0, "asymmetry": 0.0}
    return replace(patient(age, seed), **centred, head_holder=False)


def disc(picture: Array, x: float, y: float, radius: float) -> Array:
    """Pixels within `radius` mm of a place in mm from the image's centre."""
    c = (np.arange(len(picture)) + 0.5) * FOV_MM / len(picture) - FOV_MM / 2
    return picture[np.hypot(c[None, :] - x, c[:, None] - y) < radius]


def head_mask(picture: Array, threshold: float) -> Array:
    """The largest object above the threshold, with its holes filled."""
    labels, _ = ndimage.label(ndimage.median_filter(picture, 3) > threshold)
    largest = 1 + np.argmax(np.bincount(labels.ravel())[1:])
    return ndimage.binary_fill_holes(labels == largest)


def dice(a: Array, b: Array) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def ventricle_area(ct: Array) -> float:
    """Area in mm^2 of what is as dark as fluid around the middle of a head CT."""
    spacing = FOV_MM / len(ct)
    mask = head_mask(ct, -500)
    cy, cx = ndimage.center_of_mass(mask)
    y, x = np.indices(ct.shape)
    middle = np.hypot((x - cx) * spacing / 32, (y - cy) * spacing / 40) < 1
    return float((middle & (ndimage.median_filter(ct, 3) < 18)).sum() * spacing**2)


def test_ct_is_in_hounsfield_units():
    anatomy = straight(75)
    ct = image(anatomy, "ct", 0.0, size=200)
    assert np.median(ct[:20, :20]) == pytest.approx(-1000, abs=5)
    assert ct.min() >= -1024
    ventricle = disc(ct, 3 + 4 * anatomy.ventricle_size, -24, 2.5)
    assert np.median(ventricle) == pytest.approx(6, abs=5)
    above = image(anatomy, "ct", 1.0, size=200)
    white = np.concatenate([disc(above, x, 0, 5) for x in (-25, 25)])
    assert np.median(white) == pytest.approx(28, abs=4)


@pytest.mark.parametrize("angle", [0.3, 1.2, 2.0, 2.9, 4.0, 5.0])
def test_ct_skull_is_bone_and_scalp_is_fat(angle):
    # A shot from the middle of the head outwards passes brain, bone, fat and air, in this order.
    steps = np.arange(0, 115, 0.5) / (FOV_MM / 200)
    ct = image(straight(40), "ct", size=200)
    places = [99.5 + steps * np.cos(angle), 99.5 + steps * np.sin(angle)]
    ray = ndimage.map_coordinates(ct, places, order=1)
    top = int(np.argmax(ray))
    assert 700 < ray[top] < 1500
    outside = ray[top:]
    in_air = int(np.argmax(outside < -500))
    scalp = outside[int(np.argmax(outside < 50)) : in_air]
    assert -150 < np.median(scalp) < 50
    assert np.median(outside[in_air + 8 :]) == pytest.approx(-1000, abs=15)


def test_calcifications_are_dense_only_where_present():
    bare = replace(straight(60), pineal=0.0, choroid=0.0, falx=0.0)
    pineal = disc(image(replace(bare, pineal=0.8), "ct", 0.0, size=200), 0, 26, 1.5)
    assert 80 < np.median(pineal) < 300
    assert np.median(disc(image(bare, "ct", 0.0, size=200), 0, 26, 1.5)) < 60


@pytest.mark.parametrize("seed", range(3))
def test_contrasts_of_mri_and_pet(seed):
    anatomy = straight(70, seed)
    third = 1 + 2.5 * anatomy.ventricle_size
    low = {m: image(anatomy, m, 0.0, size=200) for m in MODALITIES}
    high = {m: image(anatomy, m, 1.0, size=200) for m in MODALITIES}
    csf, grey, white = (
        {m: float(np.median(disc(where[m], x, y, 2.5))) for m in MODALITIES}
        for where, x, y in (
            (low, 3 + 4 * anatomy.ventricle_size, -24),
            (low, third / 2 + 9, 8),  # thalamus
            (high, 25, 0),
        )
    )
    assert white["mri"] > 1.1 * grey["mri"] > 1.5 * csf["mri"]
    assert grey["pet"] > 1.8 * white["pet"] > 0
    assert white["pet"] > csf["pet"]
    assert grey["ct"] > white["ct"] > csf["ct"] + 10
    assert low["mri"].max() < 6000
    assert low["pet"].min() >= 0


def test_noise_has_the_scanner_s_size():
    anatomy = straight(40)
    pair = [render(anatomy, "ct", 1.0, size=64, rng=np.random.default_rng(s)) for s in range(12)]
    sigma = disc(np.std(pair, axis=0), 0, 0, 50).mean()
    assert 4 < sigma < 8
    mri = image(anatomy, "mri")
    corner = mri[:20, :20]
    # Rayleigh: the magnitude of noise has a mean of 1.91 standard deviations.
    assert corner.mean() / corner.std() == pytest.approx(1.91, abs=0.2)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("position", [0.0, 1.0])
def test_modalities_are_aligned(seed, position):
    anatomy = replace(patient(30 + 20 * seed, seed), head_holder=False)
    ct, mri, pet = (image(anatomy, m, position) for m in MODALITIES)
    head = head_mask(ct, -500)
    assert dice(head, head_mask(mri, 250)) > 0.95
    assert dice(head, head_mask(pet, 700)) > 0.9
    other = patient(seed=seed + 50)
    moved = replace(other, shift_x=anatomy.shift_x + 25, head_holder=False)
    assert dice(head, head_mask(image(moved, "mri", position), 250)) < 0.9


def test_ventricles_grow_with_age_but_not_in_lockstep():
    rng = np.random.default_rng(11)
    ages = rng.uniform(20, 85, 60)
    areas = [
        ventricle_area(render(draw_anatomy(rng, age=age), "ct", 0.5, size=80, rng=rng))
        for age in ages
    ]
    assert 0.5 < np.corrcoef(ages, areas)[0, 1] < 0.95


@pytest.mark.parametrize(
    ("feature", "sign"),
    [("ventricle_size", 1), ("cortical_thickness", -1), ("sulcal_width", 1), ("pineal", 1)],
)
def test_features_follow_age_with_scatter(feature, sign):
    rng = np.random.default_rng(3)
    ages = rng.uniform(20, 85, 600)
    values = [getattr(draw_anatomy(rng, age=age), feature) for age in ages]
    assert 0.5 < sign * np.corrcoef(ages, values)[0, 1] < 0.85


def test_widening_accelerates_in_old_age():
    rng = np.random.default_rng(4)
    size = {
        age: np.mean([draw_anatomy(rng, age=age).ventricle_size for _ in range(300)])
        for age in (30, 50, 70, 90)
    }
    assert size[50] > size[30]
    assert size[90] - size[70] > 2 * (size[50] - size[30])


def test_patients_of_one_age_differ():
    first, second = patient(60, 1), patient(60, 2)
    assert first != second
    difference = np.abs(image(first, "mri") - image(second, "mri")).mean()
    same = render(first, "mri", 0.3, size=160, rng=np.random.default_rng(99))
    assert difference > 2 * np.abs(image(first, "mri") - same).mean()


@pytest.mark.parametrize("modality", MODALITIES)
def test_seed_decides_everything(modality):
    assert patient(60, 1) == patient(60, 1)
    np.testing.assert_array_equal(
        image(patient(60, 1), modality, size=64), image(patient(60, 1), modality, size=64)
    )


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("size", [16, 50, 100])
def test_size_sets_the_shape_and_not_the_anatomy(modality, size):
    anatomy = patient(50, 6)
    picture = image(anatomy, modality, size=size)
    assert picture.shape == (size, size)
    assert picture.dtype == np.float32
    assert np.isfinite(picture).all()
    reference = image(anatomy, modality, size=160)
    assert picture.mean() == pytest.approx(reference.mean(), rel=0.03)


@pytest.mark.parametrize("age", [18, 100])
@pytest.mark.parametrize("position", [0.0, 0.25, 0.75, 1.0])
def test_extreme_patients_keep_the_brain_inside_the_skull(age, position):
    for seed in range(4):
        ct = image(patient(age, seed), "ct", position, size=64)
        bone = ndimage.binary_dilation(ct > 300)
        cavity = ndimage.binary_fill_holes(bone) & ~bone
        assert 6000 < cavity.sum() * (FOV_MM / 64) ** 2 < 22000


def test_head_holder_lies_outside_the_head():
    anatomy = patient(40, 2)
    with_holder, without = (
        image(replace(anatomy, head_holder=shown), "ct") for shown in (True, False)
    )
    changed = np.abs(with_holder - without) > 1
    assert changed.any()
    assert not (changed & ndimage.binary_erosion(head_mask(without, -500), iterations=2)).any()


def test_wrong_arguments_are_named():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"'xray'.*ct, mri, pet"):
        render(patient(), "xray", 0.5, size=64, rng=rng)
    with pytest.raises(ValueError, match="position"):
        render(patient(), "ct", 1.5, size=64, rng=rng)
    with pytest.raises(ValueError, match="size"):
        render(patient(), "ct", 0.5, size=8, rng=rng)
    with pytest.raises(ValueError, match="age"):
        patient(age=7)
