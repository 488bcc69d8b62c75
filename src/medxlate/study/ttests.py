"""t-tests of the mean difference between two methods, one for each design of a study.

The repeats of a study share patients, so their results are not independent, and an ordinary t-test
finds differences that are not there. Each test below adds up what the mean difference varies by:
patients, repeats, and what a repeat does to single patients. ``medxlate.study.power`` predicts the
same sums. A difference is always the loss of a method minus that of its reference: negative is
better. ``docs/benchmarks.md`` has what these tests find in simulated studies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from medxlate.study.statistics import Clusters, Interval, Values, all_equal

LEAST_REPEATS = 3  # splits from which on the variance between patients is estimated by itself


@dataclass(frozen=True)
class Tested:
    """What a t-test of paired differences found.

    Attributes:
        interval: The mean difference and its confidence interval.
        error: The standard error of the mean difference.
        t: The t statistic.
        df: Its degrees of freedom.
        p: Two-sided p-value.
    """

    interval: Interval
    error: float
    t: float
    df: float
    p: float


@dataclass(frozen=True)
class VarianceComponents:
    """Variances of paired differences, as estimated from a study.

    Attributes:
        repeats: Between the means of the repeats.
        patients: Between patients, whatever the repeat.
        both: Of what a repeat does to single patients; 0 where no patient was tested twice.
        tests: Patients who are tested in a repeat, mean.
    """

    repeats: float
    patients: float
    both: float
    tests: float


def estimate(
    differences: Values, repeats: Clusters, patients: Clusters
) -> VarianceComponents | None:
    """Estimate variances from differences of which any patient may lack any repeat.

    Within a repeat, patients differ by themselves and by what the repeat does to them. The latter
    is what is left of the differences when patients and repeats are fitted by least squares
    (Henderson, Estimation of variance and covariance components, Biometrics 9, 1953, method 3;
    where nobody lacks a repeat, the analysis of variance).

    Args:
        differences: [M], one a patient and repeat.
        repeats: [M], in which repeat.
        patients: [M], of whom.

    Returns:
        None with fewer than two patients in each repeat.
    """
    values = np.asarray(differences, dtype=np.float64)
    _, repeat = np.unique(np.asarray(repeats), return_inverse=True)
    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    sizes, tested = np.bincount(repeat), np.bincount(owner)
    tests = float(sizes.mean())
    if len(values) == len(sizes):
        return None
    if all_equal(values):
        return VarianceComponents(0.0, 0.0, 0.0, tests)
    means = np.bincount(repeat, weights=values) / sizes
    within = float(((values - means[repeat]) ** 2).sum()) / (len(values) - len(sizes))
    # Patients are fitted by taking their means from everything, repeats by least squares then.
    present = np.zeros((len(tested), len(sizes)))
    present[owner, repeat] = 1
    rows = np.eye(len(sizes))[repeat] - (present / tested[:, None])[owner]
    rest = values - (np.bincount(owner, weights=values) / tested)[owner]
    fitted, _, rank, _ = np.linalg.lstsq(rows, rest, rcond=None)
    free = len(values) - len(tested) - int(rank)
    both = min(float(((rest - rows @ fitted) ** 2).sum()) / free, within) if free else 0.0
    between = 0.0 if all_equal(means) else float(means.var(ddof=1))
    return VarianceComponents(between, within - both, both, tests)


def corrected_resampled_t(
    differences: Values, *, train: float, test: float, level: float = 0.95
) -> Tested | None:
    """Test whether the mean difference over repeated random splits is zero, from repeats alone.

    The corrected resampled t-test of Nadeau and Bengio, Inference for the generalization error,
    Machine Learning 52 (2003): the variance of the mean of J differences is taken as
    (1/J + n_test/n_train) times their variance, not 1/J times, and t has J - 1 degrees of freedom.

    Args:
        differences: [J], one a repeat.
        train: Units in the training part, of the kind that the splits divide (patients or images),
            before any fraction of them is taken: the overlap of two splits is that of the parts.
        test: Units in the test part.
        level: Confidence of the interval, 0..1.

    Returns:
        None for fewer than two repeats, and where all differences are equal but not zero: without
        any spread there is no t. Where all are zero, t is 0 and p is 1.
    """
    values = np.asarray(differences, dtype=np.float64)
    count = len(values)
    if count < 2:
        return None
    variance = 0.0 if all_equal(values) else float(values.var(ddof=1))
    error = math.sqrt((1 / count + test / train) * variance)
    return _t_test(float(values.mean()), error, count - 1, level)


def splits_t(
    differences: Values,
    repeats: Clusters,
    patients: Clusters,
    *,
    fraction: float,
    total: float,
    level: float = 0.95,
) -> Tested | None:
    """Test whether the mean difference over repeated random splits is zero, from single patients.

    The variance of the mean of J splits is that between splits over J plus the covariance of two
    splits. Nadeau and Bengio (``corrected_resampled_t``) take the covariance as a share of the
    former, which is far too much where few patients train: what such trainings do varies from
    split to split, and hardly anything of it is shared. Shared are patients who test in both.
    So the covariance is taken from the variance between patients, over their number (``shared``).

    Args:
        differences: [M], one a patient and split.
        repeats: [M], in which split.
        patients: [M], of whom.
        fraction: Share of the training part that trains, above 0, up to 1.
        total: Patients in the training and test parts of a split.
        level: Confidence of the interval, 0..1.

    Returns:
        None for fewer than three splits, or two patients in each, and where nothing varies and the
        difference is not zero.
    """
    values, repeat = np.asarray(differences, dtype=np.float64), np.asarray(repeats)
    splits = np.unique(repeat)
    parts = estimate(values, repeat, patients)
    if parts is None or len(splits) < LEAST_REPEATS:
        return None
    mean = float(np.mean([values[repeat == split].mean() for split in splits]))
    return _t_test(mean, *splits_error(parts, len(splits), fraction, total), level)


def splits_error(
    parts: VarianceComponents, repeats: int, fraction: float, total: float
) -> tuple[float, float]:
    """Return standard error and degrees of freedom of ``splits_t``.

    What a training does to single patients is shared between splits only as far as the same
    patients train: it counts by the square root of the fraction. That lies between none of it
    (too bold) and all (too careful), and was chosen by simulation (``docs/benchmarks.md``).
    """
    shared = (parts.patients + math.sqrt(fraction) * parts.both) / total
    tested = min(repeats * parts.tests, total)
    return summed((shared, tested - 1), (parts.repeats / repeats, repeats - 1))


def crossed_t(differences: Values, *, overlap: float = 0.0, level: float = 0.95) -> Tested | None:
    """Test whether the mean difference is zero where every repeat tests the same patients.

    Patients and repeats (draws of the training patients, or seeds of the weights) are crossed
    random effects, as readers and cases are (Dorfman, Berbaum and Metz, Investigative Radiology
    27, 1992). The variance of the mean is s^2(patients) / P + s^2(repeats) / J, of the means of
    each patient over repeats and of each repeat over patients, less s^2(both) / PJ, of what a
    repeat does to single patients, which both of them hold. It is never less than the larger of
    the first two. The degrees of freedom are Satterthwaite's (Biometrics Bulletin 2, 1946): J - 1
    are too many where there are fewer patients than repeats, and too few where patients differ
    more than repeats do. With two repeats, or two patients, there is one.

    Draws from one pool that overlap differ less than draws of new patients would. ``overlap``
    times the variance of draws is added for that.

    With one repeat this is the paired t-test over patients: it speaks of that training alone.

    Args:
        differences: [P, J], a row a patient and a column a repeat.
        overlap: How alike draws are, as ``overlap_of`` has it; 0 where they are independent.
        level: Confidence of the interval, 0..1.

    Returns:
        None for fewer than two patients, and where nothing varies and the difference is not zero.
    """
    table = np.asarray(differences, dtype=np.float64)
    patients, repeats = np.indices(table.shape)
    parts = estimate(table.ravel(), repeats.ravel(), patients.ravel())
    if parts is None:
        return None
    return _t_test(float(table.mean()), *crossed_error(parts, table.shape[1], overlap), level)


def crossed_error(parts: VarianceComponents, repeats: int, overlap: float) -> tuple[float, float]:
    """Return standard error and degrees of freedom of ``crossed_t``."""
    own, both = parts.patients / parts.tests, parts.both / parts.tests
    if repeats == 1:
        return math.sqrt(own + both), parts.tests - 1
    drawn = parts.repeats / repeats
    own = max(own, own + both / repeats - drawn)
    drawn += overlap * max(parts.repeats - both, 0.0)
    return summed((own, parts.tests - 1), (drawn, repeats - 1))


def overlap_of(train: float, pool: float) -> float:
    """Return how far results of two random draws from one pool vary together, 0..1.

    An effect of k patients together is shared by two draws of n out of N where all k are in both:
    C(n, k) / C(N, k) of it (Hoeffding, A class of statistics with asymptotically normal
    distribution, Annals of Mathematical Statistics 19, 1948). Around its optimum a loss is
    quadratic in what the training patients move, so k is taken as 2. A linear effect, n / N, is
    the most there could be, and makes the test blind in simulated studies.

    Args:
        train: Patients in a draw.
        pool: Patients who are drawn from.
    """
    if pool <= 1 or train >= pool:
        return 1.0
    return max(train * (train - 1) / pool / (pool - 1), 0.0)


def summed(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """Return the error and Satterthwaite's degrees of freedom of the sum of two variances.

    Args:
        first: A variance and its degrees of freedom.
        second: Another one.

    Returns:
        Where either has one degree of freedom, one: Satterthwaite's are too many for so few.
    """
    total, least = first[0] + second[0], min(first[1], second[1])
    if least <= 1 or total == 0:
        return math.sqrt(total), least
    return math.sqrt(total), total**2 / sum(part**2 / df for part, df in (first, second))


def _t_test(mean: float, error: float, df: float, level: float) -> Tested | None:
    """Return the test of a mean with its standard error; None where only the error is zero."""
    if error == 0:
        return Tested(Interval(0.0, 0.0, 0.0, level), 0.0, 0.0, df, 1.0) if mean == 0 else None
    t = mean / error
    half = float(stats.t.ppf((1 + level) / 2, df)) * error
    p = 2 * float(stats.t.sf(abs(t), df))
    return Tested(Interval(mean, mean - half, mean + half, level), error, t, df, p)
