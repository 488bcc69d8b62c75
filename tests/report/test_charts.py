from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from importlib.resources import files

import matplotlib
import numpy as np
import pytest
from markupsafe import Markup

from medxlate.charts.style import THEME
from medxlate.evaluation.results import Picture, Points
from medxlate.report.charts import draw, thin
from medxlate.report.comparison_charts import Curve, Errors, Panel, curves_chart, interval_chart
from medxlate.report.page import badge, figure, paragraph, printed, table
from medxlate.report.printing import Number, PrintedTable, short
from medxlate.report.training_curves import curves

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<script>alert('&\"')</script>"
KINDS = ("histogram", "scatter", "lines", "bars")
LARGEST = 60_000  # bytes of a chart


def line(name, x, y=()) -> Points:
    return Points(name=name, x=tuple(map(float, x)), y=tuple(map(float, y)))


def picture(kind, *lines, **others) -> Picture:
    return Picture(kind=kind, title="A title", x_label="x", y_label="y", lines=lines, **others)


def parsed(markup) -> ET.Element:
    assert isinstance(markup, Markup)
    return ET.fromstring(str(markup))


def texts(root) -> list[str]:
    return [each.text or "" for each in root.iter(f"{SVG}text")]


def elements(root) -> set[str]:
    return {each.tag.removeprefix(SVG) for each in root}


def paths(root, **wanted) -> list[ET.Element]:
    return [
        each
        for each in root.iter(f"{SVG}path")
        if all(each.get(key.replace("_", "-")) == value for key, value in wanted.items())
    ]


def points(path) -> np.ndarray:
    return np.array(re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path.get("d")), float)


def tick_places(root, anchor) -> dict[float, float]:
    """Value and place of each tick: upright ones for "end", level ones for "middle"."""
    found = {}
    for each in root.iter(f"{SVG}text"):
        number = (each.text or "").replace("\u2212", "-")
        if each.get("text-anchor") == anchor and re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", number):
            found[float(number)] = (
                float(each.get("y")) - 4.5 if anchor == "end" else float(each.get("x"))
            )
    return found


def place_of(root, anchor):
    """Return the function from values to places that the ticks of an axis show."""
    places = tick_places(root, anchor)
    assert len(places) >= 3
    slope, start = np.polyfit(list(places), list(places.values()), 1)
    return lambda values: slope * np.asarray(values, float) + start


def test_a_curve_lies_where_its_axes_say() -> None:
    xs, ys = np.arange(0, 101, 10), np.linspace(-3, 7, 11) ** 2
    root = parsed(draw(picture("lines", line("a", xs, ys))))
    drawn = points(paths(root, stroke="var(--c1)", stroke_width="2")[0])
    np.testing.assert_allclose(drawn[:, 0], place_of(root, "middle")(xs), atol=0.15)
    np.testing.assert_allclose(drawn[:, 1], place_of(root, "end")(ys), atol=0.6)


@pytest.mark.parametrize("kind", ["lines", "scatter"])
def test_a_threshold_and_the_diagonal_lie_where_the_axes_say(kind) -> None:
    values = np.linspace(20, 80, 7)
    whole = picture(kind, line("a", values, values), thresholds={"limit": 50}, diagonal=True)
    root = parsed(draw(whole))
    assert "limit: 50" in texts(root)
    limit, _in_the_legend = paths(root, stroke="var(--ink)")
    np.testing.assert_allclose(points(limit)[:, 1], place_of(root, "end")(50), atol=0.6)
    ends = [points(each) for each in paths(root, stroke="var(--muted)")]
    (same,) = [each for each in ends if len(each) == 2 and (np.ptp(each, axis=0) > 50).all()]
    across, up = place_of(root, "middle"), place_of(root, "end")
    steps = (same[1] - same[0]) / [across(1) - across(0), up(1) - up(0)]  # in units of the data
    assert steps[0] == pytest.approx(steps[1], rel=0.01)


def test_a_histogram_counts_and_its_threshold_is_upright() -> None:
    values = np.repeat([0.0, 1.0, 2.0, 3.0], [5, 10, 20, 5])
    root = parsed(draw(picture("histogram", line("a", values), thresholds={"limit": 1.5})))
    (steps,) = paths(root, stroke="var(--c1)")
    assert points(steps)[:, 1].min() == pytest.approx(place_of(root, "end")(20), abs=0.6)
    limit, _in_the_legend = paths(root, stroke="var(--ink)")
    np.testing.assert_allclose(points(limit)[:, 0], place_of(root, "middle")(1.5), atol=0.15)


def test_bars_are_as_long_as_their_values() -> None:
    names = ("20 to 29", "30 to 39", "40 to 49")
    root = parsed(draw(picture("bars", line("a", range(3), [2, -4, 8]), ticks=names)))
    assert set(names) <= set(texts(root))
    bars = [points(each) for each in paths(root, fill="var(--c1)")]
    widths = np.array([np.ptp(each[:, 0]) for each in bars])
    np.testing.assert_allclose(widths / widths[0], [1, 2, 4], rtol=0.01)


def test_intervals_stand_on_the_axis() -> None:
    systems = [Errors("joint", [60, 70], (55, 80), True), Errors("target-only", [90, 100])]
    root = parsed(interval_chart(systems, title="t", label="l", references={"constant": 95}))
    (interval,) = [
        p for p in paths(root, stroke="var(--c2)", stroke_width="2") if "L" in p.get("d")
    ]
    across = place_of(root, "middle")
    np.testing.assert_allclose(points(interval)[:, 0], across([55, 80]), atol=0.15)
    assert {"joint", "target-only", "constant: 95"} <= set(texts(root))
    assert "No values." in interval_chart([], title="t", label="l")


def test_a_repeat_that_diverged_neither_moves_the_mean_nor_widens_the_axis() -> None:
    systems = [Errors("joint", [60, 70, float("inf")], (55, 80)), Errors("dann", [float("nan")])]
    markup = interval_chart(systems, title="t", label="l")
    assert "joint: mean 65 over 2 of 3 repeats; dann: no finite value." in markup
    across = tick_places(parsed(markup), "middle")
    assert min(across) > 50
    assert max(across) < 90
    (mean,) = paths(parsed(markup), stroke="var(--c1)", stroke_width="9", stroke_linecap="round")
    x = float(re.findall(r"M([\d.]+)", mean.get("d"))[0])
    assert x == pytest.approx(place_of(parsed(markup), "middle")(65), abs=0.15)


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 1.7e308])
def test_trainings_that_diverged_are_skipped(loss) -> None:
    systems = [Errors("joint", [60, loss], (55, loss)), Errors("cyclegan", [loss])]
    drawn = [interval_chart(systems, title="t", label="l", references={"constant": loss})]
    curve = Curve("joint", [5, 10], [loss, 7.0], [loss, 0.5])
    drawn.append(curves_chart(Panel("patients", [curve]), title="t", label="Error"))
    for root in map(parsed, drawn):
        places = " ".join(each.get("d") for each in paths(root))
        assert not re.search("nan|inf", places)


def test_a_band_is_a_standard_deviation_wide() -> None:
    curve = Curve("joint", [5, 10, 20, 40], [9.0, 7.0, 6.0, 5.5], [1.0, 0.5, 0.5, float("nan")])
    root = parsed(curves_chart(Panel("patients", [curve]), title="t", label="Error"))
    (band,) = paths(root, fill="var(--c1)", fill_opacity="0.12")
    up = place_of(root, "end")
    np.testing.assert_allclose(points(band)[:, 1].min(), up(10), atol=0.6)
    assert {"5", "10", "20", "40"} <= set(texts(root))
    logarithmic = Panel("patients", [curve], logarithmic=True)
    root = parsed(curves_chart(logarithmic, title="t", label="Error"))
    places = tick_places(root, "middle")
    steps = np.diff([places[value] for value in (5, 10, 20, 40)])
    np.testing.assert_allclose(steps, steps[0], atol=0.15)


def test_colours_are_those_of_the_page() -> None:
    page = (files("medxlate.report") / "assets" / "page.css").read_text()
    light = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", page.split("}")[0]))
    assert light.items() >= THEME.items()
    assert light["c6"] == light["muted"]
    lines = [line(str(i), range(3), [i, 1, 2]) for i in range(7)]
    for kind in KINDS:
        assert not re.search(r"#[0-9a-f]{3}", draw(picture(kind, *lines, thresholds={"a": 1})))


def test_a_chart_is_the_same_each_time_whatever_matplotlibrc_says() -> None:
    same = picture("lines", line("a", [0, 1, 2], [1, 2, 3]), thresholds={"limit": 2})

    def drawn() -> str:
        return re.sub(r"chart-\d+", "chart", draw(same))

    first = drawn()
    with matplotlib.rc_context({"font.size": 40, "axes.grid": False, "text.usetex": True}):
        assert drawn() == first
        assert matplotlib.rcParams["font.size"] == 40


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "values",
    [[], [3], [5] * 9, [0] * 4, [1.7e308, -1.7e308], [1e9, 1e9 + 1], [1e-12, 3e-12], [-2, -1]],
    ids=str,
)
def test_odd_values_are_drawn(kind, values) -> None:
    xs = range(len(values)) if kind == "bars" else values
    root = parsed(draw(picture(kind, line("a", xs, values), thresholds={"limit": 0.5})))
    numbers = re.findall(r"nan|inf", ET.tostring(root, encoding="unicode").replace("inferior", ""))
    assert not numbers
    assert values or "No values." in texts(root)


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_escaped_and_read_aloud(kind) -> None:
    whole = Picture(
        kind=kind, title=EVIL, x_label=EVIL, y_label=EVIL, thresholds={EVIL[:20]: 1.5},
        lines=(line(EVIL, [0, 1, 2], [1, 2, 3]), line("b", [0, 1], [3, 1])), ticks=(EVIL,) * 3,
    )  # fmt: skip
    markup = draw(whole)
    assert "<script" not in markup
    root = parsed(markup)
    assert root.get("role") == "img"
    said = {each.get("id"): each.text for each in root if each.tag in (f"{SVG}title", f"{SVG}desc")}
    assert list(said) == root.get("aria-labelledby").split()
    assert EVIL in said.values()
    assert elements(root) == {"title", "desc", "text", "path"}
    # The page's policy refuses styles, and ids would meet on a page.
    assert not re.search(r" style=|href|url\(| id=\"(?!chart-)", markup)


def test_a_formula_stays_text() -> None:
    name = r"$\frac$ and $x^2$"
    lines = line(name, [0, 1, 2], [1, 2, 3]), line("_hidden", [0, 1], [3, 1])
    root = parsed(draw(picture("lines", *lines, thresholds={name: 2})))
    said = "\n".join(texts(root))
    assert name in said
    assert f"{name}: 2" in said
    assert "_hidden" in said


def test_letters_that_matplotlib_lacks_are_left_to_the_browser(recwarn) -> None:
    assert "年齢" in draw(picture("lines", line("年齢", [0, 1], [1, 2]), line("b", [0], [1])))
    assert not recwarn.list


def test_many_charts_on_a_page_have_ids_of_their_own() -> None:
    same = picture("lines", line("a", [0, 1], [1, 2]))
    ids = re.findall(r' id="([^"]+)"', "".join(draw(same) for _ in range(20)))
    assert len(set(ids)) == len(ids) == 40


@pytest.mark.parametrize("kind", KINDS[:3])
def test_thousands_of_points_stay_small(kind) -> None:
    random = np.random.default_rng(0)
    lines = [line(str(i), random.random(9000), random.random(9000)) for i in range(12)]
    assert len(draw(picture(kind, *lines)).encode()) < LARGEST
    assert len(draw(picture(kind, lines[0])).encode()) < LARGEST


@pytest.mark.parametrize("kind", ["lines", "histogram"])
def test_lines_differ_without_colour_and_more_than_six_with_it(kind) -> None:
    lines = [line(str(i), range(3), [i, i + 1, i + 2]) for i in range(14)]
    for number in (6, 12, 14):
        root = parsed(draw(picture(kind, *lines[:number])))
        strokes = [each for each in paths(root, stroke_width="2") if "L" in each.get("d")]
        looks = {(each.get("stroke-dasharray"), each.get("stroke")) for each in strokes}
        assert len({dashes for dashes, _ in looks}) == 6
        assert len(looks) == min(number, 12)
        assert ("A title (the first 12 of 14)" in texts(root)) == (number == 14)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3, 17), (1e-7, 9e-7), (2e9, 7e9), (0.11, 0.13)]
)
def test_ticks_are_few_and_told_apart(low, high) -> None:
    root = parsed(draw(picture("lines", line("a", [low, high], [low, high]))))
    for anchor in ("middle", "end"):
        assert 2 <= len(tick_places(root, anchor)) <= 9


def test_whole_numbers_have_whole_ticks() -> None:
    root = parsed(draw(picture("lines", line("a", [1, 2, 3], [0.5, 1, 2]))))
    assert list(tick_places(root, "middle")) == [1, 2, 3]


def test_numbers_are_short() -> None:
    said = [short(value) for value in (1e6, 12345, -0.5, -0.0, 1.23456e-7)]
    assert said == ["1e6", "1.234e4", "\u22120.5", "0", "1.235e-7".replace("-", "\u2212")]


def test_thinning_loses_no_peak() -> None:
    ys = np.random.default_rng(1).random(5000)
    ys[1234], ys[4321] = 50, -50
    xs, kept = thin(range(5000), ys.tolist(), 300)
    assert len(xs) <= 300
    assert (max(kept), min(kept), xs[0], xs[-1]) == (50, -50, 0, 4999)
    assert all(ys[int(x)] == y for x, y in zip(xs, kept, strict=True))


def events(steps: int, sources=("mri",)) -> list[dict]:
    names = [f"{s}.{n}" for s in sources for n in ("adv_t", "adv_s", "cycle_s", "cycle_t", "d_t")]
    speed = {"images_per_second": 9.5, "data_wait": 0.1}
    recorded = [
        {"event": "step", "step": k, "losses": dict.fromkeys(names, 1 / k) | {"predict_real": k}}
        for k in range(1, steps + 1)
    ]
    ended = [
        {"event": "epoch", "epoch": k, "metrics": {"val_error": v, "val_mse": 7.0}, "best": k < 3}
        for k, v in ((1, 5.0), (2, 3.0), (3, 4.0))
    ]
    return [each | speed for each in recorded] + ended


def test_what_was_recorded_becomes_curves() -> None:
    found = {each.title: each for each in curves(events(40))}
    validation, kept = found["Validation error"].lines
    assert (validation.x, validation.y) == ((1, 2, 3), (5, 3, 4))
    assert (kept.name, kept.x, kept.y) == ("kept: epoch 2", (2,), (3,))
    (predictor,) = found["Predictor loss"].lines
    assert predictor.y == tuple(range(1, 41))
    adversarial = found["Adversarial losses of the generators"]
    assert {each.name for each in adversarial.lines} == {
        "G (source to target), mri", "F (target to source), mri"
    }  # fmt: skip
    assert found["Speed"].lines[0].y == (9.5,) * 40
    assert set(found) >= {"Waiting for images", "Discriminator losses"}


def test_many_sources_are_drawn_apart_and_long_runs_thinned() -> None:
    found = curves(events(2000, ("mri", "pet", "us", "xray")))
    titles = [each.title for each in found]
    assert "Adversarial losses of the generators: pet" in titles
    for each in found:
        root = parsed(draw(each))
        assert max(len(points(path)) for path in paths(root)) <= 300
        counts = re.findall(r": (\d+) values", root[1].text)
        assert [int(count) for count in counts] == [len(line.x) for line in each.lines]
    assert max(len(line.x) for each in found for line in each.lines) == 2000


def test_what_shares_a_chart_shares_a_unit() -> None:
    """MIND descriptors are not grey values, and the guidance is a ratio."""
    names = ("cycle_s", "identity", "reproduce", "structure", "gradient_ratio")
    losses = {f"mri.{name}": 0.5 for name in names}
    found = curves([{"event": "step", "step": k, "losses": losses} for k in (1, 2)])
    charts = {each.title: {line.name.split(",")[0] for line in each.lines} for each in found}
    assert charts == {
        "L1 losses (images in \u22121 to 1)": {
            "source cycle",
            "identity",
            "reconstruction (autoencoder phase)",
        },
        "Structure loss (MIND descriptors in 0 to 1)": {"structure"},
        "Gradient ratio at translated images (predictor / translator)": {"gradient ratio"},
    }


def test_damaged_events_are_skipped() -> None:
    odd = [{"event": "step", "step": 1, "losses": None}, {"event": "epoch", "step": 1}, {"step": 2},
           {"event": "step", "step": 2, "losses": {"predict_real": float("nan")}}]  # fmt: skip
    assert curves([]) == curves(odd) == []


def test_a_table_names_its_rows_and_sets_numbers_right() -> None:
    rows = [(EVIL, 1.23456, Number(3.14159, 2, 0.1), "x"), ("b", None, Number(2), "y")]
    root = parsed(table(("name", "a", "b", "c"), rows, caption=EVIL))
    assert (root.get("tabindex"), root.get("role"), root.get("aria-label")) == ("0", "region", EVIL)
    heads = [each for each in root.iter("th") if each.get("scope") == "row"]
    assert [each.text for each in heads] == [EVIL, "b"]
    cells = [(each.text, each.get("class")) for each in root.iter("td")]
    assert cells[:3] == [("1.235", "number"), ("3.14 ± 0.10", "number"), ("x", None)]
    assert cells[3][0] == "\u2013"
    assert parsed(table(("a", "b"), [])).find(".//tbody") is not None


def test_a_table_for_papers_keeps_its_two_headings() -> None:
    columns = (("", "MRI", "MRI", "PET"), ("", "TL", "DA", "TL"))
    found = PrintedTable(
        "t", "Errors", columns, (("Mean", Number(1), Number(2), Number(3)),), "A note."
    )
    root = ET.fromstring(f"<div>{printed(found)}</div>")
    groups = [(e.text, e.get("colspan")) for e in root.iter("th") if e.get("scope") == "colgroup"]
    assert groups == [("MRI", "2"), ("PET", "1")]
    assert root.find("p").text == "A note."


def test_pieces_are_escaped() -> None:
    for piece in (paragraph(EVIL), figure(draw(picture("lines")), caption=EVIL)):
        assert "<script" not in piece
        parsed(piece)
    assert len({badge(status) for status in ("green", "amber", "red", "grey")}) == 4


@pytest.mark.parametrize("label", ["Mean squared error (years²) per patient, lower is better"])
def test_long_words_stay_within_the_drawing(label):
    system = Errors("a long name of a system that somebody chose", [1.0, 2.0])
    root = parsed(interval_chart([system], title=label * 3, label=label))
    width = float(root.get("viewBox").split()[2])
    for each in root.iter(f"{SVG}text"):
        anchor, x, room = each.get("text-anchor"), float(each.get("x")), 6 * len(each.text)
        left = x - {"middle": room / 2, "end": room}.get(anchor, 0)
        assert left >= 0, each.text
        assert left + room <= width, each.text


def test_names_that_are_cut_keep_what_they_differ_in() -> None:
    systems = [
        Errors(f"joint+simple-augment (mri_t1_contrast{more})", [1.0, 2.0])
        for more in ("", "+mri_t2_flair", "+" + "x" * 60)
    ]
    root = parsed(
        interval_chart(systems, title="t", label="l", references={"a threshold " * 9: 12.5})
    )
    names = [each for each in texts(root) if each.startswith("joint")]
    assert len(set(names)) == 3
    assert any(each.endswith(": 12.5") for each in texts(root))
    assert not any(each.strip() == "…" for each in texts(root))
