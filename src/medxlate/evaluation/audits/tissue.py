"""Tissue: have air, fat, soft tissue and bone of a translated CT the HU that CT has?"""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import gaussian_filter1d

from medxlate.base.errors import percent
from medxlate.evaluation.audits.probes import Array
from medxlate.evaluation.audits.rule import Rule
from medxlate.evaluation.audits.sample import CENTRES, FEWEST, Sample, patient_means, points
from medxlate.evaluation.results import Audit, Picture
from medxlate.images.recipes import Recipe

# Classes in HU as in common use (fat -190 to -30; muscle, organs and fluids up to 100; air in and
# around the body below -500; trabecular and cortical bone above 150).
CLASSES = {
    "air": (-np.inf, -500.0),
    "fat": (-190.0, -30.0),
    "soft tissue": (-30.0, 100.0),
    "bone": (150.0, np.inf),
}
SOFT = (-100.0, 120.0)  # where the peak of soft tissue is looked for, as far as the window goes
NEEDED = (0.0, 80.0)  # values that a window must hold: fluids, brain, muscle, enhanced organs
PEAK_HU = 15.0  # half of what lies between blood (45) and fluid (10 to 15)
SHARE = 0.1  # of all pixels in another class
WITHIN = (CENTRES > -0.98) & (CENTRES < 0.98)  # the ends hold whatever is beyond the window
BIN_HU = 2.0  # of the chart, at least
CHANCE = 0.01  # that patients dealt out at random differ as much
DRAWS = 999
TISSUE = Rule(
    "tissue",
    f"Fires if the soft-tissue peak is off by {PEAK_HU:g} HU or more, or the fraction of pixels in "
    f"a tissue class by {percent(SHARE)} or more compared with real images (either is a value of "
    f"1), and randomly permuted patients differ as much in less than {percent(CHANCE)} of draws.",
    "Do not measure HU in these images. Check that both modalities show the same body part with "
    "the same padding, and train longer.",
    1.0,
)


def tissue(source: str, translated: Sample, real: Sample, recipe: Recipe) -> Audit:
    """Compare tissue classes and the peak of soft tissue of G(y) with those of real CT.

    Args:
        source: The source modality.
        translated: Translated test images.
        real: Real target images.
        recipe: Of the target: its unit, and the values that -1 and 1 stand for.
    """
    low, high = recipe.output_range
    inside = low < NEEDED[0] and high >= NEEDED[1]
    people = translated.people, real.people
    if recipe.unit != "HU" or not inside or min(people) < FEWEST:
        why = (
            "The target is not in HU, so the values of tissues are unknown."
            if recipe.unit != "HU"
            else f"The window from {low:g} to {high:g} HU does not include all soft tissue "
            f"({NEEDED[0]:g} to {NEEDED[1]:g} HU), so its peak cannot be judged."
            if not inside
            else f"Images of {people[0]} translated and {people[1]} real patients are too few; "
            f"{FEWEST} of each are needed."
        )
        return TISSUE.audit(source, "unknown", why)
    values = low + (CENTRES + 1) / 2 * (high - low)
    # Values at the ends of the window are whatever lies beyond it: -160 may be air or fat.
    classes = [name for name, ends in CLASSES.items() if _within(ends, low, high)]
    own, other = (_figures(sample, values, classes) for sample in (translated, real))
    value = _difference(own, other)
    chance = _chance(own, other, value)
    fires = value >= 1 and chance < CHANCE
    shift = own[:, 0].mean() - other[:, 0].mean()
    shares = ", ".join(
        f"{name} {percent(own[:, k].mean())} ({percent(other[:, k].mean())})"
        for k, name in enumerate(classes, 1)
    )
    pixels = f". Fractions of pixels (real images in brackets): {shares}" if shares else ""
    return TISSUE.audit(
        source,
        "fires" if fires else "ok",
        f"The soft-tissue peak is at {own[:, 0].mean():.0f} HU in translated and at "
        f"{other[:, 0].mean():.0f} HU in real images ({shift:+.0f}){pixels}.",
        value=value,
        picture=Picture(
            kind="lines",
            title="Distribution of HU",
            x_label="HU",
            y_label="fraction of these pixels",
            lines=tuple(
                points(name, *_shares(sample, values))
                for name, sample in (("translated", translated), ("real", real))
            ),
            note="Background is left out: pixels at either end of the window, which stand for all "
            "values beyond it.",
        ),
    )


def _shares(sample: Sample, values: Array) -> tuple[Array, Array]:
    """Return values, HU, and their shares among the pixels that lie within the window.

    Bins are of 2 HU at least: CT has whole HU, of which narrower ones make a comb.
    """
    step = max(math.ceil(BIN_HU / (values[1] - values[0])), 1)
    kept: Array = sample.histograms.mean(axis=0)[WITHIN]
    count = len(kept) // step * step
    shares = kept[:count].reshape(-1, step).sum(axis=1) / max(float(kept.sum()), 1e-9)
    return values[WITHIN][:count].reshape(-1, step).mean(axis=1), shares


def _within(ends: tuple[float, float], low: float, high: float) -> bool:
    """Return whether a window tells a class from its neighbours: it holds the finite ends."""
    return all(low < end < high for end in ends if np.isfinite(end))


def _figures(sample: Sample, values: Array, classes: list[str]) -> Array:
    """Return the peak of soft tissue, HU, and the share of each class, by patient [P, 1 + C]."""
    histograms = patient_means(sample.histograms, sample.patients)
    soft = (values >= SOFT[0]) & (values <= SOFT[1])
    within = histograms * WITHIN
    width = 5 / (values[1] - values[0])  # 5 HU
    smooth = gaussian_filter1d(within, max(width, 0.5), axis=1)[:, soft]
    shares = [
        histograms[:, (values >= CLASSES[name][0]) & (values < CLASSES[name][1])].sum(axis=1)
        for name in classes
    ]
    return np.column_stack([values[soft][smooth.argmax(axis=1)], *shares])


def _difference(own: Array, other: Array) -> float:
    apart = np.abs(own.mean(axis=0) - other.mean(axis=0))
    return float(max(apart[0] / PEAK_HU, (apart[1:] / SHARE).max(initial=0)))


def _chance(own: Array, other: Array, found: float) -> float:
    random, both = np.random.default_rng(4), np.concatenate([own, other])
    as_much = 0
    for _ in range(DRAWS):
        rows = random.permutation(len(both))
        as_much += _difference(both[rows[: len(own)]], both[rows[len(own) :]]) >= found - 1e-12
    return (1 + as_much) / (1 + DRAWS)
