"""What is said of a study: designs, the primary contrast, controls, the constant, and the cost."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from medxlate.base.errors import ConfigError, DataError
from medxlate.report.printing import PrintedTable
from medxlate.study.comparison import Comparison, Contrast, find_contrast
from medxlate.study.measured import judged, patient_losses, pool
from medxlate.study.power import detectable
from medxlate.study.statistics import holm
from medxlate.study.ttests import corrected_resampled_t, crossed_t, overlap_of, splits_t
from medxlate.study.verdicts import (
    against_baselines,
    compare_primary,
    compare_to,
    headline,
    with_fewer_patients,
)
from medxlate.study.wording import answers, in_order

PATIENTS, REPEATS = 12, 6
MEANS = {"constant": 200.0, "target-only": 100.0, "joint/mri": 60.0, "raw-mix/mri": 61.0}


def study(
    means: dict[str, float], *, design: str = "redrawn", fraction: float = 1.0, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Losses with what patients and draws have in common, two images a patient."""
    random = np.random.default_rng(seed)
    hard, drawn = random.normal(0, 4, PATIENTS), random.normal(0, 3, REPEATS)
    cells, images = [], []
    for name, mean in means.items():
        method, _, sources = name.partition("/")
        keys = {"method": method, "sources": sources, "target_fraction": fraction}
        own = random.normal(0, 2, (PATIENTS, 1)) + random.normal(0, 1, REPEATS)
        losses = mean + hard[:, None] + drawn + own + random.normal(0, 2, own.shape)
        for j in range(REPEATS):
            key = {**keys, "source_fraction": 1.0, "repeat": j}
            sizes = {"train_patients": 40 * fraction, "pool_patients": 40, "test_patients": 12}
            spent = {"seconds": mean / 10, "shared_seconds": 1.0, "policy": "patient"}
            loss = float(losses[:, j].mean())
            cells.append({**key, **sizes, **spent, "design": design} | dict.fromkeys(
                ("mse", "loss", "patient_loss"), loss))  # fmt: skip
            for p in range(PATIENTS):
                for cut in range(2):
                    error = math.sqrt(losses[p, j])
                    row = {"patient": f"p{p}", "slice_id": f"{p}/{cut}", "label": 50.0 + p}
                    said = 50.0 + p + error
                    images.append({**key, **row, "prediction": said, "loss": losses[p, j]})
    return pd.DataFrame(cells), pd.DataFrame(images)


def named(found: list[Comparison]) -> dict[str, Comparison]:
    return {c.system.method: c for c in found}


def table_of(images: pd.DataFrame, one: str, other: str) -> np.ndarray:
    """Paired differences per patient and draw, by pandas alone."""
    losses = images.groupby(["method", "patient", "repeat"])["loss"].mean()
    return (losses[one] - losses[other]).unstack().to_numpy()


def by_splits(
    images: pd.DataFrame, one: str, other: str, *, fraction: float
) -> tuple[float, float, float]:
    """What the test of random splits finds in the same table."""
    table = table_of(images, one, other)
    patient, repeat = np.indices(table.shape)
    columns = (each.ravel() for each in (table, repeat, patient))
    found = splits_t(*columns, fraction=fraction, total=40 + PATIENTS)
    assert found is not None
    return found.t, found.p, found.df


def test_each_design_has_its_test() -> None:
    results, images = study(MEANS, fraction=0.25)
    for design in ("redrawn", "given"):
        found = named(compare_to(results.assign(design=design), images))["joint"]
        table, overlap = table_of(images, "joint", "target-only"), overlap_of(10, 40)
        expected = crossed_t(table, overlap=overlap if design == "redrawn" else 0)
        assert expected is not None
        assert (found.t, found.p, found.df) == pytest.approx(
            (expected.t, expected.p, expected.df), rel=1e-6
        )
        assert found.design == design
    found = named(compare_to(results.drop(columns="design"), images))["joint"]
    expected = by_splits(images, "joint", "target-only", fraction=0.25)
    assert found.design == "resampled"
    assert (found.t, found.p, found.df) == pytest.approx(expected, rel=1e-6)
    assert "over 6 draws and 12 test patients" in compare_to(results, images)[1].sentence


def test_images_of_a_patient_are_one_patient() -> None:
    """A test by images weighs patients by their images and draws whole patients all the same."""
    results, images = study(MEANS)
    by_image = named(compare_to(results, images, level="image"))["joint"]
    by_patient = named(compare_to(results, images))["joint"]
    assert by_image.p == pytest.approx(by_patient.p, rel=1e-6)  # equally many images each
    first = images[images["patient"] == "p0"]
    copies = [first.assign(slice_id=first["slice_id"] + f"-{i}") for i in range(3)]
    more = pd.concat([images, *copies])
    found = named(compare_to(results, more, level="image"))["joint"]
    both = more[more["method"].isin(["joint", "target-only"])]
    means = both.groupby("method")["loss"].mean()
    assert found.interval is not None
    assert found.interval.estimate == pytest.approx(means["joint"] - means["target-only"])


def test_one_draw_is_no_test_and_one_seed_is_one_over_patients() -> None:
    results, images = (each[each["repeat"] == 0] for each in study(MEANS))
    drawn = named(compare_to(results, images))["joint"]
    assert drawn.p is None
    assert "not tested because a single draw has no spread" in drawn.sentence
    given = named(compare_to(results.assign(design="given"), images))["joint"]
    assert given.df == PATIENTS - 1
    assert given.verdict == "helps"
    assert "over 1 seed and 12 test patients" in given.sentence


def test_without_patients_there_is_no_test_where_they_are_the_same() -> None:
    results, _ = study(MEANS)
    found = named(compare_to(results))["joint"]
    assert found.p is None
    assert "the losses of fewer than three single patients are known" in found.sentence


def test_designs_are_what_they_say() -> None:
    results, images = study(MEANS)
    odd = results["repeat"] == 0
    with pytest.raises(DataError, match="redrawn and resampled"):
        compare_to(results.assign(design=np.where(odd, "resampled", "redrawn")))
    with pytest.raises(DataError, match="unknown design"):
        compare_to(results.assign(design="folded"))
    moved = images.assign(patient=np.where(images["repeat"] == 1, "x", images["patient"]))
    with pytest.raises(DataError, match="test patients differ between repeats"):
        compare_to(results, moved)


def test_the_pool_is_counted_whatever_the_fraction() -> None:
    results, images = study(MEANS, design="resampled", fraction=0.125)
    old = results.drop(columns="pool_patients")  # from before there was the column
    assert pool(old).tolist() == pool(results).tolist() == [40] * len(results)
    expected = by_splits(images, "joint", "target-only", fraction=0.125)
    for each in (results, old):
        found = named(compare_to(each, images))["joint"]
        assert (found.t, found.p, found.df) == pytest.approx(expected, rel=1e-6)


def test_without_single_patients_splits_are_judged_by_their_means() -> None:
    """So are two splits, whose spread between patients tells too little, and divided images."""
    results, images = study(MEANS, design="resampled", fraction=0.125)
    both = results["repeat"] < 2
    some = images[images["repeat"] > 0]
    for table, predictions in ((results, None), (results, some), (results[both], images)):
        losses = table.set_index(["method", "repeat"])["loss"]
        difference = losses["joint"] - losses["target-only"]
        expected = corrected_resampled_t(difference, train=40, test=12)
        assert expected is not None
        assert named(compare_to(table, predictions))["joint"].p == pytest.approx(expected.p)
    sizes = {"policy": "image", "pool_images": 400, "train_images": 50, "test_images": 24}
    found = named(compare_to(results.assign(**sizes), images))["joint"]
    losses = results.set_index(["method", "repeat"])["loss"]
    difference = losses["joint"] - losses["target-only"]
    expected = corrected_resampled_t(difference, train=400, test=24)
    assert expected is not None
    assert found.p == pytest.approx(expected.p)


def test_what_is_not_shown_says_what_would_have_been() -> None:
    results, images = study({**MEANS, "joint/mri": 99.5, "raw-mix/mri": 99.9})
    found = named(compare_to(results, images))
    expected = crossed_t(table_of(images, "joint", "target-only"), overlap=1)
    assert expected is not None
    least = detectable(expected.error, expected.df, alpha=0.05 / 2)  # a family of two
    assert found["joint"].detectable == pytest.approx(least)
    assert found["joint"].verdict == "no difference shown"
    assert f"only differences of {least:.3g} or more" in found["joint"].sentence
    constant = crossed_t(table_of(images, "constant", "target-only"), overlap=1)
    assert constant is not None
    assert found["constant"].detectable == pytest.approx(detectable(constant.error, constant.df))


def test_source_patients_that_help_are_not_translation_that_helps() -> None:
    beaten = {**MEANS, "raw-mix/mri": 80.0, "histogram/mri": 85.0, "duplicate-real/mri": 90.0}
    found = named(compare_to(*study(beaten)))
    assert [c.method for c in found["joint"].controls or ()] == [
        "raw-mix", "histogram", "duplicate-real"
    ]  # fmt: skip
    assert all(control.beaten for control in found["joint"].controls or ())
    assert "beats raw-mix (-" in found["joint"].sentence
    assert "not shown" not in found["joint"].sentence
    assert found["raw-mix"].controls is None
    equal = named(compare_to(*study({**beaten, "raw-mix/mri": 60.0})))["joint"]
    assert equal.verdict == "helps"
    assert "joint (mri) beats histogram" in equal.sentence
    assert "is not shown to beat raw-mix" in equal.sentence
    assert "no benefit of translation is shown" in equal.sentence
    alone = {k: v for k, v in MEANS.items() if not k.startswith("raw-mix")}
    assert "it is unknown whether the translation helps" in compare_to(*study(alone))[1].sentence


def test_controls_have_the_p_values_of_the_baselines() -> None:
    results, images = study({**MEANS, "histogram/mri": 85.0, "simple-augment": 90.0})
    baselines = {c.reference.method: c for c in against_baselines(results, images)}
    controls = named(compare_to(results, images))["joint"].controls or ()
    assert [c.p for c in controls] == [baselines[c.method].p_holm for c in controls]


def test_better_than_target_only_is_not_enough() -> None:
    results, images = study({**MEANS, "constant": 30.0})
    found = named(compare_to(results, images))["joint"]
    assert found.verdict == "does not help"
    assert found.sentence.startswith("joint (mri) does not help: ")
    assert "does not beat the constant" in found.sentence


def test_the_primary_contrast_is_free_of_holm_and_in_no_family() -> None:
    results, images = study({**MEANS, "histogram/mri": 97.0, "simple-augment": 98.0})
    primary = find_contrast("joint:target-only", ["joint", "target-only"], [["mri"]])
    assert primary == Contrast("joint", "mri", "target-only")
    assert find_contrast(str(primary), ["joint", "target-only"], [["mri"]]) == primary
    found = named(compare_to(results, images, primary=primary))
    joint = found["joint"]
    assert joint.primary
    assert joint.p_holm is None
    assert "(primary contrast, named in advance)" in joint.sentence
    others = [found[name] for name in ("histogram", "raw-mix", "simple-augment")]
    assert [c.p_holm for c in others] == holm([c.p for c in others])
    test = crossed_t(table_of(images, "joint", "target-only"), overlap=1)
    assert test is not None
    assert joint.detectable == pytest.approx(detectable(test.error, test.df))
    alone = compare_primary(results, images, primary)
    assert alone == joint
    other = compare_primary(results, images, Contrast("joint", "mri", "raw-mix"))
    assert other is not None
    assert (other.reference.name, other.p_holm) == ("raw-mix (mri)", None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("joint", "is not of the form"),
        ("joint:", "is not of the form"),
        ("jont:target-only", "'jont'.*"),
        ("joint:joint", "compares a method with itself"),
        ("joint:constant", "compared with the constant anyway"),
        ("joint/pet:target-only", "which sources of the study"),
        ("joint:target-only", "which sources of the study"),
        ("target-only/mri:joint", "has no sources"),
    ],
)
def test_a_primary_contrast_that_is_not_in_the_study_is_refused(text: str, said: str) -> None:
    methods, sets = ["joint", "target-only", "constant"], [["mri"], ["mri", "pet"]]
    with pytest.raises(ConfigError, match=said):
        find_contrast(text, methods, sets)


def test_smaller_amounts_of_target_patients_are_a_family_of_their_own() -> None:
    parts = [study(MEANS, fraction=share, seed=i) for i, share in enumerate((0.1, 0.5, 1.0))]
    results, images = (pd.concat(each, ignore_index=True) for each in zip(*parts, strict=True))
    found = with_fewer_patients(results, images)
    assert [c.system.target_fraction for c in found] == [0.1, 0.5]
    assert [c.p_holm for c in found] == holm([c.p for c in found])
    alone = named(compare_to(*parts[0]))["joint"]
    assert found[0].p == pytest.approx(alone.p)
    assert found[0].constant_mean == pytest.approx(alone.constant_mean)
    assert with_fewer_patients(*parts[2]) == []


def test_classes_are_judged_by_the_mean_probabilities_of_a_patient() -> None:
    rows = pd.DataFrame(
        {
            "repeat": 0,
            "patient": ["a", "a", "b", "b"],
            "label": ["ill", "ill", "well", "well"],
            "prediction": ["well", "ill", "well", "ill"],
            "p(ill)": [0.4, 0.9, 0.2, 0.6],
            "p(well)": [0.6, 0.1, 0.8, 0.4],
            "loss": [1.0, 0.0, 0.0, 1.0],
        }
    )
    losses = patient_losses(rows, regression=False)
    assert losses is not None
    assert losses["loss"].tolist() == [0.0, 0.0]  # each half wrong by image, right by patient
    assert patient_losses(rows[["repeat", "patient", "label", "loss"]], regression=False) is None


def test_verdicts_are_by_patient_unless_images_were_divided() -> None:
    results = study(MEANS)[0].assign(patient_loss=7.0)
    assert set(judged(results)["loss"]) == {7.0}
    assert set(judged(results.assign(policy="image"))["loss"]) == set(results["loss"])


def test_answers_come_in_the_order_of_the_questions() -> None:
    def entry(method: str, **more: object) -> dict[str, object]:
        system, reference = {"method": method, "sources": "mri"}, {"method": "target-only"}
        ends = {"low": -3.0, "high": -1.0}
        figures = {"difference": -2.0, "interval": ends, "p": 0.2, "p_holm": 0.0004}
        figures |= {"verdict": "helps", "detectable": 0.5, "seconds": 90.0}
        return {"system": system, "reference": reference, **figures, **more}

    statistics = {
        "primary": [entry("joint", primary=True, p_holm=None)],
        "against_target_only": [entry("cyclegan"), entry("joint", primary=True)],
    }
    entries = in_order(statistics)
    assert [each["system"]["method"] for each in entries] == ["joint", "cyclegan"]
    table = answers(entries)
    assert isinstance(table, PrintedTable)
    assert [str(cell) for cell in table.rows[0]] == [
        *("joint (mri), primary", "helps", "-2", "-3 to -1", "target-only", "0.2", "0.5"),
        *("90.0", "-"),
    ]
    assert str(table.rows[1][5]) == "< 0.001"
    assert answers([]) is None


def test_the_constant_is_worse_or_better_and_neither_hurts_nor_helps() -> None:
    results, images = study(MEANS)
    found = named(compare_to(results, images))
    entries = [asdict(found[name]) for name in ("constant", "joint")]
    assert [each["verdict"] for each in entries] == ["hurts", "helps"]
    table = answers(entries)
    assert table is not None
    assert [row[1] for row in table.rows] == ["does worse", "helps"]
    assert entries[0]["sentence"].startswith("constant does worse than target-only")
    assert headline({"against_target_only": entries[:1]}).tone == "unsure"
    assert headline({"against_target_only": entries}).tone == "good"
    others = [asdict(c) for c in against_baselines(results, images)]
    words = {row[4]: row[1] for row in answers(others).rows}  # type: ignore[union-attr]
    assert words["constant"] == "does better"
    assert words["target-only"] == "helps"


def test_the_cost_stands_in_the_sentence() -> None:
    results, images = study(MEANS)
    found = named(compare_to(results, images))["joint"]
    assert (found.seconds, found.reference_seconds) == (7.0, 11.0)
    assert "A training took 7 s against 11 s" in found.sentence
    unknown = results.assign(seconds=math.nan)
    assert "training took" not in named(compare_to(unknown, images))["joint"].sentence
