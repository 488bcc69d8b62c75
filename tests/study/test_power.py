"""What a study could show: against closed forms, published tables and simulation."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from medxlate.base.errors import DataError
from medxlate.config import resolve
from medxlate.dataset.splits import Split
from medxlate.study.begin import Grid
from medxlate.study.compare import compare
from medxlate.study.outlook import outlook_of
from medxlate.study.plan import plan
from medxlate.study.power import Design, Spread, chance, detectable, spread_of
from medxlate.study.study import Study, read_study
from medxlate.study.ttests import crossed_t, estimate, overlap_of, splits_t
from medxlate.study.verdicts import compare_to
from studies import BRIEF, call, dataset
from tiny import AGE, GROUP, debug_config

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.power import Layout, measure

# ------------------------------------------------------------------ crossed patients and repeats


def test_crossed_t_by_hand() -> None:
    """Means of patients 1, 2, 3 (variance 1), of repeats 1, 2, 3 (variance 1), nothing else.

    SE^2 = 1/3 + 1/3, so t = 2 / sqrt(2/3); Satterthwaite: (2/3)^2 / (2 (1/3)^2 / 2) = 4.
    """
    table = np.add.outer([1.0, 2.0, 3.0], [-1.0, 0.0, 1.0])
    tested = crossed_t(table)
    assert tested is not None
    assert tested.error == pytest.approx(math.sqrt(2 / 3))
    assert tested.t == pytest.approx(2 / math.sqrt(2 / 3))
    assert tested.df == pytest.approx(4)
    half = 2.776445 * math.sqrt(2 / 3)  # the 95 % quantile of t(4) in every table
    assert (tested.interval.low, tested.interval.high) == pytest.approx((2 - half, 2 + half))


def test_one_repeat_is_a_paired_t_test_over_patients() -> None:
    values = np.random.default_rng(0).normal(1, 2, 12)
    tested, plain = crossed_t(values[:, None]), stats.ttest_1samp(values, 0)
    assert tested is not None
    assert (tested.t, tested.df, tested.p) == pytest.approx((plain.statistic, 11, plain.pvalue))


def test_crossed_degrees_of_freedom_lie_between_those_of_their_parts() -> None:
    random = np.random.default_rng(1)
    patients, repeats = random.normal(size=20), random.normal(size=6)
    for a, b, df in ((1, 1e-6, 19), (1e-6, 1, 5)):
        tested = crossed_t(np.add.outer(a * patients, b * repeats))
        assert tested is not None
        assert tested.df == pytest.approx(df, rel=1e-3)
    two = crossed_t(random.normal(size=(20, 2)))
    assert two is not None
    assert two.df == 1


def test_what_a_repeat_does_to_single_patients_counts_once() -> None:
    """Against the mean squares of an analysis of variance, by numpy alone."""
    table = np.random.default_rng(5).normal(0, (1, 2, 3, 4), (7, 4)) + np.arange(7.0)[:, None]
    rows, columns = table.mean(axis=1), table.mean(axis=0)
    rest = table - rows[:, None] - columns + table.mean()
    variance = rows.var(ddof=1) / 7 + columns.var(ddof=1) / 4 - (rest**2).sum() / (6 * 3) / (7 * 4)
    tested = crossed_t(table)
    assert tested is not None
    assert tested.error**2 == pytest.approx(variance)
    alike = table + 10 * np.sign(rest)  # the patients' means then differ less than by chance
    rows, columns = alike.mean(axis=1), alike.mean(axis=0)
    tested = crossed_t(alike)
    assert tested is not None
    assert tested.error**2 >= max(rows.var(ddof=1) / 7, columns.var(ddof=1) / 4) - 1e-9


def test_overlapping_draws_by_hand() -> None:
    """The example above, with half of the draws' variance of 1 added: 1/3 + 1/3 + 1/2 = 7/6."""
    table = np.add.outer([1.0, 2.0, 3.0], [-1.0, 0.0, 1.0])
    tested = crossed_t(table, overlap=0.5)
    assert tested is not None
    assert tested.error**2 == pytest.approx(7 / 6)
    assert tested.df == pytest.approx((7 / 6) ** 2 / ((1 / 3) ** 2 / 2 + (5 / 6) ** 2 / 2))


def test_overlap_is_that_of_pairs_of_patients() -> None:
    """Sums over the pairs of 6 patients, drawn twice from the same 10: their correlation."""
    assert overlap_of(10, 10) == overlap_of(1, 1) == 1
    assert overlap_of(1, 10) == 0
    assert overlap_of(25, 40) == pytest.approx(math.comb(25, 2) / math.comb(40, 2))
    random, sums = np.random.default_rng(6), []
    for effects in random.normal(size=(6000, 10)):
        drawn = [random.permutation(effects)[:6] for _ in range(2)]
        sums.append([each.sum() ** 2 - (each**2).sum() for each in drawn])
    assert np.corrcoef(np.transpose(sums))[0, 1] == pytest.approx(overlap_of(6, 10), abs=0.06)


def test_draws_of_one_pool_are_no_draws_of_new_patients() -> None:
    """Normal draws that share a part, which seeds make up for in what is seen of their spread."""
    random, overlap, found = np.random.default_rng(10), overlap_of(25, 40), []
    for _ in range(1500):
        drawn = math.sqrt(overlap) * random.normal() + random.normal(0, 1, 8)
        table = np.add.outer(random.normal(0, 2, 40), drawn) + random.normal(0, 1, (40, 8))
        found.append([crossed_t(table, overlap=each) for each in (overlap, 0.0)])
    alarms = np.mean([[test.p < 0.05 for test in each] for each in found], axis=0)
    assert 0.03 <= alarms[0] <= 0.07
    assert alarms[1] > 0.2


# ------------------------------------------------------------------ random splits


def test_splits_t_by_hand() -> None:
    """Splits of A, B; A, C; B, C: means 2, 3, 4, variance 1.

    Within splits the distances are all 1: variance 6 / (6 - 3) = 2. Fitted patients and splits
    leave one degree of freedom: differences are B - A 2, C - A 2, C - B 2, and the third should be
    the second less the first, 0: it is off by 2, which is 2^2 / 6 = 2/3 in squares. That leaves
    4/3 to patients. At a quarter of the training patients (4/3 + 1/2 2/3) / 8 = 5/24; plus 1/3 is
    13/24.
    """
    columns = ([1, 3, 2, 4, 3, 5], [0, 0, 1, 1, 2, 2], list("ABACBC"))
    tested = splits_t(*columns, fraction=0.25, total=8)
    assert tested is not None
    assert tested.interval.estimate == pytest.approx(3)
    assert tested.error == pytest.approx(math.sqrt(13 / 24))
    assert tested.t == pytest.approx(3 / math.sqrt(13 / 24))
    assert tested.df == pytest.approx((13 / 24) ** 2 / ((5 / 24) ** 2 / 5 + (1 / 3) ** 2 / 2))


def test_parts_are_estimated_without_bias() -> None:
    random, found = np.random.default_rng(11), []
    for _ in range(400):
        test = [random.permutation(30)[:8] for _ in range(10)]
        own, shared = random.normal(0, 2, 30), random.normal(0, 1.5, 10)
        values = own[np.array(test)] + shared[:, None] + random.normal(0, 1, (10, 8))
        found.append(estimate(values.ravel(), np.repeat(np.arange(10), 8), np.ravel(test)))
    mean = {name: np.mean([getattr(each, name) for each in found]) for name in vars(found[0])}
    assert mean["patients"] == pytest.approx(4, rel=0.05)
    assert mean["both"] == pytest.approx(1, rel=0.05)
    assert mean["repeats"] == pytest.approx(1.5**2 + (4 + 1) / 8 - 4 / 30, rel=0.05)


def test_splits_without_a_test() -> None:
    twice = ([1.0, 2.0, 3.0, 4.0], [0, 0, 1, 1], list("ABCD"))
    assert splits_t(*twice, fraction=1, total=8) is None
    assert splits_t([1.0, 2.0, 3.0], [0, 1, 2], list("ABC"), fraction=1, total=8) is None
    same = ([0.3] * 6, [0, 0, 1, 1, 2, 2], list("ABACBC"))
    assert splits_t(*same, fraction=1, total=8) is None
    nothing = splits_t([0.0] * 6, *same[1:], fraction=1, total=8)
    assert nothing is not None
    assert (nothing.t, nothing.p) == (0, 1)


def test_where_patients_and_repeats_give_no_t() -> None:
    assert crossed_t([[1.0, 2.0, 3.0]]) is None
    assert crossed_t(np.full((4, 3), 2.0)) is None
    nothing = crossed_t(np.zeros((4, 3)))
    assert nothing is not None
    assert (nothing.t, nothing.p) == (0, 1)


@pytest.mark.parametrize(("patients", "repeats"), [(40, 8), (20, 5), (6, 20)])
def test_false_alarms_are_as_rare_as_they_should_be(patients: int, repeats: int) -> None:
    """With J - 1 degrees of freedom instead, 6 patients and 20 repeats have twice as many."""
    random = np.random.default_rng(2)
    found = 0
    for _ in range(1500):
        table = np.add.outer(random.normal(0, 2, patients), random.normal(0, 0.5, repeats))
        tested = crossed_t(table + random.normal(0, 0.5, table.shape))
        found += tested is not None and tested.p < 0.05
    assert 0.03 <= found / 1500 <= 0.07


# ------------------------------------------------------------------ power


def test_power_of_published_examples() -> None:
    """G*Power 3.1, paired t-tests: d_z 0.5, alpha 0.05, n 34 have power 0.8077775.

    Its manual's example of a one-sample test: d 0.625, n 30, two-sided 0.05 has 0.9112 or so (R's
    power.t.test(n = 30, delta = 0.625, type = "one.sample") prints 0.9119).
    """
    assert chance(0.5, 1 / math.sqrt(34), 33) == pytest.approx(0.8077775, abs=2e-4)
    exact = stats.nct.sf(stats.t.isf(0.025, 9), 9, 2.0) + stats.nct.cdf(
        -stats.t.isf(0.025, 9), 9, 2.0
    )
    assert chance(2.0, 1.0, 9) == pytest.approx(exact, abs=1e-4)


def test_the_smallest_detectable_difference_is_found_four_times_in_five() -> None:
    for df, alpha in ((4, 0.05), (9, 0.005), (60, 0.05)):
        least = detectable(3.0, df, alpha=alpha)
        assert least is not None
        assert chance(least, 3.0, df, alpha=alpha) == pytest.approx(0.8)
    random = np.random.default_rng(3)
    least = detectable(1 / math.sqrt(8), 7)
    samples = random.normal(least, 1, (4000, 8))
    assert np.mean(stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05) == pytest.approx(
        0.8, abs=0.02
    )
    assert detectable(0.0, 5) is None


def test_without_an_effect_the_chance_is_alpha() -> None:
    assert chance(0, 1, 7, alpha=0.01) == pytest.approx(0.01, abs=3e-4)


def simulated(random: np.random.Generator, truth: Spread, test: int, repeats: int) -> pd.DataFrame:
    own, shared = random.normal(0, truth.patients, test), random.normal(0, truth.repeats, repeats)
    both = random.normal(0, truth.both, (repeats, test))
    rows = [(j, p, own[p] + shared[j] + both[j, p]) for j in range(repeats) for p in range(test)]
    return pd.DataFrame(rows, columns=["repeat", "patient", "difference"])


def test_spread_is_estimated_without_bias_and_foretells_the_error() -> None:
    truth, random = Spread(4.0, 1.5, 2.0), np.random.default_rng(4)
    studies = [simulated(random, truth, 40, 8) for _ in range(150)]
    found = [spread_of(each) for each in studies]
    for name in ("patients", "repeats", "both"):
        squares = [getattr(each, name) ** 2 for each in found]
        assert np.mean(squares) == pytest.approx(getattr(truth, name) ** 2, rel=0.12)
    expected = truth.expected("redrawn", patients=40, repeats=8, pool=40, train=25)
    tables = [study.pivot_table("difference", "patient", "repeat") for study in studies]
    measured = [crossed_t(table, overlap=overlap_of(25, 40)) for table in tables]
    assert expected is not None
    assert expected[0] ** 2 == pytest.approx(np.mean([m.error**2 for m in measured]), rel=0.1)
    expected = truth.expected("given", patients=40, repeats=8, pool=40, train=40)
    measured = [crossed_t(table) for table in tables]
    assert expected is not None
    assert expected[0] ** 2 == pytest.approx(np.mean([m.error**2 for m in measured]), rel=0.1)


def test_what_cannot_be_tested_has_no_expected_error() -> None:
    spread, sizes = Spread(1.0, 1.0, 0.5), {"pool": 30, "train": 30}
    assert spread.expected("resampled", patients=10, repeats=1, **sizes) is None
    assert spread.expected("redrawn", patients=10, repeats=1, **sizes) is None
    assert spread.expected("given", patients=1, repeats=3, **sizes) is None
    error, df = spread.expected("given", patients=16, repeats=1, **sizes) or (0, 0)
    assert (error, df) == (math.sqrt(1.25 / 16), 15)
    means = 1 + 1.25 / 10 - 1 / 40
    assert spread.expected("resampled", patients=10, repeats=2, **sizes) == pytest.approx(
        (math.sqrt((1 / 2 + 10 / 30) * means), 1)
    )
    error, df = spread.expected("resampled", patients=10, repeats=5, pool=30, train=7.5) or (0, 0)
    assert error**2 == pytest.approx(means / 5 + (1 + 0.5 * 0.25) / 40)


@pytest.mark.parametrize(
    "layout",
    [
        Layout("resampled", 10, 35, 35, 10),
        Layout("resampled", 10, 35, 9, 5),
        Layout("redrawn", 40, 40, 10, 8),
    ],
)
def test_simulated_studies_in_small(layout: Layout) -> None:
    """The table of docs/benchmarks.md with a fraction of its studies, and so wider limits."""
    found = measure(layout, 120, seed=7)
    assert found["false_alarms"] <= 0.1
    assert 0.7 <= found["power"] <= 0.9


def test_a_fraction_does_not_make_the_test_blind() -> None:
    """Nadeau and Bengio's correction finds next to nothing where few train."""
    found = measure(Layout("resampled", 10, 35, 5, 10), 400, seed=8)
    assert found["plain"] <= 0.015
    assert 0.02 <= found["false_alarms"] <= 0.08
    assert 0.75 <= found["power"] <= 0.87


# ------------------------------------------------------------------ what `plan` says


def planned(design: Design, *, test: int, pool: int, repeats: int, methods: int = 2) -> Study:
    names = ("constant", "target-only", "simple-augment", "random-erasing", "autoaugment")
    return Study(
        medxlate="0",
        methods=names[: 1 + methods],
        source_sets=(),
        repeats=repeats,
        design=design,
        config=resolve(overrides={"data": {"target": "ct", "folder": "data"}}),
        fingerprints={},
    )


def patients(count: int, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    names = [f"p{i:03d}" for i in range(count)]
    return pd.DataFrame({"patient": names, "label": random.uniform(20, 80, count)})


def divided(table: pd.DataFrame, design: Design, test: int, pool: int, repeats: int) -> list[Split]:
    splits = []
    for repeat in range(repeats):
        names = list(table["patient"])
        if design == "resampled":
            np.random.default_rng(repeat).shuffle(names)
        parts = {"test": tuple(names[:test]), "train": tuple(names[test : test + pool]), "val": ()}
        splits.append(Split(parts, seed=repeat))  # type: ignore[arg-type]
    return splits


def measured_with_a_perfect_predictor(
    table: pd.DataFrame, splits: list[Split], design: Design
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """target-only errs as much as the constant, which errs by the spread of the labels."""
    labels, rows = table.set_index("patient")["label"], []
    for repeat, split in enumerate(splits):
        random = np.random.default_rng([9, repeat])
        mean = labels[list(split.parts["train"])].mean()
        for patient in split.parts["test"]:
            truth = labels[patient]
            for method, said in (
                ("constant", mean),
                ("target-only", mean + random.normal(0, 3)),
                ("perfect", truth),
            ):
                rows.append((method, repeat, patient, truth, said, (said - truth) ** 2))
    columns = ["method", "repeat", "patient", "label", "prediction", "loss"]
    predictions = pd.DataFrame(rows, columns=columns).assign(
        sources="", target_fraction=1.0, source_fraction=1.0
    )
    predictions["slice_id"] = predictions["patient"]
    keys = ["method", "sources", "repeat", "target_fraction", "source_fraction"]
    results = predictions.groupby(keys)["loss"].mean().reset_index()
    sizes = {"test_patients": len(splits[0].parts["test"])}
    sizes |= dict.fromkeys(["train_patients", "pool_patients"], len(splits[0].parts["train"]))
    results = results.assign(policy="patient", design=design, **sizes)
    return results.assign(mse=results["loss"], patient_loss=results["loss"]), predictions


SIZES: list[tuple[Design, int, int, int]] = [
    ("resampled", 10, 35, 10),
    ("resampled", 10, 35, 5),
    ("resampled", 6, 21, 2),
    ("redrawn", 6, 30, 3),
    ("redrawn", 15, 30, 5),
    ("redrawn", 40, 30, 8),
    ("given", 3, 20, 1),
    ("given", 25, 30, 1),
    ("given", 25, 30, 3),
]


def test_a_perfect_predictor_helps_where_plan_does_not_despair() -> None:
    despaired = []
    for design, test, pool, repeats in SIZES:
        table = patients(test + pool)
        splits = divided(table, design, test, pool, repeats)
        study = planned(design, test=test, pool=pool, repeats=repeats)
        outlook = outlook_of(study, SimpleNamespace(slices=table), splits, AGE)  # type: ignore[arg-type]
        assert outlook is not None
        despaired.append(outlook.underpowered)
        assert outlook.underpowered == any("Underpowered" in each for each in outlook.sentences)
        (found,) = (
            c
            for c in compare_to(*measured_with_a_perfect_predictor(table, splits, design))
            if c.system.method == "perfect"
        )
        assert outlook.underpowered or found.verdict == "helps", (design, test, repeats)
    assert 2 <= sum(despaired) <= 4


def test_a_perfect_predictor_helps_by_its_table_of_predictions(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    data, out = dataset(tmp_path_factory), tmp_path / "compare"
    shares = {"train": 0.5, "val": 0.1, "test": 0.4}
    config = debug_config(data, optimizer=BRIEF, split=shares)
    grid = Grid(methods=("constant", "target-only"), repeats=8)
    outlook = plan(config, grid).outlook
    compare(config, grid, out=out)
    tables = [pd.read_csv(path, dtype=str) for path in sorted((out / "splits").glob("*.csv"))]
    rows = pd.concat([table.assign(repeat=repeat) for repeat, table in enumerate(tables)])
    rows = rows[rows["part"] == "test"].assign(prediction=lambda test: test["label"])
    rows[["repeat", "slice_id", "prediction"]].to_csv(tmp_path / "perfect.csv", index=False)
    findings = compare(out=out, predictions=[tmp_path / "perfect.csv"]).findings
    assert findings is not None
    (found,) = (c for c in findings.comparisons if c.system.method == "perfect")
    assert found.mean == 0
    assert outlook is None or not outlook.underpowered
    assert found.verdict == "helps"


def test_plan_takes_the_family_and_the_label_into_account() -> None:
    table = patients(100)
    splits = divided(table, "redrawn", 40, 40, 8)
    found = []
    for methods in (2, 4):
        study = planned("redrawn", test=40, pool=40, repeats=8, methods=methods)
        found.append(outlook_of(study, SimpleNamespace(slices=table), splits, AGE))  # type: ignore[arg-type]
    alone, among = found
    assert alone is not None
    assert among is not None
    assert (alone.alpha, among.alpha) == (0.05, 0.05 / 3)
    assert alone.detectable < among.detectable  # type: ignore[operator]
    errors = (table["label"] - table["label"].mean()) ** 2
    assert alone.reference_error == pytest.approx(errors.mean())
    spread = Spread(float(errors.std()), 0.2 * float(errors.mean()))
    error, df = spread.expected("redrawn", patients=40, repeats=8, pool=40, train=40) or (0, 0)
    assert alone.detectable == pytest.approx(detectable(error, df))
    assert "guessed from the label" in alone.sentences[1]


def test_plan_guesses_for_classes_too() -> None:
    table = patients(60).assign(label=lambda t: np.where(t["label"] > 65, "ill", "healthy"))
    splits = divided(table, "redrawn", 20, 30, 5)
    study = planned("redrawn", test=20, pool=30, repeats=5)
    found = outlook_of(study, SimpleNamespace(slices=table), splits, GROUP)  # type: ignore[arg-type]
    assert found is not None
    assert found.reference_error == pytest.approx((table["label"] == "ill").mean())


def test_the_spread_of_an_earlier_study(tmp_path: Path) -> None:
    table = patients(60)
    splits = divided(table, "redrawn", 30, 30, 6)
    results, predictions = measured_with_a_perfect_predictor(table, splits, "redrawn")
    study = planned("redrawn", test=30, pool=30, repeats=6)
    target = SimpleNamespace(slices=table)
    (tmp_path / "study.json").write_text(study.model_dump_json())
    with pytest.raises(DataError, match="no results yet"):
        outlook_of(study, target, splits, AGE, tmp_path)  # type: ignore[arg-type]
    results.to_parquet(tmp_path / "results.parquet")
    predictions.to_parquet(tmp_path / "predictions.parquet")
    found = outlook_of(study, target, splits, AGE, tmp_path)  # type: ignore[arg-type]
    assert found is not None
    assert "measured in" in found.sentences[1]
    (perfect,) = (c for c in compare_to(results, predictions) if c.system.method == "perfect")
    assert found.detectable == pytest.approx(perfect.detectable, rel=0.1)  # the same design again
    assert found.reference_error == pytest.approx(perfect.reference_mean)
    with pytest.raises(DataError, match="another kind of label"):
        outlook_of(study, target, splits, GROUP, tmp_path)  # type: ignore[arg-type]
    results[results["method"] != "target-only"].to_parquet(tmp_path / "results.parquet")
    with pytest.raises(DataError, match="has no comparison with target-only"):
        outlook_of(study, target, splits, AGE, tmp_path)  # type: ignore[arg-type]


def test_plan_says_it_on_the_command_line(tmp_path_factory: pytest.TempPathFactory) -> None:
    words = ["--target", "ct", "--data", dataset(tmp_path_factory), "--preset", "debug"]
    words += ["--method", "target-only", "--method", "simple-augment", "--repeats", "2"]
    words += ["--device", "cpu", "--json"]
    result = call("plan", *words)
    assert result.exit_code == 0, result.output
    outlook = json.loads(result.stdout)["outlook"]
    assert outlook["underpowered"]
    assert outlook["detectable"] > 0
    assert "guessed from the label" in outlook["source"]
    refused = call("plan", *words, "--spread-from", "nowhere")
    assert refused.exit_code == 1
    assert "nowhere" in refused.stderr


def test_a_study_from_before_there_were_designs_opens(tmp_path: Path) -> None:
    values = json.loads(planned("given", test=1, pool=1, repeats=1).model_dump_json())
    del values["design"], values["primary"]
    (tmp_path / "study.json").write_text(json.dumps(values))
    old = read_study(tmp_path)
    assert (old.design, old.primary) == ("resampled", "")
    values["primary"] = "joint:target-only"
    (tmp_path / "study.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="not a method of this study"):
        read_study(tmp_path)
