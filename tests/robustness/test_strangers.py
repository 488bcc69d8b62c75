"""Names that strangers chose: for a terminal, a spreadsheet and a page they are text, no more."""

from __future__ import annotations

import csv
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from markupsafe import escape
from matplotlib.mathtext import MathTextParser
from typer.testing import CliRunner, Result

import tiny
from medxlate.artifacts.card import model_card
from medxlate.artifacts.info import ModelInfo, read_model
from medxlate.base.records import for_csv, in_csv, in_markdown, visible
from medxlate.cli.app import app
from medxlate.dataset.labels import Task
from medxlate.report.comparison_charts import (
    Curve,
    Errors,
    Panel,
    curves_chart,
    dose_plot,
    error_plot,
    interval_chart,
)
from medxlate.report.image_rows import ImageRow, image_rows
from medxlate.report.printing import Number, PrintedTable
from medxlate.study.external_predictions import _values

# Unicode's bidirectional algorithm (UAX 9, section 2), byte order mark, line and paragraph
# separators, soft hyphen, zero-width space; ISO 6429's control characters of both sets.
INVISIBLE = [
    *("\u202a", "\u202b", "\u202c", "\u202d", "\u202e", "\u2066", "\u2067", "\u2068", "\u2069"),
    *("\u200e", "\u200f", "\u061c", "\ufeff", "\u2028", "\u2029", "\u00ad", "\u200b"),
]
CONTROLS = [chr(code) for code in (*range(32), *range(127, 160))]
HOSTILE = "a\x1b[31mb\x1b]0;title\x07c\rd\be\u202ef\x9b2Jg"


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def is_plain(text: str) -> bool:
    """By Python's own table of what can be printed, line breaks aside."""
    return all(letter.isprintable() or letter == "\n" for letter in text)


# The terminal


@pytest.mark.parametrize("letter", [*CONTROLS, *INVISIBLE, "\udce9"])
def test_what_commands_a_terminal_is_written_out(letter: str):
    text = visible(f"before{letter}after")
    assert text.startswith("before\\")
    assert text.endswith("after")
    assert text.isascii()
    assert text.isprintable()


def test_names_of_every_script_stay_as_they_are():
    for name in ("Größe", "年齢", "возраст", "عمر", "naïve 12 %", "a[/x]", "c:\\data"):
        assert visible(name) == name


def some_images(folder: Path, *, good: list[str], bad: list[str]) -> Path:
    for number, name in enumerate(good):
        pixels = tiny.noise(32, 32, seed=number)
        tiny.save(folder / "plain.png", pixels).rename(folder / name)
    for name in bad:
        (folder / name).write_bytes(b"no image")
    return folder


def test_no_name_of_a_file_commands_the_terminal(tmp_path: Path):
    names = [f"{HOSTILE}{number}.png" for number in range(2)]
    folder = some_images(tmp_path / "in", good=names[:1], bad=[names[1], "two\nError: lines.png"])
    model = tiny.write_tiny_model(tmp_path)
    for words in (
        ["predict", folder, "--model", model, "--out", tmp_path / "p.csv"],
        ["translate", folder, "--model", model, "--out", tmp_path / f"out{HOSTILE}"],
        ["prepare", folder, "--modality", "ct", "--data", tmp_path / "d", "--label", HOSTILE],
        ["prepare", folder / HOSTILE, "--modality", HOSTILE],
        ["evaluate", "--run", tmp_path / HOSTILE],
        ["runs", "show", HOSTILE],
    ):
        result = call(*words)
        assert result.exit_code in (1, 2)
        assert is_plain(result.output), result.output
    assert "Error: lines" not in [line[:12] for line in result.output.splitlines()]


def test_no_class_label_or_column_commands_the_terminal(tmp_path: Path):
    folder = some_images(tmp_path / "in", good=["a.png", "b.png", "c.png"], bad=[])
    classes = [f"old{HOSTILE}", "[/red]", ":bomb: <b>"]
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = zip(["a.png", "b.png", "c.png"], classes, strict=True)
        csv.writer(stream).writerows([("file", f"age{HOSTILE}"), *rows])
    words = ["prepare", folder, "--modality", "ct", "--labels", folder / "t.csv", "--size", 32]
    words += ["--file", "file", "--patient", "file", "--data", tmp_path / "d"]
    done = call(*words, "--label", f"age{HOSTILE}", "--task", "classification")
    assert done.exit_code == 0, done.output
    assert is_plain(done.output)
    assert "[/red]" in done.output
    assert ":bomb:" in done.output
    wrong = call(*words, "--label", f"age{HOSTILE}", "--overwrite")
    assert wrong.exit_code == 1
    assert is_plain(wrong.output)
    assert "not a number" in wrong.output


@pytest.mark.parametrize("name", ["d[/x]ata", "[bold]", "[link=x]y", ":bomb:", "[[/]]", "a[red]"])
def test_a_path_is_no_markup(tmp_path: Path, name: str):
    folder = some_images(tmp_path / name, good=["[green].png"], bad=["[x].png", ":bomb:.png"])
    model = tiny.write_tiny_model(tmp_path)
    for words in (
        ["predict", folder, "--out", tmp_path / name / "p.csv"],
        ["translate", folder, "--out", tmp_path / f"out{name}"],
    ):
        result = call(*words, "--model", model, "--exclude", "*.csv")
        assert result.exit_code == 1, result.output
        assert isinstance(result.exception, SystemExit)
        flat = "".join(letter for letter in result.output if letter not in " \n│┃")
        assert name in flat
        assert "[x].png" in flat
        assert ":bomb:.png" in flat


def test_the_terminals_bar_takes_no_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    from medxlate.base.events import Progress
    from medxlate.cli.console import Reporter

    reporter = Reporter(json=False)
    reporter(Progress(f"[/x]{HOSTILE}", 1, 3))
    assert reporter._bar is not None
    reporter._bar.refresh()
    reporter.close()
    said = capsys.readouterr().err
    assert "[/x]a\\x1b[31mb" in said
    assert "\x1b]0;title" not in said


# Spreadsheets


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        *((text, f"'{text}") for text in ("=1+1", "+1+1", "-1+cmd|' /C calc'!A0", "@SUM(1)")),
        *((text, f"'{text}") for text in ("\t=1", "\rx", " =1", "\uff1d1+1", "-2 +3", "--", "-a")),
        *(
            (text, text)
            for text in ("-3.2", "+4", "-1e-5", "-.5", "-", "+", "old", "a=b", "", "2-3")
        ),
    ],
)
def test_formulas_become_text_and_numbers_stay(text: str, cell: str):
    assert in_csv(text) == cell


def test_a_table_for_spreadsheets_keeps_its_numbers():
    frame = pd.DataFrame({"=x": [-3.2, 4.0], "b": ["=1", "ok"], "n": [-1, 2], "t": [True, False]})
    safe = for_csv(frame)
    assert list(safe) == ["'=x", "b", "n", "t"]
    assert list(safe["b"]) == ["'=1", "ok"]
    for before, after in (("=x", "'=x"), ("n", "n"), ("t", "t")):
        assert safe[after].dtype == frame[before].dtype
        assert list(safe[after]) == list(frame[before])
    assert list(frame["b"]) == ["=1", "ok"]


def test_predictions_hold_no_formula(tmp_path: Path):
    some_images(tmp_path / "in", good=["=cmd.png", "-3.2", "ok.png"], bad=[])
    task = Task(kind="classification", name="@label", classes=("+1+1", "-1", "=x"))
    model = tiny.write_tiny_model(tmp_path, task=task)
    done = call("predict", tmp_path / "in", "--model", model, "--out", tmp_path / "p.csv")
    assert done.exit_code == 0, done.output
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as stream:
        cells = [cell for row in csv.reader(stream) for cell in row]
    for cell in cells:
        if cell[:1] in ("=", "+", "-", "@"):
            float(cell)  # a number, which nobody computes
    assert {"'=cmd.png", "-3.2", "ok.png", "'@label"} <= set(cells)


def test_tables_for_papers_hold_no_formula():
    made = PrintedTable(
        "t", "=x", (("=a", "b"),), (("=1+1", Number(-3.25)), ("-", Number(1.0, std=0.1)))
    )
    assert list(csv.reader(made.csv().splitlines())) == [
        ["'=a", "b"],
        ["'=1+1", "-3.25"],
        ["-", "1.00 ± 0.10"],
    ]


def test_a_class_that_a_spreadsheet_would_compute_can_still_be_predicted():
    task = Task(kind="classification", name="x", classes=("+1+1", "-"))
    for spelled in ("+1+1", "'+1+1"):
        shares = _values(Path("p.csv"), pd.DataFrame({"prediction": [spelled, "-"]}), task)
        np.testing.assert_array_equal(shares, np.eye(2))


# Pages

MARKUP = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![x](http://evil.example/a.png)",
    "`code` **bold** _under_ | cell | more",
    "line\n# Heading\n\n- item\n\n| a | b |\n|---|---|\n| 1 | 2 |",
    "<http://evil.example>",
    "```\nfence",
    HOSTILE,
]


class Tags(HTMLParser):
    """The tags of a page and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[Any, ...]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(attrs)))


def full_model(tmp_path: Path) -> ModelInfo:
    """A model.json in which every text is there that a card may show."""
    info = read_model(tiny.write_tiny_model(tmp_path, sources=("mri", "pet")))
    values = info.model_dump(mode="json")
    values["trained_on"] = {
        "train": {"ct": [3, 4]}, "val": {"ct": [1, 2]}, "divided": "patient", "notes": ["word"],
    }  # fmt: skip
    values["predictor"]["calibration"] = {
        "kind": "conformal", "patients": 0, "slices": 0, "reason": "word",
    }  # fmt: skip
    values["target_recipe"] |= {"window": [40, 400], "unit": "word"}
    return ModelInfo.model_validate(values)


def replaced(values: Any, text: str, *, plain: str) -> Any:
    """Return a record with a text in the place of every one that is no fixed word."""
    fixed = {"regression", "conformal", "as-is", "axial", "fp32", "batch", "transposed", "none"}
    if isinstance(values, dict):
        found = {}
        for key, each in values.items():
            if key in ("train", "val", "translators") and each:  # by names of modalities
                each = {f"{plain}{i}": value for i, value in enumerate(each.values())}
            word = plain if key == "target" else text
            found[key] = each if key == "divided" else replaced(each, word, plain=plain)
        return found
    if isinstance(values, list):
        return [replaced(each, text, plain=plain) for each in values]
    return text if isinstance(values, str) and values not in fixed else values


def rendered(info: ModelInfo) -> Tags:
    return Tags(MarkdownIt("commonmark", {"html": True}).enable("table").render(model_card(info)))


@pytest.mark.parametrize("text", MARKUP)
def test_a_card_of_strange_names_has_the_tags_of_any_card(tmp_path: Path, text: str):
    values = full_model(tmp_path).model_dump(mode="json")
    usual = rendered(ModelInfo.model_validate(replaced(values, "word", plain="word")))
    # Names of modalities are no paths and can be printed; what is left of a text may be in them.
    plain = "".join(letter for letter in text if letter.isprintable() and letter not in "/\\")
    info = ModelInfo.model_validate(replaced(values, text, plain=plain))
    card = model_card(info)
    assert rendered(info).tags == usual.tags
    assert is_plain(card)


def test_code_that_a_card_offers_names_the_source_and_runs_nothing(tmp_path: Path):
    info = full_model(tmp_path)
    name = '"); print("x'
    translators = {name: info.translators["mri"], "pet": info.translators["pet"]}
    card = model_card(info.model_copy(update={"translators": translators}))
    (line,) = [line for line in card.splitlines() if line.startswith("fake = ")]
    import ast

    calls = [node for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Call)]
    assert len(calls) == 2
    assert [key.value.value for each in calls for key in each.keywords] == [name]


@pytest.mark.parametrize("text", MARKUP)
def test_a_name_in_markdown_is_text(text: str):
    page = MarkdownIt("commonmark", {"html": True}).render(f"word {in_markdown(text)}")
    assert [tag for tag, _ in Tags(page).tags] == ["p"]


# Figures


def test_what_stands_between_dollars_is_no_formula_of_a_figure(tmp_path: Path):
    """Mathtext would refuse it (matplotlib, "Writing mathematical expressions")."""
    name = r"$\frac$"
    with pytest.raises(ValueError, match="frac"):
        MathTextParser("agg").parse(name)
    systems = [Errors(name, [1.0, 2.0], None, ours=False)]
    error_plot(tmp_path / "e.png", systems, label=name, references={name: 1.5}, note=name)
    panel = Panel(name, [Curve(name, [3, 5], [1.0, 2.0], [0.1, 0.1], ours=False)])
    dose_plot(tmp_path / "d.png", [panel], label=name, note=name)
    for chart in (
        interval_chart(systems, title=name, label=name, references={name: 1.5}),
        curves_chart(panel, title=name, label=name),
    ):
        assert chart.count(str(escape(name))) >= 5
    image_rows(tmp_path / "r.png", [ImageRow(name, [np.zeros((4, 4))], [name])], note=name)
    assert len(list(tmp_path.glob("*.png"))) == 3
