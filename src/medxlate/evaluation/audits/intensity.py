"""Whether G changes images too little (identity) or turns bright into dark (inversion)."""

from __future__ import annotations

import numpy as np

from medxlate.base.errors import percent, plural
from medxlate.evaluation.audits.domain import FEWEST_PATIENTS, gap
from medxlate.evaluation.audits.probes import Array
from medxlate.evaluation.audits.rule import Rule
from medxlate.evaluation.audits.sample import CENTRES, FEWEST, Sample, points, transport
from medxlate.evaluation.results import Audit, Picture
from medxlate.images.recipes import DARK

# Whatever G does, it cannot reach the target's histogram or mean image with less than 1 of the
# change that is needed; a third of it leaves most of the difference in place.
CHANGED = 1 / 3
# Where 32 statistics tell the modalities apart less well than this, leaving images alone is right.
ALIKE = 0.75
IDENTITY = Rule(
    "identity",
    f"Fires if G changes images by less than {percent(CHANGED)} of the distance between source and "
    f"target (in grey values or mean image), although a classifier distinguishes the modalities "
    f"with an AUC whose 95 % confidence interval lies above {ALIKE:g}.",
    "G passes its input through. Lower the weight of the identity or cycle loss, or train longer.",
    CHANGED,
)
LEAST_NEEDED = 0.02  # mean change over [-1, 1], 1 % of the range: below, noise decides
# At 0.5 both are equally like the real images. Measured on phantoms: images of another modality
# up to 0.58, sound translators up to 0.1, inverted ones from 0.67 on.
INVERTED = 0.6
SYMMETRIC = 0.1  # distance of real images from their negative below which the two are alike
INVERSION = Rule(
    "inversion",
    "Fires if the negative of the translated images (of the whole image or without background) is "
    "much closer to real target images than the translated images themselves, in grey values and "
    f"mean image: if their own distance is above {INVERTED:g} of the sum of both distances. The "
    "sign of the correlation with the source does not count: some contrasts are meant to invert.",
    "G may have inverted the contrast, which the cycle loss does not notice. Train again with "
    "another seed, and check structures of known brightness.",
    INVERTED,
)
_BACKGROUND = 2 * DARK - 1


def identity(source: str, original: Sample, translated: Sample, real: Sample) -> Audit:
    """Compare how much G changes images with how much they have to change.

    The mean change of a pixel is at least the earth mover's distance of the values before and
    after, and at least the distance of the mean images. The larger of the two, taken between source
    and real images, is what has to change.

    Args:
        source: The source modality.
        original: Source test images.
        translated: The same, translated.
        real: Real target images.
    """
    changes = np.abs(translated.small - original.small).mean(axis=(1, 2))
    change, needed = float(changes.mean()), _distance(original, real)
    measured = (
        f"G changes pixels by {percent(change / 2, 1)} of the range on average, and the modalities "
        f"are {percent(needed / 2, 1)} apart (in grey values or mean image)"
    )
    picture = Picture(
        kind="histogram", title="How much translation changes images",
        x_label="mean |G(y) - y| (range: 2)", y_label="images",
        lines=(points("test images", changes),), thresholds={"needed": round(needed, 4)},
    )  # fmt: skip
    few = min(original.people, real.people) < FEWEST_PATIENTS
    if few or needed < LEAST_NEEDED:
        why = (
            f"{original.people} {source} and {real.people} real patients are too few to measure "
            f"how far the modalities are apart; {FEWEST_PATIENTS} of each are needed"
            if few
            else "The modalities are too similar to say how much should change"
        )
        return IDENTITY.audit(source, "unknown", f"{why}. {measured}.", picture=picture)
    before, (low, _), _, _ = gap(original, real)
    share = change / needed
    fires = share < CHANGED and low > ALIKE
    return IDENTITY.audit(
        source,
        "fires" if fires else "ok",
        f"{measured}: {share:.2f} times the necessary change. Before translation, a classifier "
        f"distinguishes them with an AUC of {before:.2f}.",
        value=share,
        picture=picture,
    )


def inversion(source: str, original: Sample, translated: Sample, real: Sample) -> Audit:
    """Tell whether real target images look like G(y) or like its negative.

    Args:
        source: The source modality.
        original: Source test images.
        translated: The same, translated.
        real: Real target images.
    """
    own_values, real_values = _without_background(translated), _without_background(real)
    picture = Picture(
        kind="lines", title="Distribution of grey values", x_label="value (-1 black, 1 white)",
        y_label="cumulative fraction of pixels",
        lines=tuple(
            points(name, CENTRES[3::4], np.cumsum(values)[3::4])
            for name, values in (
                ("translated", own_values),
                ("translated, inverted", own_values[::-1]),
                ("real", real_values),
            )
        ),
        note=f"Background is left out: pixels in the lowest {percent(DARK)} of the range.",
    )  # fmt: skip
    people = min(translated.people, real.people)
    symmetric = _apart(real, _values(real)[::-1], -real.small.mean(axis=0)) < SYMMETRIC
    if people < FEWEST or symmetric:
        why = (
            f"Images of {plural(people, 'patient')} are too few to judge; {FEWEST} are needed."
            if people < FEWEST
            else "Real target images are too similar to their own negative to judge."
        )
        return INVERSION.audit(source, "unknown", why, picture=picture)
    own = _apart(real, _values(translated), translated.small.mean(axis=0))
    whole = _apart(real, _values(translated)[::-1], -translated.small.mean(axis=0))
    within = _apart(real, *_negative_within(translated))
    negative = min(whole, within)
    value = own / (own + negative + 1e-9)
    return INVERSION.audit(
        source,
        "fires" if value > INVERTED else "ok",
        f"The distance to real images is {own:.2f} for translated images and {negative:.2f} for "
        f"their negative (range: 2). Pixels of y and G(y) have a median correlation of "
        f"{_correlation(original, translated):.2f} within an image.",
        value=value,
        picture=picture,
    )


def _values(sample: Sample) -> Array:
    shares: Array = sample.histograms.mean(axis=0)
    return shares


def _without_background(sample: Sample) -> Array:
    """Return the shares of a sample's values among the pixels that are not background."""
    kept: Array = np.where(CENTRES <= _BACKGROUND, 0, _values(sample))
    return np.asarray(kept / max(float(kept.sum()), 1e-9))


def _distance(first: Sample, second: Sample) -> float:
    """Return the least mean change of a pixel, in [0, 2], that makes the first like the second."""
    means = np.abs(first.small.mean(axis=0) - second.small.mean(axis=0)).mean()
    return max(transport(_values(first), _values(second)), float(means))


def _apart(real: Sample, values: Array, mean: Array) -> float:
    """Return how far a histogram and a mean image are from those of real images, in [0, 2]."""
    shift = np.abs(real.small.mean(axis=0) - mean).mean()
    return (transport(_values(real), values) + float(shift)) / 2


def _negative_within(sample: Sample) -> tuple[Array, Array]:
    """Return histogram and mean image with everything but the background turned over."""
    values = _values(sample)
    back = np.where(CENTRES <= _BACKGROUND, values, 0)
    turned = np.where(sample.small > _BACKGROUND, -sample.small, sample.small)
    return back + (values - back)[::-1], turned.mean(axis=0)


def _correlation(first: Sample, second: Sample) -> float:
    a, b = (s.small.reshape(len(s), -1).astype(np.float64) for s in (first, second))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norms = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return float(np.median((a * b).sum(axis=1) / np.maximum(norms, 1e-9)))
