"""Tables lose no letter, at any width: not to a narrow terminal, not in a pipe."""

from __future__ import annotations

import io
from collections import Counter

import pytest
from rich.console import Console

from medxlate.cli.console import Reporter
from medxlate.cli.tables import ConsoleTable, laid_out, merged, table, text_table

PATH = "/data/archive/with/a/long/name/and/no/blank/" + "x" * 90 + "/slice-0001.dcm"
FIGURES = table(
    "Test errors per patient",
    ["method", "sources", "MSE", "95 % interval", "difference", "p (Holm)", "patients", "seconds"],
    [
        ["target-only", "-", "303.1", "250.2 to 350.9", "-", "-", "26", "12"],
        ["joint", "mri, pet", "239.2", "210.4 to 280.7", "-63.9", "0.0213", "26", "1234"],
        ["random-erasing+randaugment", "mri", "1.2e+05", "-", "+17", "1", "26", "88"],
    ],
)
TEXTS = text_table(
    "Audits of the translators",
    ["source", "audit", "", "what was found"],
    [["mri", "tissue", "warning", f"Bone is 720 HU too low in {PATH}."], ["pet", "", "ok", "Ja."]],
)
SHORT = table("", ["", "a"], [["mri", "1"]])


def printed(shown: ConsoleTable, width: int) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    console.print(laid_out(shown, console))
    return out.getvalue()


def letters(*texts: str) -> Counter[str]:
    return Counter(letter for text in texts for letter in text if letter.isalnum())


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 120, 200, 400])
@pytest.mark.parametrize("shown", [FIGURES, TEXTS, SHORT], ids=["figures", "texts", "short"])
def test_every_letter_of_every_cell_is_printed(shown: ConsoleTable, width: int) -> None:
    text = printed(shown, width)
    cells = [cell for row in shown.rows for cell in row]
    heads = [shown.title, *shown.columns]
    if "┏" in text:
        assert letters(text) == letters(*heads, *cells)
    else:  # heads stand before each cell
        missing = letters(shown.title, *cells) - letters(text)
        assert not missing
    assert max(map(len, text.splitlines())) <= max(width, 1)
    assert "…" not in text


def test_figures_are_never_broken() -> None:
    for width in (40, 80, 120):
        text = printed(FIGURES, width)
        assert all(cell in text for row in FIGURES.rows for cell in row[2:])


def test_narrow_screens_show_each_figure_after_its_head() -> None:
    lines = [line.strip() for line in printed(FIGURES, 80).splitlines()]
    begin = lines.index("joint")
    assert lines[begin + 1 : begin + 4] == [
        "sources        mri, pet",
        "MSE            239.2",
        "95 % interval  210.4 to 280.7",
    ]


def test_a_pipe_gets_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    Reporter(json=False).result({}, TEXTS, FIGURES)
    lines = capsys.readouterr().out.splitlines()
    assert sum(PATH in line for line in lines) == 1
    (joint,) = [line for line in lines if "joint" in line]
    assert all(cell in joint for cell in FIGURES.rows[1])
    assert all(len(line) < 400 for line in lines)


def test_what_all_rows_have_in_common_is_said_once() -> None:
    columns = ["run", "data", "state", "GPU memory", "error"]
    rows = [["a", "mri to ct", "finished", "-", "3"], ["b", "mri to ct", "stopped", "-", "3"]]
    shown = table("2 runs", columns, rows, once=["data", "state", "GPU memory"])
    assert shown.title == "2 runs; data: mri to ct"
    assert shown.columns == ("run", "state", "error")  # the error was not named
    assert shown.rows == (("a", "finished", "3"), ("b", "stopped", "3"))
    alone = table("1 run", columns, rows[:1], once=["data"])
    assert alone.columns == tuple(columns)


def test_columns_that_are_the_same_are_one() -> None:
    rows = [["3", "3", "4"], ["5", "5", "5"]]
    assert merged(["volumes", "patients", "images"], rows) == (
        ["volumes, patients", "images"],
        [["3", "4"], ["5", "5"]],
    )
