from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2, ks_2samp

from medxlate.base.errors import DataError
from medxlate.config import SplitConfig
from medxlate.dataset.division import draw_split
from medxlate.dataset.labels import Task
from medxlate.dataset.splits import PARTS, Split, training_share
from medxlate.study.checks import (
    bin_edges,
    check_classes,
    check_training,
    class_histograms,
    label_warnings,
    value_histograms,
)

AGE = Task(kind="regression", name="age", unit="years")
STAGE = Task(kind="classification", name="stage", classes=("high", "low"))


def table(labels, *, per_patient: int = 2, prefix: str = "p") -> pd.DataFrame:
    """A patient for each label, with some slices."""
    rows = [
        {
            "patient": f"{prefix}{number:03d}",
            "label": label,
            "pixel_hash": f"{prefix} {number} {i}",
            "perceptual_hash": "0" * 128,
        }
        for number, label in enumerate(labels)
        for i in range(per_patient)
    ]
    return pd.DataFrame(rows).assign(slice_id=[f"{row:06d}" for row in range(len(rows))])


def planted(*, train: str, val: str = "", test: str) -> tuple[pd.DataFrame, Split]:
    """Patients by the first letters of their classes, a part after the other."""
    classes = {"h": "high", "l": "low"}
    frame = table([classes[letter] for letter in train + val + test])
    names = list(dict.fromkeys(frame["patient"]))
    ends = np.cumsum([len(train), len(val), len(test)])
    parts = {
        part: tuple(names[end - len(some) : end])
        for part, some, end in zip(PARTS, (train, val, test), ends, strict=True)
    }
    return frame, Split(parts, 7)


# Classes


def test_a_class_in_training_and_test_is_enough():
    frame, split = planted(train="hl", val="h", test="lh")
    check_classes(STAGE, frame, "ct", [split])


@pytest.mark.parametrize(
    ("train", "test", "class_", "part"),
    [
        ("hhh", "hl", "low", "train"),
        ("lll", "hl", "high", "train"),
        ("hl", "hhh", "low", "test"),
        ("hl", "lll", "high", "test"),
    ],
)
def test_an_absent_class_is_named_with_part_and_repeat(train, test, class_, part):
    frame, split = planted(train=train, test=test)
    everyone = frame_names(frame)
    fine = Split({"train": everyone, "val": (), "test": everyone}, 3)
    text = rf"class '{class_}' is missing from the {part} part of ct, repeat 1 \(split seed 7\)"
    with pytest.raises(DataError, match=rf"{text}\. Choose another --seed"):
        check_classes(STAGE, frame, "ct", [fine, split])


def frame_names(frame: pd.DataFrame) -> tuple[str, ...]:
    return tuple(sorted(set(frame["patient"])))


def test_a_class_absent_from_validation_alone_is_no_reason():
    frame, split = planted(train="hl", val="hhh", test="hl")
    check_classes(STAGE, frame, "ct", [split])


def test_the_number_of_gaps_is_reported():
    frame, split = planted(train="hh", test="ll")
    with pytest.raises(DataError, match=r"repeat 0 .*3 more like this"):
        check_classes(STAGE, frame, "ct", [split, split])


def test_a_class_that_the_target_does_not_have_is_refused():
    frame, split = planted(train="hh", test="hh")
    with pytest.raises(DataError, match=r"No ct image has the class 'low', which occurs in other"):
        check_classes(STAGE, frame, "ct", [split])


def test_a_class_lost_at_a_small_fraction_is_refused():
    frame, split = planted(train="h" * 19 + "l", test="hl")
    rows = split.rows("ct", frame, "train")
    fractions = (0.1, 0.25, 0.5, 0.75, 1.0)
    without = [
        fraction
        for fraction in fractions
        if "low" not in set(frame["label"].iloc[training_share(split, "ct", frame, rows, fraction)])
    ]
    assert without
    assert without[-1] < 1
    check_classes(STAGE, frame, "ct", [split], [f for f in fractions if f not in without])
    count = round(20 * without[-1])
    with pytest.raises(
        DataError,
        match=rf"'low' is missing from the train part of ct at target fraction "
        rf"{without[-1]:g} \({count} patients\), repeat 0 .*larger target fraction",
    ):
        check_classes(STAGE, frame, "ct", [split], fractions)


def test_slices_are_counted_where_slices_were_divided():
    frame = table(["high"] * 20 + ["low"] * 2)
    units = tuple(f"ct/{name}" for name in frame["slice_id"])
    split = Split({"train": units, "val": (), "test": units}, 0, "image")
    check_classes(STAGE, frame, "ct", [split])
    with pytest.raises(DataError, match=r"target fraction 0\.02 \(1 slices\)"):
        check_classes(STAGE, frame, "ct", [split], [0.02])


def test_a_rare_class_is_found_in_the_repeats_that_lack_it():
    frame = table(["high"] * 27 + ["low"] * 3)
    splits = [
        draw_split({"ct": frame}, target="ct", config=SplitConfig(seed=seed)) for seed in range(10)
    ]

    def holds(split: Split) -> bool:
        return all(
            set(frame["label"].iloc[split.rows("ct", frame, part)]) == {"high", "low"}
            for part in ("train", "test")
        )

    held = [holds(split) for split in splits]
    assert len(set(held)) == 2
    check_classes(STAGE, frame, "ct", [s for s, good in zip(splits, held, strict=True) if good])
    with pytest.raises(DataError, match=rf"repeat {held.index(False)} "):
        check_classes(STAGE, frame, "ct", splits)


def test_a_regression_has_no_classes_to_check():
    frame = table([30.0, 40.0, 50.0])
    names = frame_names(frame)
    split = Split({"train": names[:1], "val": names[1:2], "test": names[2:]}, 0)
    check_classes(AGE, frame, "ct", [split], [0.1])


def test_a_modality_without_training_data_is_refused():
    target, source = table([30.0] * 4), table([30.0] * 2, prefix="q")
    names = frame_names(target)
    parts = {"train": (*names[:2], "q000"), "val": names[2:3], "test": (*names[3:], "q001")}
    bad = {**parts, "train": names[:2], "val": (*names[2:3], "q000")}
    check_training({"ct": target, "mri": source}, [Split(parts, 0)])
    with pytest.raises(DataError, match=r"No mri patient is left .*repeat 1 .*seed 5.* all 2 went"):
        check_training({"ct": target, "mri": source}, [Split(parts, 0), Split(bad, 5)])


# Labels of the sources


def spread(low: float, high: float, count: int) -> list[float]:
    return [float(value) for value in np.linspace(low, high, count)]


def test_labels_that_are_alike_cause_no_warning():
    target = table(spread(20, 60, 40))
    alike = table(spread(21, 59, 70), prefix="q")
    assert label_warnings(AGE, target, "ct", {"mri": alike, "same": target}) == []


def test_labels_outside_the_targets_range_are_reported():
    target = table(spread(20, 60, 40))
    # 5 of 100 outside: not more than 5 %; 6: more.
    for count, warned in ((5, False), (6, True)):
        source = table([*spread(20, 60, 100 - count), *[61.0] * count], prefix="q")
        texts = label_warnings(AGE, target, "ct", {"mri": source})
        assert bool(texts) is warned
    assert "6 of 100 patients are outside the range of ct, 20 to 60 years." in texts[0]
    assert "Kolmogorov" not in texts[0]


def test_patients_are_counted_and_not_their_slices():
    """One patient of 100 slices far outside is one patient."""
    target = table(spread(20, 60, 40))
    one = table([90.0], per_patient=100, prefix="r")
    source = pd.concat([table(spread(20, 60, 60), prefix="q"), one], ignore_index=True)
    assert label_warnings(AGE, target, "ct", {"mri": source}) == []
    both = table([*spread(20, 60, 40), 200.0], per_patient=1)
    both.loc[len(both)] = {**both.iloc[-1], "label": -100.0}  # two ages, mean 50: within
    assert label_warnings(AGE, target, "ct", {"mri": both}) == []


def test_the_slices_of_a_patient_cause_no_rounding():
    target = table([0.1, 0.1, 0.1, 0.1], per_patient=1)
    source = table([0.1, 0.1, 0.1, 0.1], per_patient=3)
    assert label_warnings(AGE, target, "ct", {"mri": source}) == []


def test_a_shifted_mean_is_reported_with_the_tests_own_figures():
    target, source = spread(20, 60, 12), spread(30, 60, 10)
    texts = label_warnings(AGE, table(target), "ct", {"mri": table(source, prefix="q")})
    pooled = (11 * np.var(target, ddof=1) + 9 * np.var(source, ddof=1)) / 20
    shift = (np.mean(source) - np.mean(target)) / pooled**0.5
    assert 0.4 < shift < 0.5
    assert texts == []
    source = spread(33, 60, 10)
    texts = label_warnings(AGE, table(target), "ct", {"mri": table(source, prefix="q")})
    pooled = (11 * np.var(target, ddof=1) + 9 * np.var(source, ddof=1)) / 20
    shift = (np.mean(source) - np.mean(target)) / pooled**0.5
    assert shift > 0.5
    flat = " ".join(texts[0].split())
    assert f"{shift:.2f} standard deviations apart" in flat
    assert f"Kolmogorov-Smirnov p = {ks_2samp(source, target).pvalue:.2g}." in flat
    assert "mean 46.5 (sd 9.083) years in mri, mean 40 (sd 13.11) years in ct" in flat
    assert ks_2samp(source, target).pvalue > 0.01
    mirrored = table([80 - label for label in source], prefix="q")
    assert f"{shift:.2f} standard" in " ".join(
        label_warnings(AGE, table(target), "ct", {"mri": mirrored})[0].split()
    )


def test_another_shape_with_the_same_mean_and_range_is_reported():
    target = table(spread(0, 100, 60))
    source = table([0.0, 100.0, *[50.0] * 58], prefix="q")
    (text,) = label_warnings(AGE, target, "ct", {"mri": source})
    assert ": 0.00 standard deviations" in " ".join(text.split())
    assert "outside" not in text


@pytest.mark.parametrize("labels", [[40.0], [40.0, 40.0], [41.0]])
def test_constant_labels_are_compared(labels):
    texts = label_warnings(AGE, table([40.0] * 5), "ct", {"mri": table(labels, prefix="q")})
    assert bool(texts) is (labels == [41.0])


def test_every_source_has_a_warning_of_its_own():
    target = table(spread(20, 60, 40))
    sources = {
        "mri": table(spread(60, 90, 40), prefix="q"),
        "alike": target,
        "pet": table(spread(0, 10, 40), prefix="r"),
    }
    texts = label_warnings(AGE, target, "ct", sources)
    assert [text.splitlines()[0] for text in texts] == [
        f"The labels (age) of {name} and ct differ; by patient:" for name in ("mri", "pet")
    ]


def stages(high: int, low: int, prefix: str = "p") -> pd.DataFrame:
    return table(["high"] * high + ["low"] * low, prefix=prefix)


def test_prevalences_that_differ_are_reported():
    target = stages(50, 50)
    for high, warned in ((60, False), (61, True)):  # more than 10 percentage points
        texts = label_warnings(STAGE, target, "ct", {"mri": stages(high, 100 - high, "q")})
        assert bool(texts) is warned
    assert "The class 'high' is 61 % of mri and 50 % of ct; chi-square" in texts[0]


def test_a_significant_difference_is_reported_though_it_is_small():
    target, source = stages(3000, 3000), stages(3300, 2700, "q")
    (text,) = label_warnings(STAGE, target, "ct", {"mri": source})
    # Pearson's statistic of [[3300, 2700], [3000, 3000]], less Yates's half, by hand.
    expected = np.array([[3150, 2850], [3150, 2850]])
    statistic = ((150 - 0.5) ** 2 / expected).sum()
    assert f"p = {chi2.sf(statistic, 1):.2g}." in text
    assert label_warnings(STAGE, target, "ct", {"mri": stages(3090, 2910, "q")}) == []


def test_a_class_that_only_the_source_has_is_reported():
    task = Task(kind="classification", name="stage", classes=("high", "low", "none"))
    source = pd.concat([stages(49, 49, "q"), table(["none"] * 2, prefix="r")], ignore_index=True)
    (text,) = label_warnings(task, stages(50, 50), "ct", {"mri": source})
    assert "- 2 patients have the class 'none', which no ct patient has." in text
    assert "chi-square" not in text


def test_a_single_class_is_compared():
    assert label_warnings(STAGE, stages(5, 0), "ct", {"mri": stages(9, 0, "q")}) == []


def test_a_patient_with_two_classes_counts_once_for_each():
    frame = stages(2, 2).reset_index(drop=True)
    frame.loc[len(frame)] = {**frame.iloc[0], "label": "low"}
    texts = label_warnings(STAGE, stages(10, 0, "q"), "ct", {"mri": frame})
    assert "low    3 " in texts[0]
    assert "high   2 " in texts[0]


# Histograms


def test_histograms_share_their_bins_and_show_shares():
    values = {"mri": np.array([12.0] * 8 + [37.0] * 2), "ct": np.array([12.0, 40.0])}
    lines = value_histograms(values)
    bar = "#"
    assert lines == [
        f"          mri (10){' ' * 28}ct (2)",
        f"10 to 15  8 {bar * 32}  1 {bar * 20}",
        f"15 to 20  0{' ' * 35}0",
        f"20 to 25  0{' ' * 35}0",
        f"25 to 30  0{' ' * 35}0",
        f"30 to 35  0{' ' * 35}0",
        f"35 to 40  2 {bar * 8}{' ' * 26}1 {bar * 20}",
    ]


def test_a_histogram_counts_everything_and_fits_the_terminal():
    random = np.random.default_rng(0)
    for scale in (1e-6, 0.3, 1, 47, 1e5, 1e12):
        values = {
            "a modality with quite a long name, such as nobody gives": random.normal(0, 1, 400),
            "ct": random.exponential(2, 50),
        }
        lines = value_histograms({name: some * scale for name, some in values.items()})
        assert max(map(len, lines)) <= 80
        assert 4 <= len(lines) - 1 <= 11
        cells = [line.replace("to", " ").replace("#", " ").split()[2:] for line in lines[1:]]
        assert np.array(cells, dtype=int).sum(axis=0).tolist() == [400, 50]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, range(11)),
        (18, 65, range(15, 66, 5)),
        (1, 2.2, np.arange(1, 2.21, 0.2)),
        (-3, 4, range(-3, 5)),
        (5, 5, [5, 5]),
        (0.1, 0.1 + 1e-12, [0.1, 0.1 + 1e-12]),
    ],
)
def test_edges_are_round(low, high, expected):
    np.testing.assert_allclose(bin_edges(low, high), list(expected), atol=1e-9)


def test_many_classes_are_put_together_where_they_differ_least():
    classes = [f"class {i:03d} with a rather long description" for i in range(100)]
    ours, theirs = np.full(100, 3), np.full(100, 3)
    theirs[70] = 90
    lines = class_histograms(classes, {"mri": theirs, "ct": ours})
    assert len(lines) == 21
    assert max(map(len, lines)) <= 80
    (line,) = (line for line in lines if line.startswith("class 070"))
    assert line.split("#")[0].split()[-1] == "90"
    assert lines[-1].startswith("81 other classes")
    cells = [line[22:].replace("#", " ").split() for line in lines[1:]]
    assert np.array(cells, dtype=int).sum(axis=0).tolist() == [387, 300]


def test_a_rare_class_has_a_bar():
    lines = class_histograms(["high", "low"], {"mri": np.array([999, 1]), "ct": np.array([5, 5])})
    assert "1 # " in lines[2]


def test_warnings_fit_the_terminal():
    task = Task(kind="classification", name="stage", classes=("a" * 60, "b" * 60))
    texts = label_warnings(
        task, table(["a" * 60] * 9), "c" * 40, {"m" * 40: table(["b" * 60] * 9, prefix="q")}
    )
    texts += label_warnings(
        AGE, table(spread(0, 1, 9)), "c" * 40, {"m" * 40: table(spread(5, 9, 9), prefix="q")}
    )
    assert len(texts) == 2
    assert max(len(line) for text in texts for line in text.splitlines()) <= 80


def test_the_checks_need_no_torch():
    code = "import sys, medxlate.study.checks; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
