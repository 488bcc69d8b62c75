from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from medxlate.base.errors import DataError
from medxlate.study.statistics import (
    Interval,
    difference_interval,
    effect_size,
    holm,
    mean_interval,
    wilcoxon,
)
from medxlate.study.subgroups import subgroups
from medxlate.study.ttests import corrected_resampled_t
from medxlate.study.verdicts import Comparison, against_baselines, compare_to

# Mean losses of a method minus its reference, ten repeats.
DIFFERENCES = [-3.1, -1.2, 0.4, -2.6, -4.0, -0.3, -1.9, -2.2, 0.8, -2.7]


# ------------------------------------------------------------------ the corrected t-test


def test_corrected_t_against_scikit_learn() -> None:
    """scikit-learn's example "Statistical comparison of models using grid search".

    Its text prints a corrected t of 0.750 and a one-sided p of 0.227 for AUROC of a support vector
    machine's rbf and linear kernel over 10 x 10-fold cross-validation of 100 samples (90 and 10).
    The 100 differences are those that scikit-learn 1.9.1 finds, multiples of 0.04.
    """
    counts = {-0.12: 1, -0.08: 2, -0.04: 10, 0.0: 53, 0.04: 29, 0.08: 4, 0.20: 1}
    tested = corrected_resampled_t(
        np.repeat(list(counts), list(counts.values())), train=90, test=10
    )
    assert tested is not None
    assert tested.t == pytest.approx(0.750, abs=5e-4)
    assert tested.p / 2 == pytest.approx(0.227, abs=5e-4)


def r_normal(count: int, seed: int) -> np.ndarray:
    """What R's set.seed(seed); rnorm(count) gives: Mersenne Twister, inversion."""
    state, words = seed, []
    for step in range(50 + 625):
        state = (69069 * state + 1) % 2**32
        words += [state] if step > 50 else []
    twister = np.random.MT19937()
    twister.state = {
        "bit_generator": "MT19937",
        "state": {"key": np.array(words, dtype=np.uint32), "pos": 624},
    }
    uniform = twister.random_raw(2 * count).reshape(count, 2) * 2.3283064365386963e-10
    big = 134217728
    return stats.norm.ppf((np.floor(big * uniform[:, 0]) + uniform[:, 1]) / big)


def test_corrected_t_against_correct_r() -> None:
    """The vignette of R's package correctR: resampled_ttest(n = 30, n1 = 80, n2 = 20).

    It prints statistic 2.407318 and p.value 0.02265982 for two rnorm(30) after set.seed(123).
    """
    normal = r_normal(60, seed=123)
    assert normal[:3] == pytest.approx([-0.56047565, -0.23017749, 1.55870831], abs=1e-8)
    differences = (0.6 + 0.1 * normal[:30]) - (0.4 + 0.1 * normal[30:])
    tested = corrected_resampled_t(differences, train=80, test=20)
    assert tested is not None
    assert tested.t == pytest.approx(2.407318, abs=5e-7)
    assert tested.p == pytest.approx(0.02265982, abs=5e-9)


def test_corrected_t_against_baycomp() -> None:
    """baycomp 1.0.3, CorrelatedTTest: mean, variance and tail of its t distribution.

    Ten differences of one ten-fold cross-validation (test/train 1/9), and of two five-fold ones
    (1/4); half the two-sided p is the smaller of its two probabilities.
    """
    for test, variance, tail in (
        (1, 0.521116049382716, 0.0224747318339249),
        (2.25, 0.8639555555555555, 0.05207831548640318),
    ):
        tested = corrected_resampled_t(DIFFERENCES, train=9, test=test)
        assert tested is not None
        assert tested.interval.estimate == pytest.approx(-1.68)
        assert tested.t == pytest.approx(-1.68 / math.sqrt(variance))
        assert tested.p == pytest.approx(2 * tail)
        assert tested.df == 9


def test_corrected_t_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, variance 1; factor 1/3 + 1/2 = 5/6, so t = 2 / sqrt(5/6).

    With 2 degrees of freedom, two-sided p is 1 - t / sqrt(t^2 + 2) in closed form: t^2 = 4.8,
    p = 1 - sqrt(4.8 / 6.8). The 95 % quantile of t(2) is 4.302653 in every table.
    """
    tested = corrected_resampled_t([1, 2, 3], train=20, test=10)
    assert tested is not None
    assert tested.t == pytest.approx(math.sqrt(4.8))
    assert tested.p == pytest.approx(1 - math.sqrt(4.8 / 6.8))
    half = 4.302653 * math.sqrt(5 / 6)
    assert tested.interval.low == pytest.approx(2 - half, abs=1e-6)
    assert tested.interval.high == pytest.approx(2 + half, abs=1e-6)


def test_without_overlap_it_is_the_paired_t_test() -> None:
    tested = corrected_resampled_t(DIFFERENCES, train=1, test=0)
    plain = stats.ttest_1samp(DIFFERENCES, 0)
    assert tested is not None
    assert (tested.t, tested.p) == pytest.approx((plain.statistic, plain.pvalue))


def test_where_there_is_no_t() -> None:
    assert corrected_resampled_t([-3.0], train=8, test=2) is None
    assert corrected_resampled_t([0.1 + 0.2, 0.3, 0.3], train=8, test=2) is None
    nothing = corrected_resampled_t([0.0, 0.0, 0.0], train=8, test=2)
    assert nothing is not None
    assert (nothing.t, nothing.p) == (0, 1)
    assert nothing.interval == Interval(0, 0, 0, 0.95)


# ------------------------------------------------------------------ Wilcoxon, Holm, effect size


@pytest.mark.parametrize(("count", "critical"), [(6, 0), (7, 2), (8, 3), (9, 5), (10, 8)])
def test_wilcoxon_against_the_table(count: int, critical: int) -> None:
    """Critical values of T at a two-sided level of 5 % (OEIS A226330; York, Statistical tables).

    The rank sum of the differences of the rarer sign is just T, or one above it.
    """

    def rank_sum(total: int) -> list[float]:
        ranks, signs = range(count, 0, -1), {}
        for rank in ranks:
            signs[rank] = 1 if rank <= total else -1
            total -= rank if rank <= total else 0
        assert total == 0
        return [sign * 0.37 * rank for rank, sign in signs.items()]

    below, above = wilcoxon(rank_sum(critical)), wilcoxon(rank_sum(critical + 1))
    assert below is not None
    assert above is not None
    assert below <= 0.05 < above


def test_wilcoxon_published_example() -> None:
    """Hollander and Wolfe (1973), depression scores: R's ?wilcox.test, one-sided p 0.01953."""
    first = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
    second = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])
    assert wilcoxon(second - first) == pytest.approx(2 * 0.01953125)


def test_wilcoxon_of_little() -> None:
    assert wilcoxon([0.0, 0.0, 0.0]) is None
    assert wilcoxon([2.0]) is None
    assert wilcoxon([2.0, 0.0]) == 1
    assert wilcoxon([2.0, 3.0, 0.0]) == 0.5  # two of one sign: 2 of 4 arrangements


def test_wilcoxon_is_exact_with_equal_ranks_too() -> None:
    """By hand, by every one of 2^7 signs, and by scipy's own (slow) permutation of the signs.

    Of 1, 1, 2, -3 the ranks are 1.5, 1.5, 3, 4: a sum of 4 or less has 6 of 16 arrangements
    (0, 1.5, 1.5, 3, 3, 4), so p = 12 / 16.
    """
    assert wilcoxon([1.0, 1.0, 2.0, -3.0]) == 0.75
    random = np.random.default_rng(0)
    signs = np.array(list(itertools.product([0, 1], repeat=7)))
    for _ in range(20):
        tied = random.integers(1, 5, 7) * random.choice([-1.0, 1.0], 7)
        ranks = stats.rankdata(abs(tied))
        found, null = ranks[tied > 0].sum(), signs @ ranks
        expected = min(1, 2 * min((null <= found).mean(), (null >= found).mean()))
        assert wilcoxon(tied) == pytest.approx(expected)
    slow = stats.wilcoxon(tied, method=stats.PermutationMethod(n_resamples=np.inf))
    assert wilcoxon(tied) == pytest.approx(slow.pvalue)


@pytest.mark.parametrize(
    ("raw", "adjusted"),
    [
        # The example of Wikipedia's "Holm-Bonferroni method": 4 p <= 0.05, 3 p <= 0.05, then not.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        # stdlib's documentation of padjust(..., "holm").
        ([0.319, 0.201, 0.4, 0.374, 0.113], [0.957, 0.804, 0.957, 0.957, 0.565]),
        # statsmodels 0.15.0, multipletests(method="holm").
        ([0.01, 0.04, 0.20, 0.03, 0.005, 0.07], [0.05, 0.12, 0.20, 0.12, 0.03, 0.14]),
        # The same of 11 of the p-values of Benjamini and Hochberg (1995), section 4.1.
        (
            [
                0.0001,
                0.0004,
                0.0019,
                0.0095,
                0.0201,
                0.0278,
                0.0298,
                0.0344,
                0.0459,
                0.3240,
                0.4262,
            ],
            [0.0011, 0.0040, 0.0171, 0.0760, 0.1407, 0.1668, 0.1668, 0.1668, 0.1668, 0.648, 0.648],
        ),
        ([], []),
    ],
)
def test_holm(raw: list[float], adjusted: list[float]) -> None:
    assert holm(raw) == pytest.approx(adjusted)


def test_holm_does_not_count_what_was_not_tested() -> None:
    assert holm([None, 0.02, None, 0.01]) == [None, pytest.approx(0.02), None, pytest.approx(0.02)]


def test_effect_size() -> None:
    """t of a paired test is d_z times the root of the number of pairs."""
    expected = stats.ttest_1samp(DIFFERENCES, 0).statistic / math.sqrt(10)
    assert effect_size(DIFFERENCES) == pytest.approx(expected)
    assert effect_size([1, 2, 3]) == 2
    assert effect_size([1.0]) is None
    assert effect_size([0.0, 0.0]) is None


# ------------------------------------------------------------------ the bootstrap


def clustered(patients: int, seed: int, *, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Losses of mean 10: a patient's own deviation, and noise; 1 to 20 images a patient."""
    random = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), random.integers(1, 21, patients))
    return 10 + spread * random.normal(size=patients)[owner] + random.normal(size=len(owner)), owner


def linearised_error(losses: np.ndarray, owner: np.ndarray) -> float:
    """The standard error of a ratio of sums over clusters, to first order (Cochran 1977, 6.4)."""
    counts, sums = np.bincount(owner), np.bincount(owner, weights=losses)
    rest = sums - losses.mean() * counts
    clusters = len(counts)
    return math.sqrt(clusters / (clusters - 1) * (rest**2).sum()) / len(losses)


def width(interval: Interval | None) -> float:
    assert interval is not None
    return interval.high - interval.low


def test_bootstrap_is_close_to_normal_theory() -> None:
    losses, owner = clustered(300, seed=1)
    interval = mean_interval(losses, owner)
    half = 1.959964 * linearised_error(losses, owner)
    assert interval is not None
    assert interval.estimate == pytest.approx(losses.mean())
    assert interval.low == pytest.approx(losses.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(losses.mean() + half, abs=0.1 * half)
    narrower = mean_interval(losses, owner, level=0.68)
    assert width(narrower) == pytest.approx(width(interval) * 0.994 / 1.96, rel=0.1)


def test_bootstrap_covers_the_truth() -> None:
    found = [mean_interval(*clustered(60, seed=s), resamples=400, seed=s) for s in range(300)]
    inside = np.mean([i is not None and i.low <= 10 <= i.high for i in found])
    assert 0.91 <= inside <= 0.975  # 95 %, with two standard errors of 300 trials


def test_patients_are_drawn_not_images() -> None:
    losses, owner = clustered(40, seed=2, spread=3)
    by_patient = mean_interval(losses, owner)
    by_image = mean_interval(losses, np.arange(len(losses)))
    assert width(by_patient) > 2.5 * width(by_image)
    again = mean_interval(np.tile(losses, 10), np.tile(owner, 10))  # ten repeats tell no more
    assert width(again) == pytest.approx(width(by_patient), rel=1e-6)


def test_differences_are_paired() -> None:
    """What makes a patient hard for both systems cancels out."""
    losses, owner = clustered(40, seed=3, spread=5)
    random = np.random.default_rng(0)
    better = losses - 0.5 + 0.1 * random.normal(size=len(losses))
    interval = difference_interval(better, losses, owner)
    assert interval is not None
    assert -0.6 < interval.low < -0.5 < interval.high < -0.4
    assert width(interval) < 0.05 * width(mean_interval(losses, owner))


def test_bootstrap_is_seeded_and_knows_its_limits() -> None:
    losses, owner = clustered(30, seed=4)
    again = mean_interval(losses, owner)
    assert again is not None
    assert again == mean_interval(losses, [f"p{i:02d}" for i in owner])
    back = mean_interval(losses[::-1], owner[::-1])  # nor does the order of the rows matter
    assert back is not None
    assert dataclasses.astuple(back) == pytest.approx(dataclasses.astuple(again))
    assert mean_interval(losses, owner) != mean_interval(losses, owner, seed=1)
    assert mean_interval([1.0, 2.0, 3.0], ["a", "b", "b"]) is None
    assert mean_interval([], []) is None
    assert mean_interval([1.0] * 6, list("aabbcc")) == Interval(1, 1, 1, 0.95)
    few = mean_interval([0.0, 0.0, 1.0, 0.0], list("abcd"))  # one error in four
    assert few is not None
    assert 0 <= few.low <= 0.25 <= few.high <= 1


# ------------------------------------------------------------------ studies


def frame(losses: dict[str, list[float]], *, policy: str = "patient", **columns) -> pd.DataFrame:
    """Results from the losses of each "method" or "method/sources", in order of the repeats."""
    rows = [
        {
            "method": name.partition("/")[0],
            "sources": name.partition("/")[2],
            "repeat": repeat,
            "target_fraction": 1.0,
            "source_fraction": 1.0,
            "policy": policy,
            "mse": loss,
            "loss": loss / 2,
            "patient_loss": loss,
            "train_patients": 40,
            "test_patients": 10,
            "train_images": 400,
            "test_images": 50,
            **columns,
        }
        for name, each in losses.items()
        for repeat, loss in enumerate(each)
        if loss is not None
    ]
    return pd.DataFrame(rows)


def named(found: list[Comparison]) -> dict[str, Comparison]:
    return {c.system.name: c for c in found}


TARGET = [100.0, 104, 98, 107, 95, 101, 99, 103, 96, 102]
WOBBLE = [0, 1, -1, 2, 0, -2, 1, 0, -1, 1]
CLEAR = [loss - 20 + wobble for loss, wobble in zip(TARGET, WOBBLE, strict=True)]
STUDY = {
    "target-only": TARGET,
    "joint/mri": CLEAR,
    "joint/mri+pet": [loss - 15 for loss in CLEAR],
    "cyclegan/mri": [loss + 40 + i for i, loss in enumerate(TARGET)],
    "autoaugment": [loss + (-1) ** i * 3 for i, loss in enumerate(TARGET)],
    "constant": [160.0 + i for i in range(10)],
}


def test_verdicts_of_a_clear_study() -> None:
    found = named(compare_to(frame(STUDY)))
    assert list(found) == [
        "autoaugment",
        "constant",
        "cyclegan (mri)",
        "joint (mri)",
        "joint (mri+pet)",
    ]
    assert {name: c.verdict for name, c in found.items()} == {
        "autoaugment": "no difference shown",
        "constant": "hurts",
        "cyclegan (mri)": "hurts",
        "joint (mri)": "helps",
        "joint (mri+pet)": "helps",
    }
    joint = found["joint (mri)"]
    differences = np.subtract(CLEAR, TARGET)
    tested = corrected_resampled_t(differences, train=40, test=10)
    assert tested is not None
    assert (joint.t, joint.p, joint.interval) == (tested.t, tested.p, tested.interval)
    assert joint.mean == pytest.approx(np.mean(CLEAR))
    assert joint.std == pytest.approx(np.std(CLEAR, ddof=1))
    assert joint.difference == pytest.approx(differences.mean())
    assert joint.relative_change == pytest.approx(differences.mean() / np.mean(TARGET))
    assert joint.wilcoxon_p == wilcoxon(differences)
    assert joint.effect_size == effect_size(differences)
    assert (joint.repeats, joint.study_repeats) == (10, 10)
    assert joint.beats_constant
    assert joint.loss_interval is None


def test_holm_is_over_all_but_the_constant() -> None:
    found = compare_to(frame(STUDY))
    family = [c for c in found if c.system.method != "constant"]
    assert [c.p_holm for c in family] == holm([c.p for c in family])
    constant = named(found)["constant"]
    assert constant.p_holm is None
    assert "(unadjusted)" in constant.sentence
    without = compare_to(frame({k: v for k, v in STUDY.items() if k != "constant"}))
    assert [c.p_holm for c in without] == [c.p_holm for c in family]
    assert without[0].beats_constant is None


def test_holm_can_change_a_verdict() -> None:
    """p of one method is 0.02 to 0.05: enough alone, not among three."""
    close = [loss + change for loss, change in zip(TARGET, DIFFERENCES, strict=True)]
    noise = {f"m{k}": [x + (-1) ** (i + k) for i, x in enumerate(TARGET)] for k in range(2)}
    results = frame({"target-only": TARGET, "joint/mri": close}).assign(test_patients=3)
    alone = named(compare_to(results))["joint (mri)"]
    assert alone.p is not None
    assert 0.02 < alone.p < 0.05
    assert alone.verdict == "helps"
    more = pd.concat([results, frame(noise).assign(test_patients=3)])
    among = named(compare_to(more))["joint (mri)"]
    assert among.p == alone.p
    assert among.p_holm == pytest.approx(3 * alone.p)
    assert among.verdict == "no difference shown"
    assert named(compare_to(more, alpha=0.2))["joint (mri)"].verdict == "helps"


def test_the_correction_counts_what_the_splits_divide() -> None:
    losses = {"target-only": TARGET, "joint/mri": CLEAR}
    differences = np.subtract(CLEAR, TARGET)
    for policy, train, test in (("patient", 40, 10), ("image", 400, 50)):
        (found,) = compare_to(frame(losses, policy=policy))
        expected = corrected_resampled_t(differences, train=train, test=test)
        assert expected is not None
        assert found.p == expected.p
        said = "slices of one patient can be in both training and test" in found.sentence
        assert said == (policy == "image")
    with pytest.raises(DataError, match="image and patient"):
        compare_to(pd.concat([frame(losses), frame(losses, policy="image")]))


def test_sentences() -> None:
    found = named(compare_to(frame(STUDY)))
    assert found["joint (mri)"].sentence == (
        "joint (mri) helps: MSE per patient 80.6 ± 4.48 against 100.5 ± 3.69 for target-only, "
        "difference -19.9 (95 % CI -21.5 to -18.3), p < 0.001 (Holm-adjusted), "
        "over 10 repeats. Without raw-mix or histogram in the study, it is unknown whether the "
        "translation helps or the added source patients alone."
    )
    assert found["autoaugment"].sentence.startswith(
        "No difference shown between autoaugment and target-only: MSE per patient 100.5 ± "
    )
    assert found["constant"].sentence.startswith(
        "constant does worse than target-only: MSE per patient 164.5"
    )
    assert against_baselines(frame(STUDY))[0].sentence.startswith(
        "joint (mri) does better than autoaugment: MSE per patient 80.6"
    )
    assert "p = 1 (Holm-adjusted)" in found["autoaugment"].sentence
    results = frame(STUDY).drop(columns="mse")
    assert "error rate per patient 80.6" in named(compare_to(results))["joint (mri)"].sentence


def test_what_loses_to_the_constant_means_nothing() -> None:
    low = {**STUDY, "constant": [90.0 + i for i in range(10)]}
    found = named(compare_to(frame(low)))
    bad, good = found["cyclegan (mri)"], found["joint (mri)"]
    assert (bad.beats_constant, good.beats_constant) == (False, True)
    assert (
        "does not beat the constant prediction (MSE per patient 94.5), so this result is "
        "meaningless" in bad.sentence
    )
    assert "meaningless" not in good.sentence
    assert "target-only does not beat the constant prediction" in good.sentence
    assert found["constant"].reference_beats_constant is False
    assert "target-only does not beat the constant prediction" in found["constant"].sentence
    tie = {**STUDY, "constant": [x + 0.5 * (-1) ** i + 0.1 for i, x in enumerate(CLEAR)]}
    lead = named(compare_to(frame(tie)))["joint (mri)"]
    assert lead.beats_constant
    assert lead.constant_p is not None
    assert lead.constant_p > 0.05
    assert "is not shown to beat the constant prediction (MSE per patient 80.7)" in lead.sentence


def test_failed_cells_are_left_out_on_both_sides_and_counted() -> None:
    broken = [None, math.nan, *CLEAR[2:]]
    (found,) = compare_to(frame({"target-only": TARGET, "joint/mri": broken}))
    assert found.repeats == 8
    assert found.reference_mean == pytest.approx(np.mean(TARGET[2:]))
    assert "over 8 of 10 repeats" in found.sentence
    assert compare_to(frame({"joint/mri": CLEAR})) == []
    apart = {"target-only": [1.0, None], "joint/mri": [None, 1.0]}
    assert compare_to(frame(apart)) == []


def test_one_repeat_is_no_test() -> None:
    (found,) = compare_to(frame({"target-only": [100.0], "joint/mri": [50.0]}))
    assert found.verdict == "no difference shown"
    assert (found.std, found.t, found.p, found.p_holm, found.wilcoxon_p) == (None,) * 5
    assert found.sentence == (
        "No difference shown between joint (mri) and target-only: MSE per patient 50 against 100 "
        "for target-only, difference -50, not tested because a single repeat has no spread, over 1 "
        "repeat."
    )
    same = {"target-only": [10.0, 20.0], "joint/mri": [9.0, 19.0]}
    (found,) = compare_to(frame(same))
    assert "not tested because the difference is the same in every repeat" in found.sentence


def test_only_the_largest_fractions_are_compared() -> None:
    half = frame({"target-only": TARGET, "joint/mri": TARGET}, target_fraction=0.5)
    quarter = frame({"joint/mri": TARGET}, source_fraction=0.25)
    largest = frame({"joint/mri": CLEAR}, source_fraction=0.75)
    (found,) = compare_to(pd.concat([half, quarter, largest, frame({"target-only": TARGET})]))
    assert (found.system.target_fraction, found.system.source_fraction) == (1.0, 0.75)
    assert found.mean == pytest.approx(np.mean(CLEAR))


def test_levels() -> None:
    image, patient = (compare_to(frame(STUDY), level=level)[0] for level in ("image", "patient"))
    assert patient.mean == pytest.approx(image.mean * 2)
    assert "MSE per patient" in patient.sentence


def test_against_baselines() -> None:
    """Each set of sources of the method has a family: baselines with the same sources, or none."""
    found = against_baselines(frame(STUDY))
    pairs = [(c.system.sources, c.reference.name) for c in found]
    sourceless = ["autoaugment", "constant", "target-only"]
    assert pairs == [
        *[("mri", name) for name in ["autoaugment", "constant", "cyclegan (mri)", "target-only"]],
        *[("mri+pet", name) for name in sourceless],
    ]
    for sources in ("mri", "mri+pet"):
        own = [c for c in found if c.system.sources == sources]
        family = [c for c in own if c.reference.method != "constant"]
        assert [c.p_holm for c in family] == holm([c.p for c in family])
        assert against_baselines(frame(STUDY), sources=sources) == own
    assert {c.verdict for c in found} == {"helps"}
    assert against_baselines(frame(STUDY), method="dann") == []


def test_results_of_another_tool_need_no_sizes() -> None:
    other = frame({"theirs": CLEAR}, train_patients=math.nan, test_patients=math.nan)
    known = frame({"target-only": TARGET, "joint/mri": CLEAR})
    found = named(compare_to(pd.concat([known, other])))
    assert found["theirs"].p == found["joint (mri)"].p


# ------------------------------------------------------------------ predictions


def predicted(random: np.random.Generator, *, repeats: int = 3) -> pd.DataFrame:
    """Two systems on the same images: patient p has p images; joint errs half as much."""
    rows = []
    for repeat in range(repeats):
        for patient in random.permutation(20)[:12]:
            for image in range(patient + 1):
                error = random.normal(scale=10)
                rows += [
                    {
                        "method": method,
                        "sources": sources,
                        "repeat": repeat,
                        "target_fraction": 1.0,
                        "source_fraction": 1.0,
                        "slice_id": f"{patient}/{image}",
                        "patient": f"p{patient:02d}",
                        "label": 20.0 + 2 * patient,
                        "prediction": 20.0 + 2 * patient + share * error,
                        "loss": (share * error) ** 2,
                        "sex": "FM"[patient % 2],
                        "site": "one",
                        "scanner": ["a", "b", None, ""][patient % 4],
                    }
                    for method, sources, share in (("target-only", "", 1.0), ("joint", "mri", 0.5))
                ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def results_of(predictions: pd.DataFrame) -> pd.DataFrame:
    keys = ["method", "sources", "repeat", "target_fraction", "source_fraction"]
    table = predictions.groupby(keys)["loss"].mean().reset_index()
    sizes = {"train_patients": 8, "test_patients": 12, "train_images": 80, "test_images": 120}
    return table.assign(policy="patient", mse=table["loss"], patient_loss=table["loss"], **sizes)


def test_intervals_come_from_paired_predictions() -> None:
    predictions = predicted(np.random.default_rng(5))
    (found,) = compare_to(results_of(predictions), predictions, level="image")
    joint = predictions[predictions["method"] == "joint"]
    assert found.loss_interval == mean_interval(joint["loss"], joint["patient"])
    difference = found.difference_interval
    assert difference is not None
    assert difference.estimate == pytest.approx(-3 * joint["loss"].mean())
    assert difference.low < difference.estimate < difference.high < 0


def test_patients_are_predicted_by_the_mean_of_their_images() -> None:
    predictions = predicted(np.random.default_rng(6))
    (found,) = compare_to(results_of(predictions), predictions, level="patient")
    joint = predictions[predictions["method"] == "joint"]
    each = [
        (group["prediction"].mean() - group["label"].iloc[0]) ** 2
        for _, group in joint.groupby(["repeat", "patient"])
    ]
    assert found.loss_interval is not None
    assert found.loss_interval.estimate == pytest.approx(np.mean(each))
    classes = results_of(predictions).drop(columns="mse")
    (found,) = compare_to(classes, predictions, level="patient")
    assert found.loss_interval is None
    assert found.difference_interval is None


def test_only_shared_repeats_are_resampled() -> None:
    predictions = predicted(np.random.default_rng(7))
    results = results_of(predictions)
    lost = (results["method"] == "target-only") & (results["repeat"] == 1)
    (found,) = compare_to(results[~lost], predictions, level="image")
    kept = predictions[(predictions["method"] == "joint") & (predictions["repeat"] != 1)]
    assert found.loss_interval is not None
    assert found.loss_interval.estimate == pytest.approx(kept["loss"].mean())


def test_subgroups() -> None:
    predictions = predicted(np.random.default_rng(8))
    found = subgroups(
        predictions, ("sex", "site", "scanner", "none"), "physiological_age", regression=True
    )
    assert set(found["subgroup"]) == {"sex", "scanner", "age decade"}  # one site divides nothing
    assert set(found.loc[found["subgroup"] == "scanner", "value"]) == {"a", "b"}
    decades = {"20-29", "30-39", "40-49", "50-59"}
    assert set(found.loc[found["subgroup"] == "age decade", "value"]) <= decades
    women = predictions[(predictions["sex"] == "F") & (predictions["method"] == "joint")]
    each = [women.loc[women["repeat"] == repeat, "loss"].mean() for repeat in range(3)]
    row = found[(found["method"] == "joint") & (found["value"] == "F")].iloc[0]
    assert row["loss"] == pytest.approx(np.mean(each))
    assert row["std"] == pytest.approx(np.std(each, ddof=1))
    assert row["images"] == women["slice_id"].nunique()
    assert row["patients"] == women["patient"].nunique()
    assert row["repeats"] == 3


def test_ages_are_labels_named_like_one() -> None:
    predictions = predicted(np.random.default_rng(9))
    for name in ("age", "PatientAge", "Age (years)"):
        assert set(subgroups(predictions, (), name, regression=True)["subgroup"]) == {"age decade"}
    for name, regression in (("dosage", True), ("stage", True), ("age", False)):
        empty = subgroups(predictions, (), name, regression=regression)
        assert empty.empty
        assert {"method", "subgroup", "value", "loss", "std"} <= set(empty)


# ------------------------------------------------------------------ simulated studies


def simulated(seed: int, *, effect: float, methods: int = 3) -> pd.DataFrame:
    """Real fits on ten overlapping splits of 50 patients, of whom 10 are tested.

    The label is the sum of independent features, and each method fits a line through one of
    them: what they can expect to lose is equal, but not on the patients that happen to be there.
    With an effect, every method but target-only sees that much of the label itself as well.
    """
    random = np.random.default_rng(seed)
    features = random.normal(size=(50, methods + 1))
    label = features.sum(axis=1) + random.normal(size=50)
    seen = features + effect * label[:, None] * (np.arange(methods + 1) > 0)
    losses: dict[str, list[float]] = {}
    for _ in range(10):
        order = random.permutation(50)
        train, test = order[10:], order[:10]
        for k in range(methods + 1):
            slope, offset = np.polyfit(seen[train, k], label[train], 1)
            loss = np.mean((label[test] - slope * seen[test, k] - offset) ** 2)
            losses.setdefault(f"m{k}" if k else "target-only", []).append(float(loss))
    return frame(losses)


def plain_p(c: Comparison, results: pd.DataFrame) -> float:
    losses = results.pivot(index="repeat", columns="method", values="loss")
    return float(stats.ttest_rel(losses[c.system.method], losses["target-only"]).pvalue)


def test_without_an_effect_help_is_rarely_found() -> None:
    corrected = uncorrected = 0
    for seed in range(40):
        results = simulated(seed, effect=0.0)
        found = compare_to(results)
        corrected += any(c.verdict != "no difference shown" for c in found)
        plain = holm([plain_p(c, results) for c in found])
        uncorrected += any(p is not None and p < 0.05 for p in plain)
    assert corrected <= 0.1 * 40
    assert uncorrected >= 0.2 * 40


def test_a_clear_effect_is_found() -> None:
    found = [c for seed in range(10) for c in compare_to(simulated(seed, effect=2.0))]
    helps = sum(c.verdict == "helps" for c in found)
    assert helps >= 0.7 * len(found)
    assert not any(c.verdict == "hurts" for c in found)


def test_results_are_frozen() -> None:
    (found,) = compare_to(frame({"target-only": TARGET, "joint/mri": CLEAR}))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.verdict = "hurts"
