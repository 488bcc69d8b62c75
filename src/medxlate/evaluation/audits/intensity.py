"""Whether G changes images too little (identity) or turns bright into dark (inversion)."""

from __future__ import annotations

import numpy as np

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
    f"Fires where G changes images by less than {CHANGED:.0%} of what the target's values and mean "
    f"image are away from the source's, though a classifier tells the modalities apart with an "
    f"area under the curve above {ALIKE:g}, the lower end of its 95 % interval.",
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
    "Fires where the negative of the translated images, of all or of what is not background, is "
    "much nearer to real target images than they are, by the values that occur and by the mean "
    f"image: their own distance is above {INVERTED:g} of the sum of both. "
    "The sign of the correlation with the source alone means nothing: some contrasts do turn over.",
    "G may have turned the contrast over, which the cycle loss does not see. Train again with "
    "another seed, and look at structures whose brightness is known.",
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
        f"G changes a pixel by {change / 2:.1%} of the range on average, and the modalities' "
        f"values and mean images are {needed / 2:.1%} apart"
    )
    picture = Picture(
        kind="histogram", title="How much translation changes images",
        x_label="mean |G(y) - y|, of a range of 2", y_label="images",
        lines=(points("test images", changes),), thresholds={"needed": round(needed, 4)},
    )  # fmt: skip
    few = min(original.people, real.people) < FEWEST_PATIENTS
    if few or needed < LEAST_NEEDED:
        why = (
            f"{original.people} {source} and {real.people} real patients are too few to say how "
            f"far the modalities are apart; {FEWEST_PATIENTS} of each are needed"
            if few
            else "The modalities' values are too much alike to say how much should change"
        )
        return IDENTITY.audit(source, "unknown", f"{why}; {measured}.", picture=picture)
    before, (low, _), _, _ = gap(original, real)
    share = change / needed
    fires = share < CHANGED and low > ALIKE
    return IDENTITY.audit(
        source,
        "fires" if fires else "ok",
        f"{measured}: {share:.2f} of what is needed. Before translation they are told apart with "
        f"an area under the curve of {before:.2f}.",
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
    picture = Picture(
        kind="lines", title="How often values occur", x_label="value, -1 black to 1 white",
        y_label="share of pixels up to it",
        lines=tuple(
            points(name, CENTRES[::4], np.cumsum(values)[::4])
            for name, values in (
                ("translated", _values(translated)),
                ("its negative", _values(translated)[::-1]),
                ("real", _values(real)),
            )
        ),
    )  # fmt: skip
    people = min(translated.people, real.people)
    symmetric = _apart(real, _values(real)[::-1], -real.small.mean(axis=0)) < SYMMETRIC
    if people < FEWEST or symmetric:
        why = (
            f"Images of {people} patients are too few to tell; {FEWEST} are needed."
            if people < FEWEST
            else "Real target images are too much like their own negative to tell."
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
        f"Translated images are {own:.2f} away from real ones and their negative {negative:.2f} "
        f"(of a range of 2); pixels of y and G(y) correlate "
        f"{_correlation(original, translated):.2f} within an image, by the median.",
        value=value,
        picture=picture,
    )


def _values(sample: Sample) -> Array:
    shares: Array = sample.histograms.mean(axis=0)
    return shares


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
