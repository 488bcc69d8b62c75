"""Jitter: do the slices of a translated volume fit each other?"""

from __future__ import annotations

import numpy as np

from medxlate.evaluation.audits.probes import Array
from medxlate.evaluation.audits.rule import Rule
from medxlate.evaluation.audits.sample import FEWEST, Sample, means_of_blocks, points
from medxlate.evaluation.results import Audit, Picture

SLICES = 3  # the fewest of a series that show whether the middle one fits
SIDE = 16  # of the copies that are compared, pixels
VOLUMES = 5  # of translated ones
# Slices without any relation have a roughness of sqrt(3) = 1.73, those of a smooth change 0.
# Measured on phantoms, relative to the rougher of source and target: sound translators up to 0.61,
# one that hands its source through 1.0, one with slices of unequal brightness from 1.8 on.
ROUGHER = 1.25
JITTER = Rule(
    "jitter",
    "The roughness of a volume is mean |a - 2b + c| / mean |a - c| over three neighbouring slices "
    "a, b, c, which largely cancels spacing and contrast. Fires if the roughness of translated "
    f"volumes is more than {ROUGHER:g} times the larger of that of their source and of real target "
    "volumes (median and lower end of its 95 % confidence interval).",
    "Neighbouring slices are translated inconsistently. Do not reslice these volumes along other "
    "planes; train longer, or smooth across slices before use.",
    ROUGHER,
)


def jitter(source: str, original: Sample, translated: Sample, real: Sample) -> Audit:
    """Compare the roughness of translated volumes with that of source and target volumes.

    Args:
        source: The source modality.
        original: Source test images with their series and positions.
        translated: The same, translated.
        real: Real target images; without volumes among them the source's alone are compared.
    """
    before, after, truth = (roughness(sample) for sample in (original, translated, real))
    names = sorted(set(before) & set(after))
    if len(names) < VOLUMES:
        few = (
            f"There are {len(names)} {source} test volumes with {SLICES} or more slices; {VOLUMES} "
            "are needed to judge whether slices are consistent."
        )
        return JITTER.audit(source, "unknown", few)
    usual = float(np.median(list(truth.values()))) if len(truth) >= FEWEST else 0.0
    own = np.array([after[name] for name in names])
    given = np.array([before[name] for name in names])
    ratios = own / np.maximum(np.maximum(given, usual), 1e-6)
    value, low = float(np.median(ratios)), _low(ratios)
    against = f"{usual:.2f} for real target volumes" if usual else "with no real target volumes"
    lines = [points(source, given), points("translated", own)]
    if usual:
        lines.append(points("real target", list(truth.values())))
    return JITTER.audit(
        source,
        "fires" if low > ROUGHER else "ok",
        f"The median roughness of {len(names)} translated volumes is {np.median(own):.2f}, "
        "compared "
        f"with {np.median(given):.2f} for {source} and {against}: {value:.2f} times the larger of "
        f"them (lower end of the 95 % CI: {low:.2f}).",
        value=value,
        picture=Picture(
            kind="histogram",
            title="Roughness across neighbouring slices",
            x_label="roughness of a volume",
            y_label="volumes",
            lines=tuple(lines),
        ),
    )


def roughness(sample: Sample) -> dict[str, float]:
    """Return the roughness of each series of at least three slices, in the order of positions."""
    series = sample.series.astype(str)
    coarse = means_of_blocks(sample.small, SIDE)  # noise differs from slice to slice as well
    found = {}
    for name in sorted(set(series)):
        rows = np.flatnonzero(series == name)
        if len(rows) >= SLICES:
            slices = coarse[rows[np.argsort(sample.positions[rows], kind="stable")]]
            twice = np.abs(slices[2:] - 2 * slices[1:-1] + slices[:-2]).mean()
            once = np.abs(slices[2:] - slices[:-2]).mean()
            found[name] = float(twice / max(once, 1e-6))
    return found


def _low(ratios: Array) -> float:
    """Return the lower end of the 95 % interval of the median: a bootstrap over volumes."""
    random = np.random.default_rng(5)
    draws = random.choice(ratios, size=(1000, len(ratios)))
    return float(np.percentile(np.median(draws, axis=1), 2.5))
