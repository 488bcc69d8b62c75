"""How source and target differ before and after translation: prevalence and the domain gap."""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2_contingency, ks_2samp

from medxlate.base.errors import percent
from medxlate.dataset.labels import Task
from medxlate.evaluation.audits.probes import Array, auc, auc_interval, separability
from medxlate.evaluation.audits.rule import Rule
from medxlate.evaluation.audits.sample import Sample, cases, group_means, points
from medxlate.evaluation.results import Audit, Picture

FEWEST_PATIENTS = 10  # of each kind; below, a Kolmogorov-Smirnov test at 1 % sees next to nothing
# A fifth of the patients would have to be others: smaller differences hardly change what a
# discriminator is shown.
EFFECT = 0.2
CHANCE = 0.01  # 1 %, not 5 %: one warning in a hundred studies whose patients are alike
PREVALENCE = Rule(
    "prevalence",
    f"Fires if the label distributions of the two modalities differ by at least "
    f"{percent(EFFECT)} of the patients and the difference is significant over patients "
    f"(Kolmogorov-Smirnov or chi-square test, p < {percent(CHANCE)}).",
    "A translator may add features that are more common in the target. Match the patients of both "
    "modalities by label, or balance the training parts.",
    EFFECT,
)
# Half of the way from telling nothing to telling everything is 0.75; beyond 0.85 most translated
# images are told from real ones by 32 simple figures.
GAP = 0.85
DOMAIN_GAP = Rule(
    "domain-gap",
    "Fires if a classifier on simple image statistics, tested on unseen patients, distinguishes "
    f"translated from real images with an AUC whose 95 % confidence interval lies above {GAP:g}.",
    "A predictor may learn features that only translated images have. Train longer, or check that "
    "both modalities were sliced, oriented and windowed in the same way.",
    GAP,
)


def prevalence(
    source: str, target: str, labels: tuple[Array, Array], patients: tuple[Array, Array], task: Task
) -> Audit:
    """Compare the labels of source and target training patients.

    Args:
        source: The source modality.
        target: The target modality.
        labels: Of source [N] and target [M] training images.
        patients: The patient of each. A patient counts once: by the mean of the different labels,
            or in equal parts for each of the different classes.
        task: What the labels mean.
    """
    count, known = (len(set(each.tolist())) for each in patients)
    if task.kind == "regression":
        own, other = (_once(a, b) for a, b in zip(labels, patients, strict=True))
        picture = Picture(
            kind="histogram", title="Training patients by label", y_label="patients",
            x_label=f"{task.name}, {task.unit}" if task.unit else task.name,
            lines=(points(source, own), points(target, other)),
        )  # fmt: skip
    else:
        indicators = [np.eye(len(task.classes))[each] for each in labels]
        own, other = (_once(a, b) for a, b in zip(indicators, patients, strict=True))
        picture = Picture(
            kind="bars", title="Training patients by class", x_label=task.name,
            y_label="fraction of patients", ticks=task.classes,
            lines=tuple(
                points(name, np.arange(len(task.classes)), each.mean(axis=0))
                for name, each in ((source, own), (target, other))
            ),
        )  # fmt: skip
    both = f"{count} {source} and {known} {target} training patients"
    if min(count, known) < FEWEST_PATIENTS:
        few = f"{both} are too few to compare; {FEWEST_PATIENTS} of each are needed."
        return PREVALENCE.audit(source, "unknown", few, picture=picture)
    effect, chance, middle = _difference(own, other, task)
    fires = effect >= EFFECT and chance < CHANCE
    return PREVALENCE.audit(
        source,
        "fires" if fires else "ok",
        f"The label distributions of {both} differ by up to {percent(effect)} of the patients "
        f"(p = {chance:.2g}){middle}.",
        value=effect,
        picture=picture,
    )


def domain_gap(source: str, original: Sample, translated: Sample, real: Sample) -> Audit:
    """Measure how well translated images are told from real ones, and how well source images are.

    Args:
        source: The source modality.
        original: Source test images.
        translated: The same, translated.
        real: Real target images of patients who are not among the training patients.
    """
    if min(translated.people, real.people) < FEWEST_PATIENTS:
        few = (
            f"Images of {translated.people} translated and {real.people} real patients are too few "
            f"for a classifier; {FEWEST_PATIENTS} of each are needed."
        )
        return DOMAIN_GAP.audit(source, "unknown", few)
    before, _, _, _ = gap(original, real)
    after, (low, high), negatives, positives = gap(translated, real)
    return DOMAIN_GAP.audit(
        source,
        "fires" if low > GAP else "ok",
        f"A classifier distinguishes translated from real images with an AUC of {after:.2f} (95 % "
        f"CI {low:.2f} to {high:.2f}), compared with {before:.2f} before translation (0.5 is "
        "chance).",
        value=after,
        picture=Picture(
            kind="histogram",
            title="Classifier scores of translated and real images",
            x_label="score (log odds of being real)",
            y_label="images",
            lines=(points("translated", negatives), points("real", positives)),
        ),
    )


def gap(first: Sample, real: Sample) -> tuple[float, tuple[float, float], Array, Array]:
    """Return the area under the curve, its interval, and the scores of first and real images."""
    groups = first.patients, real.patients
    scores = separability(first.statistics, real.statistics, groups)
    return auc(*scores), auc_interval(*scores, groups), *scores


def _once(labels: Array, patients: Array) -> Array:
    """Return the mean [P, ...] of each patient's different labels, or indicators of classes."""
    different, owners, _ = cases(labels.reshape(len(labels), -1), patients)
    return group_means(different, owners).reshape(-1, *labels.shape[1:])


def _difference(own: Array, other: Array, task: Task) -> tuple[float, float, str]:
    """Return the effect in [0, 1], its chance, and a remark on the medians."""
    if task.kind == "regression":
        test = ks_2samp(own, other)
        unit = f" {task.unit}" if task.unit else ""
        middle = f"; their medians are {np.median(own):.4g} and {np.median(other):.4g}{unit}"
        return float(test.statistic), float(test.pvalue), middle
    counts = np.stack([each.sum(axis=0) for each in (own, other)])
    counts = counts[:, counts.any(axis=0)]
    shares = counts / counts.sum(axis=1, keepdims=True)
    chance = float(chi2_contingency(counts).pvalue) if counts.shape[1] > 1 else 1.0
    return float(np.abs(shares[0] - shares[1]).sum() / 2), chance, ""
