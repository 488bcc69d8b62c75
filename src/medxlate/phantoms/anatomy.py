"""Synthetic axial head slices in CT, MRI and PET whose anatomy changes with age.

`draw_anatomy` draws a patient, `render` images one slice. All modalities read the same tissue
fractions, so a patient's slices are aligned. Lengths are in mm; in the head frame x points to the
image's right and y from the forehead to the occiput.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Array = NDArray[np.floating[Any]]
Shares = Iterator[tuple[str, Array]]  # (tissue, share of each pixel)
FOV_MM = 240.0  # side of the square field of view: the pixel spacing is FOV_MM / size
MODALITIES = ("ct", "mri", "pet")  # the columns of the tissue table
_TISSUES = {  # tissue: (CT in HU, T1-weighted MRI in arbitrary units, FDG PET in Bq/ml)
    "air": (-1000, 0, 0),
    "skin": (40, 1000, 3000),
    "fat": (-80, 2300, 1500),
    "bone": (1300, 80, 900),
    "diploe": (850, 800, 2000),
    "dura": (50, 700, 2500),
    "csf": (6, 320, 900),
    "grey": (37, 1000, 20000),
    "white": (29, 1450, 5500),
    "calcification": (300, 200, 600),
}
_SULCI = 15  # per hemisphere and slice: gyri about 15 mm wide, as in adults
_HORNS = (  # of a lateral ventricle: centre in y, half length, width, height and its half range
    (-24, 16, 8, 0, 0.9),  # frontal horn
    (-2, 32, 9, 0.55, 0.4),  # body
    (32, 18, 7, 0, 0.7),  # atrium and occipital horn
)
_SIGMA_PER_FWHM = 1 / 2.3548


@dataclass(frozen=True)
class Anatomy:
    """One patient's head, and what all scans of that patient share; lengths in mm."""

    age: float  # years
    sex: str  # 'F' or 'M'
    head_width: float  # outer diameter, left to right
    head_length: float  # outer diameter, front to back
    scalp: float  # thickness of skin and fat
    skull: float  # mean thickness
    ventricle_size: float  # width relative to a typical 20-year-old
    cortical_thickness: float
    sulcal_width: float
    pineal: float  # density of the calcification, 0 (none) to 1; likewise the next two
    choroid: float
    falx: float
    rotation: float  # of the head in the scanner, in radians
    shift_x: float
    shift_y: float
    tilt: float  # how much higher the slice cuts the forehead than the middle, as a `position`
    asymmetry: float  # relative excess of the ventricle on the image's right
    shape_seed: int  # of the gyration, the head's outline and the MRI bias field
    mri_gain: float
    pet_uptake: float  # relative to a typical 20-year-old
    head_holder: bool  # whether the CT shows it


def draw_anatomy(rng: np.random.Generator, *, age: float) -> Anatomy:
    """Draws a patient of the given age in years.

    Raises:
        ValueError: If the age is not in [18, 100].
    """
    if not 18 <= age <= 100:
        raise ValueError(f"age must be in [18, 100] years, got {age}")
    sex = "M" if rng.random() < 0.5 else "F"
    build = rng.normal(1.02 if sex == "M" else 0.98, 0.02)  # men's heads are larger
    # Brains age at different speeds: one shared offset, then each feature's own scatter.
    years = float(np.clip(age + rng.normal(0, 5), 18, 105)) - 20
    late = max(years - 40, 0)

    def calcification(half: float) -> float:  # half of the people have it `half` years after 20
        present = rng.random() < 1 / (1 + np.exp((half - years) / 14))
        return float(present * np.clip(rng.normal(0.35 + 0.006 * years, 0.15), 0.2, 1))

    return Anatomy(
        age=float(age),
        sex=sex,
        head_width=154 * build * rng.normal(1, 0.02),
        head_length=192 * build * rng.normal(1, 0.02),
        scalp=float(np.clip(rng.normal(6, 1), 4, 9)),
        skull=float(np.clip(rng.normal(7, 0.8), 5, 9)),
        # Ventricles widen slowly, then faster from about 60 years on.
        ventricle_size=(1 + 0.008 * years + 0.001 * late**2) * rng.lognormal(0, 0.18),
        # The cortex thins by nearly 0.1 mm per decade, and the sulci open as the gyri shrink.
        cortical_thickness=3.4 - 0.009 * years + rng.normal(0, 0.17),
        sulcal_width=(0.8 + 0.018 * years) * rng.lognormal(0, 0.25),
        # Calcification becomes more likely and denser with age, first in the pineal gland.
        pineal=calcification(20),
        choroid=calcification(35),
        falx=calcification(65),
        rotation=rng.normal(0, 0.05),
        shift_x=rng.normal(0, 2),
        shift_y=rng.normal(0, 2),
        tilt=rng.normal(0, 0.05),
        asymmetry=float(np.clip(rng.normal(0, 0.1), -0.3, 0.3)),
        shape_seed=int(rng.integers(2**31)),
        mri_gain=rng.lognormal(0, 0.12),
        # Glucose metabolism falls mildly with age; dose and blood sugar scatter far more.
        pet_uptake=(1 - 0.003 * years) * rng.lognormal(0, 0.2),
        head_holder=bool(rng.random() < 0.3),
    )


def render(
    anatomy: Anatomy, modality: str, position: float, *, size: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Renders one axial slice of a patient.

    Args:
        anatomy: The patient.
        modality: 'ct', 'mri' or 'pet'.
        position: Height of the slice in [0, 1], from the bottom of the lateral ventricles to the
            centrum semiovale above them.
        size: Number of rows and of columns, 16 or more.
        rng: Source of the noise; the anatomy does not depend on it.

    Returns:
        float32 [size, size], the forehead at the top: HU for CT (-1024 and above), arbitrary units
        of about 0 to 3000 for MRI, Bq/ml (0 and above) for PET.

    Raises:
        ValueError: If the modality is unknown, or the position or the size is out of range.
    """
    if modality not in MODALITIES:
        raise ValueError(f"unknown modality {modality!r}; known: {', '.join(MODALITIES)}")
    if not 0 <= position <= 1 or size < 16:
        raise ValueError(f"need position in [0, 1] and size >= 16, got {position} and {size}")
    values = np.array(list(_TISSUES.values()), np.float32)[:, MODALITIES.index(modality)]
    fine = 2 if FOV_MM / size > 1.5 else 1  # a coarse pixel holds several thin structures
    clean = np.tensordot(values, _tissue_fractions(anatomy, position, size * fine), axes=1)
    clean = clean.reshape(size, fine, size, fine).mean((1, 3))
    scan = {"ct": _scan_ct, "mri": _scan_mri, "pet": _scan_pet}[modality]
    return scan(anatomy, clean, FOV_MM / size, rng).astype(np.float32)


def _scan_ct(a: Anatomy, clean: Array, pixel: float, rng: np.random.Generator) -> Array:
    x, y = _grid(len(clean))
    if a.head_holder:  # a thin carbon-fibre shell under the occiput
        shell = _band(np.abs(np.hypot(x, y + 4) - 113), 2.4, pixel) * (y > 35)
        clean = clean + shell * np.maximum(-150 - clean, 0)
    # Cupping: the beam hardens on its way in, so the middle of the head reads low.
    cupping = 4 * ((x / 65) ** 2 + (y / 82) ** 2 - 0.5) * (clean > -200)
    blurred: Array = gaussian_filter(clean + cupping, 1.2 * _SIGMA_PER_FWHM / pixel)
    return np.maximum(blurred + rng.normal(0, rng.uniform(4, 8), clean.shape), -1024)


def _scan_mri(a: Anatomy, clean: Array, pixel: float, rng: np.random.Generator) -> Array:
    x, y = (c / (FOV_MM / 2) for c in _grid(len(clean)))
    c = np.random.default_rng((a.shape_seed, 1)).normal(0, 0.08, 4)
    bias = np.exp(c[0] * x + c[1] * y + c[2] * x * y + (0.15 + c[3]) * (x * x + y * y))
    real, imaginary = rng.normal(0, rng.uniform(25, 50), (2, *clean.shape))
    magnitude: Array = np.hypot(clean * bias * a.mri_gain + real, imaginary)  # Rician noise
    return magnitude


def _scan_pet(a: Anatomy, clean: Array, pixel: float, rng: np.random.Generator) -> Array:
    # Of the 6 mm, half the variance lies before the detection and half in the reconstruction's
    # filter, which also correlates the noise.
    sigma = 6 * _SIGMA_PER_FWHM / np.sqrt(2) / pixel
    counts = 0.0035 * pixel**2  # per Bq/ml: sets the noise
    detected = rng.poisson(gaussian_filter(clean * a.pet_uptake, sigma) * counts)
    filtered: Array = gaussian_filter(detected / counts, sigma)
    return filtered


class _Head(NamedTuple):
    """Pixel-wise coordinates in the head frame, each [n, n]."""

    x: Array
    y: Array
    radius: Array  # distance from the centre
    angle: Array  # 0 at the forehead, pi at the occiput, in both hemispheres
    depth: Array  # signed distance from the head's outline, positive inside
    pixel: float  # spacing


def _grid(size: int) -> tuple[Array, Array]:
    c = ((np.arange(size) + 0.5) * (FOV_MM / size) - FOV_MM / 2).astype(np.float32)
    return c[None, :], c[:, None]


def _inside(depth: Array, pixel: float) -> Array:
    """Share of each pixel within a boundary at this signed distance (anti-aliasing)."""
    share: Array = np.minimum(np.maximum(0.5 + depth / pixel, 0), 1)
    return share


def _band(distance: Array, width: Array | float, pixel: float) -> Array:
    """Share of each pixel within a band, perhaps thinner than a pixel, around a line."""
    return _inside(width / 2 - distance, pixel) - _inside(-width / 2 - distance, pixel)


def _head(a: Anatomy, position: float, size: int) -> _Head:
    u, v = _grid(size)
    u, v = u - np.float32(a.shift_x), v - np.float32(a.shift_y)
    cos, sin = float(np.cos(a.rotation)), float(np.sin(a.rotation))
    x, y = cos * u + sin * v, cos * v - sin * u
    taper = 0.5 * (1 - 0.1 * position**2)  # the vault narrows towards the vertex
    yn = y / (a.head_length * taper)
    xn = x / (a.head_width * taper * (1 + 0.09 * np.clip(yn, -1, 1)))  # widest behind the ears
    angle = np.arctan2(np.abs(xn), -yn)
    c = np.random.default_rng(a.shape_seed).normal(0, 0.008, 2).tolist()
    outline = 1 + c[0] * np.cos(3 * angle) + c[1] * np.sign(x) * np.sin(2 * angle)
    radius = np.hypot(x, y)
    depth = radius * (outline / (np.hypot(xn, yn) + 1e-5) - 1)
    return _Head(x, y, radius, angle, depth, FOV_MM / size)


def _tissue_fractions(a: Anatomy, position: float, size: int) -> Array:
    """Share of every tissue in every pixel, float32 [tissue, size, size], summing to 1."""
    h = _head(a, position, size)
    maps = np.zeros((len(_TISSUES), size, size), np.float32)
    free = np.ones_like(maps[0])  # share of each pixel that is not assigned yet
    rows = {tissue: row for row, tissue in enumerate(_TISSUES)}
    for tissue, share in _structures(a, h, position):
        part = free * share
        maps[rows[tissue]] += part
        free -= part
    maps[rows["air"]] = free
    return maps


def _structures(a: Anatomy, h: _Head, position: float) -> Shares:
    """Yields (tissue, share of each pixel) from the topmost structure to the lowest."""

    def ball(cx: float, cy: float, rx: float, ry: float, z: float, half: float) -> Array:
        height = (position - a.tilt * cy / 80 - z) / half
        cut = max(1 - height**2, 1e-6) ** 0.5  # the radii shrink away from its middle
        q = np.sqrt(((side - cx) / (rx * cut)) ** 2 + ((h.y - cy) / (ry * cut)) ** 2)
        return _inside((1 - q) * ((rx * ry) ** 0.5 * cut), h.pixel)

    side = np.abs(h.x)
    third = 1 + 2.5 * a.ventricle_size  # width of the third ventricle
    wide = 7 * a.ventricle_size  # and roughly of a lateral one: they push the nuclei aside
    yield "calcification", a.pineal * ball(0, 26, 2.5, 3, 0, 0.3)
    yield "calcification", a.choroid * ball(11 + wide / 2, 32, 3, 4.5, 0.1, 0.35)
    yield "calcification", a.falx * ball(0, -62, 1.5, 6, 0.8, 0.5)
    yield "csf", ball(0, 6, third / 2, 13, 0, 0.35)
    yield "csf", _lateral_ventricles(a, h, position)
    yield "grey", 0.8 * ball(third / 2 + 9, 8, 8.5, 15, 0.1, 0.45)  # thalamus, partly white
    yield "grey", ball(wide + 6, -18, 4.5, 10, 0.1, 0.6)  # caudate nucleus
    yield "grey", 0.9 * ball(third / 2 + 25, -2, 5.5, 15, 0, 0.4)  # lentiform nucleus
    inner = h.depth - a.scalp - a.skull * (1 + 0.15 * np.cos(2 * h.angle))
    yield from _cerebrum(a, h, position, inner)
    yield "diploe", _band(np.abs(inner + a.skull / 2), 0.4 * a.skull, h.pixel)
    yield "bone", _inside(h.depth - a.scalp, h.pixel)
    yield "fat", _inside(h.depth - 2, h.pixel)
    yield "skin", _inside(h.depth, h.pixel)


def _lateral_ventricles(a: Anatomy, h: _Head, position: float) -> Array:
    y, size = h.y, a.ventricle_size
    width = np.zeros_like(y)
    for cy, length, wide, z, half in _HORNS:
        height = (position - a.tilt * cy / 80 - z) / (half * (0.9 + 0.1 * size))
        lens = np.sqrt(np.clip(1 - ((y - cy) / (length * size**0.3)) ** 2, 0, 1))
        width = np.maximum(width, wide * size * max(1 - height**2, 0) ** 0.5 * lens)
    width *= 1 + a.asymmetry * np.sign(h.x)
    # The medial walls touch the septum in the middle and diverge towards both ends.
    ahead, behind = np.clip(-6 - y, 0, None) ** 2, np.clip(y + 6, 0, None) ** 2
    medial = 1.2 + ahead / 200 + 13 * behind / (behind + 400)
    return _band(np.abs(np.abs(h.x) - medial - width / 2), width, h.pixel)


def _cerebrum(a: Anatomy, h: _Head, z: float, inner: Array) -> Shares:
    """Yields what lies within the skull, at the depth `inner` > 0 below it."""
    g = np.random.default_rng((a.shape_seed, 2))
    jitter, reach, phase, width = g.uniform(0, 1, (4, 2, _SULCI)).astype(np.float32)
    reach = (7 + 18 * reach) * (0.8 + 0.2 * np.sin(4 * z + 6.3 * phase))
    reach[:, 6] = np.maximum(reach[:, 6], 26 * (1 - z))  # Sylvian fissure
    # Sulci are radial lines at jittered, smoothly warped angles.
    cell = h.angle * (_SULCI / np.pi)
    for kx, ky, shift in g.normal(0, (0.11, 0.11, 3), (4, 3)).tolist():
        cell += 0.17 * np.sin(kx * h.x + ky * h.y + (shift + 2 * z))
    number = np.clip(np.floor(cell), 0, _SULCI - 1)
    which = (h.x > 0).astype(np.intp), number.astype(np.intp)
    brain = inner - 0.8 - 0.5 * a.sulcal_width  # depth below the brain's surface
    across = (cell - number - 0.35 - 0.3 * jitter[which]) * (np.pi / _SULCI) * h.radius
    sulci = np.hypot(across, np.maximum(brain - reach[which], 0))
    # The fissure between the hemispheres ends at the corpus callosum, but not above it.
    below = min(max((0.95 - z) / 0.3, 0.0), 1.0)
    midline = np.hypot(h.x, np.clip(np.minimum(h.y + 42 * below, 38 * below - h.y), 0, None))
    distance = np.minimum(sulci, midline)
    opening = a.sulcal_width * (0.6 + 0.8 * width[which])
    yield "dura", _band(midline, 1.0, h.pixel) * _inside(inner, h.pixel)  # the falx
    yield "csf", _band(distance, opening, h.pixel) * _inside(brain, h.pixel)
    white = np.minimum(distance - opening / 2, brain) - a.cortical_thickness
    yield "white", _inside(white, h.pixel)
    yield "grey", _inside(brain, h.pixel)
    yield "csf", _inside(inner, h.pixel)
