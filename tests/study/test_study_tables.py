from __future__ import annotations

import io
import math
import shutil
import subprocess

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from medxlate.report.comparison_charts import Curve, Errors, Panel, dose_plot, error_plot
from medxlate.report.printing import Number, PrintedTable
from medxlate.study.data_efficiency import equivalents, saturation
from medxlate.study.learning_curves import draws, isotonic, needed
from medxlate.study.study_charts import errors_of, source_curves, target_curves
from medxlate.study.tables import main_comparison, paper_name, tables

# Yang and Xie, tables 2, 3 and 4.
PUBLISHED = {
    ("target-only", ""): (103.88, 64.27),
    ("joint", "mri"): (76.91, 8.31),
    ("joint", "pet"): (75.75, 20.52),
    ("joint", "mri+pet"): (71.37, 18.92),
    ("transfer", "mri"): (91.52, 13.88),
    ("multitask", "mri"): (99.26, 22.12),
    ("dann", "mri"): (88.13, 21.86),
    ("cyclegan", "mri"): (147.06, 79.89),
    ("transfer", "pet"): (102.08, 15.37),
    ("multitask", "pet"): (92.94, 28.26),
    ("dann", "pet"): (148.72, 40.16),
    ("cyclegan", "pet"): (96.70, 42.44),
    ("simple-augment", ""): (96.80, 26.00),
    ("autoaugment", ""): (84.65, 15.28),
    ("random-erasing", ""): (84.87, 8.55),
}
TABLE_2 = """\
|  | PURE-CT | MIX-CT-MRI | MIX-CT-PET | MIX-CT-MRI-PET |
| --- | ---: | ---: | ---: | ---: |
| Mean | 103.88 | 76.91 | 75.75 | 71.37 |
| Std | 64.27 | 8.31 | 20.52 | 18.92 |
"""
TABLE_3 = """\
| Method | MRI → CT |  |  |  |  | PET → CT |  |  |  |  |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
|  | **TL** | **MTL** | **DA** | **CycleGAN** | **Our method** \
| **TL** | **MTL** | **DA** | **CycleGAN** | **Our method** |
| Mean | 91.52 | 99.26 | 88.13 | 147.06 | 76.91 | 102.08 | 92.94 | 148.72 | 96.70 | 75.75 |
| Std | 13.88 | 22.12 | 21.86 | 79.89 | 8.31 | 15.37 | 28.26 | 40.16 | 42.44 | 20.52 |
"""
TABLE_4 = """\
|  | Simple Augment | AutoAugment | Random Erasing | Our method (MRI → CT) | Our method (PET → CT) |
| --- | ---: | ---: | ---: | ---: | ---: |
| Mean | 96.80 | 84.65 | 84.87 | 76.91 | 75.75 |
| Std | 26.00 | 15.28 | 8.55 | 8.31 | 20.52 |
"""


def cells(method, sources, losses, **columns) -> pd.DataFrame:
    """A row a repeat, as a study leaves them."""
    source = 80 if sources else 0
    row = {
        "method": method, "sources": sources, "target_fraction": 1.0, "source_fraction": 1.0,
        "policy": "patient", "train_patients": 57, "train_images": 1710,
        "source_patients": source, "source_images": 30 * source, "test_patients": 16,
        "test_images": 480, "updates": 1000, "images_seen": 16000, "seconds": 12.5,
        "shared_seconds": 3.0, "fid": math.nan, "inception_score": math.nan,
        "features": "predictor",
    }  # fmt: skip
    frame = pd.DataFrame([{**row, **columns, "repeat": i} for i in range(len(losses))])
    return frame.assign(mse=losses, loss=losses, patient_loss=np.asarray(losses) * 2)


def exactly(mean: float, std: float, count: int = 10, seed: int = 0) -> np.ndarray:
    """Values with that mean and that sample standard deviation."""
    values = np.random.default_rng(seed).standard_normal(count)
    return mean + std * (values - values.mean()) / values.std(ddof=1)


def published(**columns) -> pd.DataFrame:
    parts = [
        cells(*system, exactly(*figures, seed=i), **columns)
        for i, (system, figures) in enumerate(PUBLISHED.items())
    ]
    return pd.concat(parts, ignore_index=True)


def named(results: pd.DataFrame, **options) -> dict[str, PrintedTable]:
    return {table.name: table for table in tables(results, **({"target": "ct"} | options))}


# Tables


@pytest.mark.parametrize(
    ("name", "text"), [("table-2", TABLE_2), ("table-3", TABLE_3), ("table-4", TABLE_4)]
)
def test_the_papers_figures_come_out_in_the_papers_layout(name, text):
    shuffled = published().sample(frac=1, random_state=1)
    assert text in named(shuffled)[name].markdown()


def test_images_are_scored_as_in_the_papers_table_5():
    parts = [
        cells("cyclegan", "mri", [1.0] * 10, fid_images=300, features="inception"),
        cells("joint", "mri", [1.0] * 10, fid_images=300, features="inception"),
    ]
    parts[0]["inception_score"], parts[0]["fid"] = exactly(3.49, 0.15), exactly(40.94, 2)
    parts[1]["inception_score"], parts[1]["fid"] = exactly(3.92, 0.17), exactly(63.17, 3)
    table = named(pd.concat(parts))["table-5"]
    assert "| CycleGAN | 3.49 ± 0.15 | 40.94 ± 2.00 |" in table.markdown()
    assert "| Our method | 3.92 ± 0.17 | 63.17 ± 3.00 |" in table.markdown()
    assert table.columns == (("", "MRI → CT", "MRI → CT"), ("", "IS ↑", "FID ↓"))
    assert "inception, 300 translated images" in table.note
    assert "cannot be compared" not in table.note
    assert "below 2048" in table.note
    own = named(pd.concat(part.assign(features="predictor") for part in parts))["table-5"]
    assert "not Inception features, so the values cannot be compared with published" in own.note


def test_only_the_largest_fractions_are_compared_and_all_are_listed():
    less = published(target_fraction=0.25, train_patients=14).assign(patient_loss=5.0)
    few = cells("joint", "mri", [7.0, 9.0], source_fraction=0.1, source_patients=8)
    everything = pd.concat([less, few, published()])
    found = named(everything)
    for name, text in (("table-2", TABLE_2), ("table-3", TABLE_3), ("table-4", TABLE_4)):
        assert text in found[name].markdown()
    assert len(main_comparison(everything)) == len(published())
    rows = [[str(cell) for cell in row] for row in found["overview"].rows]
    assert len(rows) == 2 * len(PUBLISHED) + 1
    assert ["joint", "MRI", "1", "0.1", "57", "8", "2", "16.00", "2.83"] in [r[:9] for r in rows]
    assert ["target-only", "-", "0.25", "-", "14", "-", "10", "5.00", "0.00"] in [
        r[:9] for r in rows
    ]


def test_the_overview_holds_every_system_also_unknown_ones():
    parts = [
        cells("other tool", "", [3.0, 5.0], seconds=math.nan, updates=math.nan),
        cells("joint+autoaugment", "mri", [3.0, 4.0]),
        cells("joint", "mri", [3.0, 4.0]),
        cells("constant", "", [9.0, 10.0]),
        cells("raw-mix", "mri+pet", [8.0, 9.0]),
    ]
    table = named(pd.concat(parts))["overview"]
    assert [row[0] for row in table.rows] == [
        "constant", "raw-mix", "joint", "joint+autoaugment", "other tool"
    ]  # fmt: skip
    heads = [*zip(*table.columns, strict=True)]
    line = {head: str(cell) for head, cell in zip(heads, table.rows[1], strict=True)}
    assert line["", "Sources"] == "MRI + PET"
    assert line["", "Repeats"] == "2"
    assert (line["Per image", "Mean"], line["Per image", "Std"]) == ("8.50", "0.71")
    assert (line["Per patient", "Mean"], line["Per patient", "Std"]) == ("17.00", "1.41")
    assert (line["Seconds", "Own"], line["Seconds", "Shared"]) == ("12.5", "3.0")
    assert (line["Training", "Images seen"], line["Training", "Updates"]) == ("16000", "1000")
    other = dict(zip(heads, table.rows[-1], strict=True))
    assert str(other["Training", "Updates"]) == str(other["Seconds", "Own"]) == "-"


def test_what_was_not_run_is_left_out_or_a_dash():
    few = published()
    few = few[~((few["method"] == "transfer") & (few["sources"] == "pet"))]
    few = few[~few["method"].isin(["dann", "simple-augment", "autoaugment", "random-erasing"])]
    found = named(few)
    assert list(found) == ["table-2", "table-3", "overview"]
    assert found["table-3"].columns[1][1:] == ("TL", "MTL", "CycleGAN", "Our method") * 2
    assert [str(cell) for cell in found["table-3"].rows[0]][4:7] == ["76.91", "-", "92.94"]
    ours = few[few["method"] == "joint"]
    assert list(named(ours)) == ["table-2", "overview"]
    assert named(ours)["table-2"].columns[0][1] == "MIX-CT-MRI"
    assert list(named(cells("constant", "", [1.0]))) == ["overview"]
    assert named(few.iloc[:0]) == {}


def test_one_repeat_has_no_standard_deviation():
    table = named(cells("target-only", "", [4.0]))["table-2"]
    assert [[str(cell) for cell in row] for row in table.rows] == [["Mean", "4.00"], ["Std", "-"]]
    assert "over 1 repeat." in table.note
    mixed = pd.concat([cells("target-only", "", [4.0] * 3), cells("joint", "mri", [4.0] * 2)])
    assert "over 2 to 3 repeats" in named(mixed)["table-2"].note


def test_every_table_says_what_its_figures_are():
    by_image = named(published(policy="image", fid=1.0), unit="years²")
    by_patient = named(published(fid=1.0), unit="years²")
    assert len(by_image) == len(by_patient) == 5
    for table in by_image.values():
        assert "slices of one patient can be in both training and test" in table.note
        assert "nothing about new patients" in table.note
        assert table.name == "table-5" or "mean squared error (years²)" in table.title
    for table in by_patient.values():
        assert "no patient ID is in both training and test" in table.note
    classes = published().drop(columns="mse")
    classes["loss"] /= 10_000
    rates = named(classes)
    for table in rates.values():
        assert "error rate (1 - accuracy)" in table.title
    assert str(rates["table-2"].rows[0][1]) == "0.01039"
    assert str(rates["table-2"].rows[1][1]) == "0.00643"


def test_systems_have_the_papers_names():
    assert paper_name("joint", "mri", "ct") == "Our method (MRI → CT)"
    assert paper_name("target-only", "", "flair") == "PURE-FLAIR"
    assert paper_name("joint+random-erasing", "mri+pet", "ct") == (
        "Our method + Random Erasing (MRI + PET → CT)"
    )
    assert paper_name("nnU-Net", "", "ct") == "nnU-Net"


def test_csv_gives_the_numbers_back_unrounded():
    for table in tables(published(), target="ct"):
        read = pd.read_csv(io.StringIO(table.csv()), keep_default_na=False, dtype=str)
        assert len(read) == len(table.rows)
        assert len(set(read.columns)) == len(table.columns[0])
        for line, row in zip(read.itertuples(index=False), table.rows, strict=True):
            for text, cell in zip(line, row, strict=True):
                if isinstance(cell, Number) and math.isfinite(cell.value):
                    assert float(text) == cell.value
                elif isinstance(cell, Number):
                    assert text == ""
                else:
                    assert text == cell
    awkward = PrintedTable("t", "T", (("a,b", 'say "x"'),), (("x\ny", Number(0.1, 0)),))
    assert pd.read_csv(io.StringIO(awkward.csv())).to_dict("list") == {
        "a,b": ["x\ny"], 'say "x"': [0.1]
    }  # fmt: skip


AWKWARD = PrintedTable(
    "awkward",
    r"100 % of R&D_x #1 {a} ~b ^c \d $5 ± 1² → < > |",
    (("", "A_1 → B", "A_1 → B"), ("%", "&", "#")),
    (("[x_y]", Number(1.0, 2, 0.5), Number(math.nan)), ("*", "-", "{")),
    "50 % & more",
)


def test_latex_escapes_its_special_characters():
    text = AWKWARD.latex()
    assert (
        r"100 \% of R\&D\_x \#1 \{a\} \textasciitilde{}b \textasciicircum{}c \textbackslash{}d "
        r"\$5 $\pm$ 1$^2$ $\rightarrow$ $<$ $>$ $|$"
    ) in text
    assert r"\multicolumn{2}{c}{A\_1 $\rightarrow$ B} \\" in text
    assert r"{[}x\_y] & 1.00 $\pm$ 0.50 & - \\" in text
    assert "usepackage" not in text
    assert "toprule" not in text


def widths(latex: str) -> tuple[int, set[int]]:
    """The declared number of columns, and those of all rows."""
    spec = latex.split(r"\begin{tabular}{")[1].split("}")[0]
    body = latex.split(r"\begin{tabular}")[1].split(r"\end{tabular}")[0]
    found = set()
    for line in body.splitlines():
        if line.endswith(r"\\"):
            plain = line.replace(r"\&", "")
            spans = [int(part.split("}")[0]) for part in plain.split(r"\multicolumn{")[1:]]
            found.add(plain.count("&") + 1 + sum(spans) - len(spans))
    return len(spec), found


def test_latex_rows_are_as_wide_as_their_table():
    for table in [*tables(published(), target="ct"), AWKWARD]:
        declared, found = widths(table.latex())
        assert found == {declared} == {len(table.columns[0])}
        plain = table.latex().replace(r"\{", "").replace(r"\}", "")
        assert plain.count("{") == plain.count("}")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles_and_fits_the_page(tmp_path):
    found = [*tables(published(fid=1.0, inception_score=2.0), target="ct", unit="years²"), AWKWARD]
    body = "\n".join(table.latex() for table in found)
    (tmp_path / "t.tex").write_text(
        f"\\documentclass{{article}}\\begin{{document}}{body}\\end{{document}}", encoding="utf-8"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path, capture_output=True, text=True, check=False, errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout


def test_markdown_keeps_its_columns():
    lines = AWKWARD.markdown().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in rows} == {4}
    bars = PrintedTable("t", "a|b", (("x", "y|z"),), (("_q_", "p|q\nr"),)).markdown()
    assert r"| \_q\_ | p\|q r |" in bars


# Dose and response

PATIENTS = {0.125: 5, 0.25: 10, 0.5: 20, 1.0: 40}
NOISE = np.array([-0.02, 0.01, 0.0, 0.02, -0.01])


def closed_form(patients: float) -> float:
    return 2 + 30 / patients


def dose_response(shift: float, *, noise: float = 1.0, policy: str = "patient") -> pd.DataFrame:
    """target-only's error is 2 + 30 / n; joint's, that of ``shift`` patients more."""
    parts = []
    for i, (share, patients) in enumerate(PATIENTS.items()):
        common = {"target_fraction": share, "train_patients": patients, "policy": policy}
        own = np.roll(NOISE, i)
        real = closed_form(patients) + noise * (NOISE + own / 2)
        mixed = closed_form(patients + shift) + noise * (NOISE + own[::-1] / 2)
        parts.append(cells("target-only", "", real, **common))
        parts.append(cells("joint", "mri", mixed, **common))
    return pd.concat(parts, ignore_index=True)


def test_a_known_learning_curve_is_read_right():
    readings = equivalents(dose_response(8), sources="mri")
    assert readings is not None
    assert [reading.patients for reading in readings] == [5, 10, 20, 40]
    for reading in readings[:3]:
        truth = reading.patients + 8
        assert reading.bound == "at"
        assert reading.equivalent == pytest.approx(truth, rel=0.05)
        assert reading.worth == pytest.approx(8 / 80, rel=0.15)
        assert reading.interval[0] < truth < reading.interval[1]
        low, high = reading.worth_interval
        assert low < 8 / 80 < high
        assert (80 * low, 80 * high) == pytest.approx(
            [end - reading.patients for end in reading.interval]
        )
        assert reading.error == pytest.approx(closed_form(truth))
        assert reading.reference_error == pytest.approx(closed_form(reading.patients))
        assert "no gain is shown" not in reading.sentence
    assert "With 5 target patients, joint (mri) has an error of 4.31" in readings[0].sentence
    assert "Each of its 80 translated source patients is worth about 0.1" in readings[0].sentence


def test_nothing_is_read_beyond_the_patients_there_were():
    last = equivalents(dose_response(8), sources="mri")[-1]
    assert (last.bound, last.equivalent, last.interval) == ("more", 40, (math.inf, math.inf))
    assert "would need more than 40 target patients" in last.sentence
    assert last.worth is last.worth_interval is None
    assert "The value of a translated source patient is not estimated" in last.sentence
    far = equivalents(dose_response(60), sources="mri")[0]
    assert (far.bound, far.equivalent, far.worth) == ("more", 40, None)
    assert "is not estimated: the interval extends beyond" in far.sentence


def test_a_method_that_does_harm_is_reported():
    readings = equivalents(dose_response(-4), sources="mri")
    assert readings[0].bound == "fewer"
    assert readings[0].interval == (0, 0)
    assert "would need fewer than 5 target patients" in readings[0].sentence
    assert readings[2].equivalent == pytest.approx(16, rel=0.05)
    assert readings[2].worth == pytest.approx(-4 / 80, rel=0.2)
    assert "gained nothing here" in readings[2].sentence


def test_no_gain_is_claimed_where_the_noise_hides_it():
    readings = equivalents(dose_response(0.2, noise=10), sources="mri")
    assert "no gain is shown" in readings[1].sentence


def test_what_cannot_be_read_is_not_read():
    noisy = equivalents(dose_response(8, noise=500), sources="mri")
    assert all(reading.equivalent is reading.worth is None for reading in noisy)
    assert "does not clearly fall with more target patients" in noisy[0].sentence
    once = dose_response(8)
    once = equivalents(once[once["repeat"] == 0], sources="mri")
    assert once[0].interval is None
    assert (
        "cannot be determined from these repeats: 1 repeat has every fraction" in once[0].sentence
    )
    apart = dose_response(8)
    apart.loc[apart["method"] == "joint", "repeat"] += 5
    apart = equivalents(apart, sources="mri")
    assert "no repeat has every fraction" in apart[0].sentence
    assert apart[0].error == pytest.approx(closed_form(13))


def test_one_fraction_has_no_curve():
    whole = dose_response(8)
    whole = whole[whole["target_fraction"] == 1]
    assert equivalents(whole, sources="mri") is None
    assert equivalents(dose_response(8), sources="pet") is None
    assert saturation(dose_response(8), sources="mri") is None


def test_patients_are_not_counted_where_slices_were_divided():
    assert equivalents(dose_response(8, policy="image"), sources="mri") is None
    cells = source_response({0.1: 4.5, 0.5: 4.2, 1.0: 3.9}).assign(policy="image")
    assert saturation(cells, sources="mri") is None


def test_intervals_cover_as_often_as_they_say():
    """Repeats of independent splits (no test share) and a straight line: the ordinary t."""
    values = np.random.default_rng(1).normal([5.0, 3.0], 1.0, (6, 2))
    means = draws(values, 1 / math.sqrt(6), count=200_000, seed=2)
    ends = np.quantile(means[:, 0] - means[:, 1], [0.025, 0.975])
    gaps = values[:, 0] - values[:, 1]
    half = 2.570582 * gaps.std(ddof=1) / math.sqrt(6)  # t of 5 degrees of freedom
    np.testing.assert_allclose(ends, [gaps.mean() - half, gaps.mean() + half], rtol=0.02)


def test_the_same_errors_need_the_same_patients():
    readings = equivalents(dose_response(0, noise=0), sources="mri")
    assert [reading.equivalent for reading in readings] == pytest.approx([5, 10, 20, 40], rel=0.01)
    assert all("gained nothing here" in reading.sentence for reading in readings[::3])


def test_isotonic_by_hand():
    np.testing.assert_allclose(isotonic(np.array([5.0, 3, 4, 1, 2, 3])), [5, 3.5, 3.5, 2, 2, 2])
    np.testing.assert_allclose(isotonic(np.array([1.0, 2, 3])), [2, 2, 2])
    np.testing.assert_allclose(isotonic(np.array([3.0, 2, 1])), [3, 2, 1])


def test_a_chance_dip_of_the_reference_is_not_taken_for_its_curve():
    patients, errors = np.array([5.0, 10, 20, 40]), np.array([[6.0, 3, 4, 1]])
    assert 20 < needed(patients, errors, np.array([3.2]), 5)[0] < 40
    assert 5 < needed(patients, errors, np.array([3.6]), 40)[0] < 10


def test_a_flat_stretch_gives_the_number_that_was_there():
    patients, errors = np.array([5.0, 10, 20, 40]), np.array([[6.0, 4, 4, 1]])
    wanted = np.array([4.0])
    assert needed(patients, errors, wanted, 12)[0] == pytest.approx(12)
    assert needed(patients, errors, wanted, 5)[0] == pytest.approx(10, rel=0.01)
    assert needed(patients, errors, wanted, 40)[0] == pytest.approx(20, rel=0.01)
    assert needed(patients, errors, np.array([0.5]), 12)[0] == math.inf
    assert needed(patients, errors, np.array([7.0]), 12)[0] == 0
    for node, error in zip(patients[[0, -1]], errors[0, [0, -1]], strict=True):
        assert needed(patients, errors, np.array([error]), 12)[0] == pytest.approx(node)


def source_response(errors: dict[float, float], noise: float = 1.0) -> pd.DataFrame:
    parts = [cells("target-only", "", 5 + noise * NOISE)]
    for i, (share, error) in enumerate(errors.items(), 1):
        losses = error + noise * (NOISE + np.roll(NOISE, i) / 4)
        parts.append(
            cells("joint", "mri", losses, source_fraction=share, source_patients=80 * share)
        )
    return pd.concat(parts, ignore_index=True)


def test_where_more_source_stops_helping():
    found = saturation(source_response({0.1: 4.5, 0.25: 4.0, 0.5: 4.0, 1.0: 4.001}), sources="mri")
    assert (found.source_fraction, found.source_patients) == (0.25, 20)
    assert found.gain <= found.standard_error
    assert "Beyond 20 source patients, more (up to 80 source patients)" in found.sentence
    falling = saturation(source_response({0.1: 4.5, 0.5: 4.2, 1.0: 3.9}), sources="mri")
    assert (falling.source_fraction, falling.gain) == (1.0, None)
    assert "more may help further" in falling.sentence
    useless = saturation(source_response({0.1: 5.1, 0.5: 5.2, 1.0: 5.1}), sources="mri")
    assert (useless.source_fraction, useless.source_patients) == (0, 0)
    assert useless.gain < 0
    assert "is shown to help" in useless.sentence


def test_saturation_that_noise_hides_is_not_read():
    hidden = saturation(source_response({0.1: 4.9, 0.5: 4.8, 1.0: 4.7}, noise=100), sources="mri")
    assert hidden.source_fraction is None
    assert "cannot be determined from these repeats" in hidden.sentence
    flat = saturation(source_response({0.1: 5.0, 1.0: 5.0}), sources="mri")
    assert flat.source_fraction == 0
    once = source_response({0.1: 4.5, 1.0: 4.0})
    once = saturation(once[once["repeat"] == 0], sources="mri")
    assert once.source_fraction is None
    assert "at least 2 are needed" in once.sentence


def ratios() -> pd.DataFrame:
    """1, 2 and 4 source images to a real one, 30 of each patient."""
    few = {"train_images": 600, "train_patients": 20}
    parts = [cells("target-only", "", [9.0, 10.0], **few)]
    for share, loss in ((0.25, 7.0), (0.5, 5.0), (1.0, 6.0)):
        source = {"source_patients": 80 * share, "source_images": 2400 * share}
        losses = [loss, loss + 1]
        parts.append(cells("joint", "mri", losses, source_fraction=share, **few, **source))
    return pd.concat(parts, ignore_index=True)


def test_the_sweep_of_the_ratio_is_a_table_and_a_curve():
    table = named(ratios())["ratios"]
    rows = [[str(cell) for cell in row] for row in table.rows]
    assert [row[4] for row in rows] == ["1.00", "2.00", "4.00"]
    assert [row[6] for row in rows] == ["15.00", "11.00", "13.00"]
    assert [row[3] for row in rows] == ["20", "40", "80"]
    assert {row[8] for row in rows} == {"15.5"}
    assert "ratios" not in named(published())
    (curve,) = source_curves(ratios(), over="ratio")
    assert list(curve.patients) == [0, 1, 2, 4]
    assert list(curve.means) == [9.5, 7.5, 5.5, 6.5]


def test_figures_beside_the_loss_are_in_the_overview():
    beside = {"patient_mae": 1.5, "patient_brier": math.nan}
    table = named(cells("joint", "mri", [3.0, 4.0], **beside))["overview"]
    heads = [*zip(*table.columns, strict=True)]
    line = {head: str(cell) for head, cell in zip(heads, table.rows[0], strict=True)}
    assert line["Per patient", "MAE"] == "1.500"
    assert ("Per patient", "Brier") not in line
    assert heads.index(("Seconds", "Own")) == heads.index(("Per patient", "MAE")) + 1


# Figures


def pixels(path) -> np.ndarray:
    with PIL.Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("L"))


def assert_margins(picture: np.ndarray) -> None:
    """Nothing touches the edge: no text is cut off."""
    for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert edge.min() == 255


def test_error_plot(tmp_path):
    systems = errors_of(published(), {("joint", "mri"): (70.0, 84.0)})
    assert len(systems) == 15
    assert [system.name for system in systems[:2]] == [
        "joint (mri+pet)", "joint (pet)"
    ]  # fmt: skip
    assert [system.interval for system in systems if system.interval] == [(70.0, 84.0)]
    long = Errors("A name as long as that of a method with two augmentations on top", [90.0, 99.0])
    error_plot(
        tmp_path / "errors.png",
        [*systems, long],
        label="Mean squared error (years²)",
        references={"Constant": 187.0, "PURE-CT": 103.88},
        note="word " * 100,
    )
    assert_margins(pixels(tmp_path / "errors.png"))


def test_dose_plot(tmp_path):
    results = pd.concat([dose_response(8, noise=20), source_response({0.1: 3.0, 0.5: 2.5})])
    target, source = target_curves(results), source_curves(results)
    assert [curve.name for curve in target] == ["target-only", "joint (mri)"]
    assert list(target[0].patients) == [5, 10, 20, 40 + 17 / 2]
    assert target[1].means[0] == pytest.approx(closed_form(13))
    assert target[1].stds[0] > 0
    assert [list(curve.patients[:3]) for curve in source] == [[0, 8, 40]]
    ratio = source_curves(ratios(), over="ratio")
    panels = [Panel("Target patients", target, logarithmic=True), Panel("Source patients", source)]
    panels.append(Panel("Source images per real target image", ratio))
    many = [Curve(f"Method {i}", [5, 40], [i, 1], [math.nan, 0.1]) for i in range(9)]
    for drawn in (panels[:2], panels, [Panel("Target patients", many)]):
        dose_plot(tmp_path / "dose.png", drawn, label="Error", note="One.")
        assert_margins(pixels(tmp_path / "dose.png"))
