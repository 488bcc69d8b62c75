"""Small linear models on features: they read labels (ridge) or tell kinds of images (logistic)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from scipy.stats import rankdata

Array = npt.NDArray[Any]
PENALTIES = (1.0, 10.0, 100.0, 1000.0, 10000.0)
FOLDS = 5
DRAWS = 2000  # of a bootstrap or a permutation test
_NEWTON_STEPS = 25


def fit_ridge(
    train: tuple[Array, Array], validation: tuple[Array, Array]
) -> Callable[[Array], Array]:
    """Fit a ridge regression of targets on standardised features.

    Args:
        train: Features [N, D] and targets [N, K].
        validation: Those of other patients, on which the chosen of the ``PENALTIES`` has the least
            squared error.

    Returns:
        From features [M, D] to predictions [M, K].
    """
    features, targets = train
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    centre = targets.mean(axis=0)
    # By singular values every penalty costs one product.
    u, s, vt = np.linalg.svd((features - mean) / spread, full_matrices=False)
    inner = u.T @ (targets - centre)

    def model(penalty: float) -> Callable[[Array], Array]:
        weights = vt.T @ ((s / (s**2 + penalty))[:, None] * inner)
        return lambda rows: (rows - mean) / spread @ weights + centre

    def error(penalty: float) -> float:
        return float(((model(penalty)(validation[0]) - validation[1]) ** 2).mean())

    return model(min(PENALTIES, key=error))


def separability(first: Array, second: Array, groups: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return the scores of a classifier of two kinds of images, on patients it has not seen.

    It is a logistic regression with penalty 1 on standardised features, over 5 folds of patients;
    a patient who has both kinds is in one fold.

    Args:
        first: Features [N, D].
        second: Features [M, D].
        groups: The patient of each of the first [N] and the second [M].

    Returns:
        Scores [N] and [M], higher for the second kind.
    """
    features = np.concatenate([first, second]).astype(np.float64)
    truth = np.repeat([0.0, 1.0], [len(first), len(second)])
    people = np.concatenate(groups).astype(str)
    fold = np.empty(len(people), dtype=np.intp)
    order = np.random.default_rng(0)
    kinds = {name: (truth[people == name].min(), truth[people == name].max()) for name in people}
    for kind in sorted(set(kinds.values())):  # each kind is spread over all folds
        names = sorted(name for name in kinds if kinds[name] == kind)
        for place, name in enumerate(order.permutation(names)):
            fold[people == name] = place % FOLDS
    scores = np.zeros(len(people))
    for number in range(FOLDS):
        held = fold == number
        if held.any() and len(set(truth[~held])) == 2:
            mean, spread = features[~held].mean(axis=0), features[~held].std(axis=0) + 1e-6
            scaled = np.column_stack([(features - mean) / spread, np.ones(len(features))])
            weights = _logistic(scaled[~held], truth[~held])
            scores[held] = scaled[held] @ weights
    return scores[: len(first)], scores[len(first) :]


def _logistic(features: Array, truth: Array) -> Array:
    """Return weights [D]; Newton's method, penalty 1 on all but the last, classes balanced."""
    penalty = np.eye(features.shape[1])
    penalty[-1, -1] = 1e-6
    share = truth.mean()
    balance = np.where(truth == 1, 0.5 / share, 0.5 / (1 - share))
    weights = np.zeros(features.shape[1])
    for _ in range(_NEWTON_STEPS):
        chance = expit(features @ weights)
        slope = features.T @ (balance * (chance - truth)) + penalty @ weights
        curvature = (features.T * (balance * (chance * (1 - chance)))) @ features + penalty
        step = np.linalg.solve(curvature, slope)
        weights = weights - step
        if np.abs(step).max() < 1e-6:
            break
    return weights


def auc(negatives: Array, positives: Array) -> float:
    """Return the area under the ROC curve: how often a positive exceeds a negative; ties half."""
    ranks = rankdata(np.concatenate([negatives, positives]))[len(negatives) :]
    wins = ranks.sum() - len(positives) * (len(positives) + 1) / 2
    return float(wins / (len(negatives) * len(positives)))


def auc_interval(
    negatives: Array, positives: Array, groups: tuple[Array, Array], *, draws: int = 400
) -> tuple[float, float]:
    """Return the 95 % interval of ``auc``: a bootstrap over the patients of either kind."""
    random = np.random.default_rng(1)

    def rows(names: Array) -> Callable[[], Array]:
        by = [np.flatnonzero(names == name) for name in sorted(set(names.tolist()))]
        return lambda: np.concatenate([by[i] for i in random.integers(len(by), size=len(by))])

    draw = [rows(np.asarray(names, dtype=str)) for names in groups]
    found = [auc(negatives[draw[0]()], positives[draw[1]()]) for _ in range(draws)]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def agreement(predicted: Array, truth: Array) -> float:
    """Return Pearson's correlation of two tables [N, K] with centred columns, in [-1, 1].

    With one column, it is that of two variables; between class probabilities and indicators, it is
    1 where they are equal and 0 where they are unrelated.
    """
    a, b = predicted - predicted.mean(axis=0), truth - truth.mean(axis=0)
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def chance_of(predicted: Array, truth: Array, patients: Array) -> float:
    """Return how often unrelated labels agree as well (one-sided, over patients).

    Where each patient is one case, labels are put in random order. Where labels differ within a
    patient, the patients' contributions to the agreement get random signs (Hemerik, Goeman and
    Finos 2020, "Robust testing in generalized linear models by sign flipping score contributions",
    JRSS B 82, section 2): cases of a patient cannot change places with those of another.

    Args:
        predicted: [N, K].
        truth: [N, K].
        patients: The patient of each case [N].
    """
    random = np.random.default_rng(2)
    names, owner = np.unique(patients, return_inverse=True)
    if len(names) < len(patients):
        products = (predicted - predicted.mean(axis=0)) * (truth - truth.mean(axis=0))
        parts = np.bincount(owner, weights=products.sum(axis=1))
        signs = random.choice((-1.0, 1.0), size=(DRAWS, len(parts)))
        least = parts.sum() - 1e-12 * np.abs(parts).sum()
        return float(1 + (signs @ parts >= least).sum()) / (1 + DRAWS)
    found = agreement(predicted, truth)
    as_well = sum(
        agreement(predicted, truth[random.permutation(len(truth))]) >= found - 1e-12
        for _ in range(DRAWS)
    )
    return (1 + as_well) / (1 + DRAWS)
