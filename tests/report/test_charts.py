from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from markupsafe import Markup

from medxlate.evaluation.results import Picture, Points
from medxlate.report.axes import Axis, span, thin, tick_texts, ticks
from medxlate.report.blocks import badge, figure, paragraph, printed, table
from medxlate.report.charts import draw
from medxlate.report.curves import curves
from medxlate.report.interval_chart import Errors, interval_chart
from medxlate.report.svg import LETTER, WIDTH
from medxlate.report.table import Number, Table

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
                float(each.get("y")) - 4 if anchor == "end" else float(each.get("x"))
            )
    return found


def test_a_curve_lies_where_its_axes_say() -> None:
    xs, ys = np.arange(0, 101, 10), np.linspace(-3, 7, 11) ** 2
    root = parsed(draw(picture("lines", line("a", xs, ys))))
    drawn = points(paths(root, stroke="var(--c1)", stroke_width="2")[0])
    for axis, values, column in (("middle", xs, 0), ("end", ys, 1)):
        places = tick_places(root, axis)
        assert len(places) >= 3
        slope, start = np.polyfit(list(places), list(places.values()), 1)
        np.testing.assert_allclose(drawn[:, column], slope * values + start, atol=0.15)


@pytest.mark.parametrize("kind", ["lines", "scatter"])
def test_a_threshold_and_the_diagonal_lie_where_the_axes_say(kind) -> None:
    values = np.linspace(20, 80, 7)
    root = parsed(
        draw(picture(kind, line("a", values, values), thresholds={"limit": 50}, diagonal=True))
    )
    assert "limit: 50" in texts(root)
    places = tick_places(root, "end")
    (limit,) = paths(root, stroke="var(--ink)")
    middle = np.interp(50, sorted(places), [places[key] for key in sorted(places)])
    np.testing.assert_allclose(points(limit)[:, 1], middle, atol=0.15)
    (same,) = [each for each in root.iter(f"{SVG}path") if each.get("class") == "same"]
    across = tick_places(root, "middle")
    (x1, y1), (x2, y2) = points(same)
    for value in set(places) & set(across):
        share = (across[value] - x1) / (x2 - x1)
        assert places[value] == pytest.approx(y1 + share * (y2 - y1), abs=0.3)


def test_a_histogram_counts_and_its_threshold_is_upright() -> None:
    values = np.repeat([0.0, 1.0, 2.0, 3.0], [5, 10, 20, 5])
    root = parsed(draw(picture("histogram", line("a", values), thresholds={"limit": 1.5})))
    heights = tick_places(root, "end")
    top = min(
        float(y) for y in re.findall(r"V([\d.]+)", paths(root, stroke="var(--c1)")[0].get("d"))
    )
    slope, start = np.polyfit(list(heights), list(heights.values()), 1)
    assert (top - start) / slope == pytest.approx(20, abs=0.1)
    (x1, _), (x2, _) = points(paths(root, stroke="var(--ink)")[0])
    across = tick_places(root, "middle")
    assert x1 == x2 == pytest.approx(np.interp(1.5, list(across), list(across.values())), abs=0.15)


def test_bars_are_as_long_as_their_values() -> None:
    names = ("20 to 29", "30 to 39", "40 to 49")
    root = parsed(draw(picture("bars", line("a", range(3), [2, -4, 8]), ticks=names)))
    assert set(names) <= set(texts(root))
    widths = [float(each.get("width")) for each in root.iter(f"{SVG}rect")]
    np.testing.assert_allclose(np.array(widths) / widths[0], [1, 2, 4], rtol=0.01)


def test_intervals_stand_on_the_axis() -> None:
    systems = [Errors("joint", [60, 70], (55, 80), True), Errors("target-only", [90, 100])]
    root = parsed(interval_chart(systems, title="t", label="l", thresholds={"constant": 95}))
    across = tick_places(root, "middle")
    slope, start = np.polyfit(list(across), list(across.values()), 1)
    interval = next(p.get("d") for p in root.iter(f"{SVG}path") if "v8" in p.get("d"))
    low, high = map(float, re.match(r"M([\d.]+) [\d.]+H([\d.]+)", interval).groups())
    assert [(each - start) / slope for each in (low, high)] == pytest.approx([55, 80], abs=0.1)
    assert "No values." in interval_chart([], title="t", label="l", thresholds={})


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
def test_words_are_escaped_and_a_reader_is_told(kind) -> None:
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
    assert {each.tag.removeprefix(SVG) for each in root} <= {
        "title",
        "desc",
        "text",
        "path",
        "rect",
    }


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


def test_lines_differ_without_colour() -> None:
    lines = [line(str(i), range(3), [i, i + 1, i + 2]) for i in range(6)]
    root = parsed(draw(picture("lines", *lines)))
    strokes = [each for each in paths(root, stroke_width="2") if "L" in each.get("d")]
    assert len({each.get("stroke-dasharray") for each in strokes}) == 6


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3, 17), (1e-7, 9e-7), (2e9, 7e9), (0.11, 0.13)]
)
def test_ticks_are_round_few_and_told_apart(low, high) -> None:
    found = ticks(low, high)
    assert 3 <= len(found) <= 9
    step = found[1] - found[0]
    assert round(step / 10 ** np.floor(np.log10(step * 1.0001)), 6) in (1, 2, 5)
    names = tick_texts(found)
    assert len(set(names)) == len(names)
    read = [float(name.replace("\u2212", "-")) for name in names]
    np.testing.assert_allclose(read, found, rtol=1e-6, atol=1e-9 * step)


def test_whole_numbers_have_whole_ticks() -> None:
    assert ticks(0.9, 3.1, whole=True) == [1, 2, 3]
    assert tick_texts([-1, 0, 1]) == ["\u22121", "0", "1"]


def test_an_axis_is_straight_and_ends_at_its_ends() -> None:
    axis = Axis(10, 20, 100, 0)
    assert [axis(value) for value in (5, 10, 12.5, 20, 99)] == [100, 100, 75, 0, 0]
    assert span([4, 4]) == (3.6, 4.4)
    assert span([2, 10], zero=True, pad=0.1) == (0, 11)


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
    told = [
        {"event": "step", "step": k, "losses": dict.fromkeys(names, 1 / k) | {"predict_real": k}}
        for k in range(1, steps + 1)
    ]
    ended = [
        {"event": "epoch", "epoch": k, "metrics": {"val_error": v, "val_mse": 7.0}, "best": k < 3}
        for k, v in ((1, 5.0), (2, 3.0), (3, 4.0))
    ]
    return [each | speed for each in told] + ended


def test_what_was_recorded_becomes_curves() -> None:
    found = {each.title: each for each in curves(events(40))}
    validation, kept = found["Validation error"].lines
    assert (validation.x, validation.y) == ((1, 2, 3), (5, 3, 4))
    assert (kept.name, kept.x, kept.y) == ("kept: epoch 2", (2,), (3,))
    (predictor,) = found["Loss of the predictor"].lines
    assert predictor.y == tuple(range(1, 41))
    adversarial = found["Adversarial losses of the translators"]
    assert {each.name for each in adversarial.lines} == {
        "to the target (G), mri", "to the source (F), mri"
    }  # fmt: skip
    assert found["Speed"].lines[0].y == (9.5,) * 40
    assert set(found) >= {"Waiting for images", "Losses of the discriminators"}


def test_many_sources_are_drawn_apart_and_long_runs_thinned() -> None:
    found = curves(events(2000, ("mri", "pet", "us", "xray")))
    titles = [each.title for each in found]
    assert "Adversarial losses of the translators: pet" in titles
    assert max(len(each.x) for one in found for each in one.lines) <= 300


def test_damaged_events_are_passed_over() -> None:
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
    found = Table("t", "Errors", columns, (("Mean", Number(1), Number(2), Number(3)),), "A note.")
    root = ET.fromstring(f"<div>{printed(found)}</div>")
    groups = [(e.text, e.get("colspan")) for e in root.iter("th") if e.get("scope") == "colgroup"]
    assert groups == [("MRI", "2"), ("PET", "1")]
    assert root.find("p").text == "A note."


def test_pieces_are_escaped() -> None:
    for piece in (paragraph(EVIL), figure(draw(picture("lines")), caption=EVIL)):
        assert "<script" not in piece
        parsed(piece)
    assert len({badge(status) for status in ("ok", "fires", "unknown")}) == 3


def test_a_long_label_of_the_axis_stays_within_the_drawing():
    label = "Mean squared error (years²) per patient, lower is better"
    chart = interval_chart(
        [Errors("a long name of a system", [1.0, 2.0])], title="t", label=label, thresholds={}
    )
    (x,) = re.findall(rf'<text x="([\d.]+)"[^>]*>{re.escape(label)}<', chart)
    assert float(x) + LETTER * len(label) / 2 <= WIDTH
    assert float(x) - LETTER * len(label) / 2 >= 0
