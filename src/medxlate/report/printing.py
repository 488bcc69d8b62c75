"""How numbers and tables are printed: in words, and as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from medxlate.base.records import in_csv, in_markdown

LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "→": r"$\rightarrow$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "±": r"$\pm$",
    "²": "$^2$", "³": "$^3$", "µ": r"$\mu$", "μ": r"$\mu$", "<": "$<$",
    ">": "$>$", "[": "{[}", "*": "{*}", "|": "$|$", **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip


TEXT_WIDTH, TABCOLSEP = 345, 3  # points: of LaTeX's article; beside each column
LATEX_SIZES = {
    r"\normalsize": 6.0, r"\small": 5.5, r"\footnotesize": 5.0, r"\scriptsize": 4.5,
    r"\tiny": 3.7,
}  # fmt: skip


@dataclass(frozen=True)
class Number:
    """A number as it is printed, with what it was.

    Attributes:
        value: NaN or infinite where there is none.
        digits: Decimals that are printed.
        std: Printed behind it, ``3.49 ± 0.15``, unless None or NaN.
    """

    value: float
    digits: int = 2
    std: float | None = None

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return "-"
        text = f"{self.value:.{self.digits}f}"
        spread = self.std is not None and math.isfinite(self.std)
        return f"{text} ± {self.std:.{self.digits}f}" if spread else text


Cell = str | Number


def short(value: float) -> str:
    """Return a number in at most four digits, with a real minus sign: ``1e6`` for ``1e+06``."""
    mantissa, mark, power = f"{value:.4g}".partition("e")
    text = mantissa + (f"e{int(power)}" if mark else "")
    zero = not any(letter in "123456789" for letter in text)  # there is no minus zero
    return text.replace("-", "" if zero else "\u2212")


def places(low: float, high: float) -> int:
    """Return the decimals that an interval is worth: two significant digits of its width.

    Negative where the last digit worth printing stands before the point: -1 for tens. Of an
    interval without a width, three significant digits of its ends.
    """
    width = float(f"{high - low:.1e}")
    if width > 0 and math.isfinite(width):
        return 1 - math.floor(math.log10(width))
    size = abs(high)
    return 2 - math.floor(math.log10(size)) if size > 0 and math.isfinite(size) else 0


def to_places(value: float, decimals: int, *, signed: bool = False) -> str:
    """Return a number with so many decimals, with a real minus sign, and no minus zero.

    Args:
        value: The number.
        decimals: As ``places`` returns them.
        signed: Whether a number above 0 gets a plus.
    """
    if not math.isfinite(value) or abs(value) >= 1e15:
        return short(value)
    rounded = round(value, decimals) + 0.0
    text = f"{abs(rounded):.{max(decimals, 0)}f}"
    sign = "\u2212" if rounded < 0 else "+" if signed and rounded > 0 else ""
    return f"{sign}{text}"


def with_interval(
    value: float, low: float | None, high: float | None, *, signed: bool = False
) -> tuple[str, str]:
    """Return a figure and its interval, with the digits that the interval is worth.

    Args:
        value: The figure.
        low: The lower end; None where there is no interval.
        high: The upper end.
        signed: Whether numbers above 0 get a plus.

    Returns:
        Such as ("13.8", "11.8 to 15.8"); without an interval three digits and "".
    """
    if low is None or high is None:
        text = short(float(f"{value:.3g}"))
        return (f"+{text}" if signed and value > 0 else text), ""
    decimals = places(low, high)
    said, lower, upper = (to_places(each, decimals, signed=signed) for each in (value, low, high))
    return said, f"{lower} to {upper}"


def mean_and_spread(mean: float, std: float) -> str:
    """Return ``414 ± 5``, with the digits that the standard deviation is worth."""
    if not std > 0:
        return short(float(f"{mean:.3g}"))
    decimals = places(mean - std, mean + std)
    return f"{to_places(mean, decimals)} ± {to_places(std, decimals)}"


def between(low: float | None, high: float | None) -> str:
    """Return the two ends of an interval; a dash where there are none."""
    return f"{short(low)} to {short(high)}" if low is not None and high is not None else "\u2013"


@dataclass(frozen=True)
class PrintedTable:
    """A table to print.

    Attributes:
        name: What its file is called: ``table-2``.
        title: One line.
        columns: One or two header rows, each as long as a row; neighbours with the same text in
            the upper of two stand under one heading.
        rows: Top to bottom.
        note: What the figures are and what they do not say.
    """

    name: str
    title: str
    columns: tuple[tuple[str, ...], ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """Return a title, a pipe table and the note; the second header row is the first bold."""
        upper, *lower = self.columns
        if lower:
            upper = tuple(
                "" if i and upper[i - 1] == text else text for i, text in enumerate(upper)
            )
        width = len(upper)
        marks = ["---"] + ["---:"] * (width - 1)
        bold = [[f"**{in_markdown(text)}**" if text else "" for text in row] for row in lower]
        body = [[in_markdown(str(cell)) for cell in row] for row in self.rows]
        lines = [[in_markdown(text) for text in upper], marks, *bold, *body]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        title = f"**{in_markdown(self.title)}**" if self.title else ""
        parts = (title, table, in_markdown(self.note))
        return "\n\n".join(filter(None, parts)) + "\n"

    def latex(self) -> str:
        """Return a floating table that needs no package beyond LaTeX itself."""
        rules = [f"{_heading(row)} \\\\" for row in self.columns[:-1]]
        names = [" & ".join(escape(text) for text in self.columns[-1]) + r" \\"]
        body = [" & ".join(escape(str(cell)) for cell in row) + r" \\" for row in self.rows]
        size, fits = self._latex_size()
        lines = [
            rf"\begin{{tabular}}{{l{'r' * (len(self.columns[0]) - 1)}}}",
            *(r"\hline", *rules, *names, r"\hline", *body, r"\hline"),
            r"\end{tabular}",
        ]
        if not fits:
            lines = [r"\makebox[\textwidth][c]{%", *lines, "}"]
        lines = [
            r"\begin{table}[htbp]",
            r"\centering",
            rf"\caption{{{escape(self.title)}}}",
            rf"\label{{tab:{self.name}}}",
            rf"{size}\setlength{{\tabcolsep}}{{{TABCOLSEP}pt}}",
            *lines,
            *([rf"\par\smallskip {{\footnotesize {escape(self.note)}}}"] if self.note else []),
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def _latex_size(self) -> tuple[str, bool]:
        """Return the largest type in which the table fits a page, and whether there is one."""
        rows = [self.columns[-1], *(tuple(map(str, row)) for row in self.rows)]
        letters = sum(max(map(len, column)) for column in zip(*rows, strict=True))
        room = TEXT_WIDTH - 2 * TABCOLSEP * len(self.columns[0])
        for size, width in LATEX_SIZES.items():
            if letters * width <= room:
                return size, True
        return size, False

    def csv(self) -> str:
        """Return one header row and unrounded numbers; a missing number is an empty field."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        heads = zip(*self.columns, strict=True)
        names = (": ".join(dict.fromkeys(text for text in head if text)) for head in heads)
        writer.writerow(map(in_csv, names))
        writer.writerows([_plain(cell) for cell in row] for row in self.rows)
        return out.getvalue()


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[str | float | None]]) -> str:
    """Return a table as CSV that no spreadsheet reads as formulas; a missing number is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(in_csv, columns))
    writer.writerows(
        ["" if cell is None or cell != cell else in_csv(cell) for cell in row] for row in rows
    )
    return out.getvalue()


def escape(text: str) -> str:
    """Return text as LaTeX sets it: one line, its special characters are characters."""
    return "".join(LATEX.get(letter, letter) for letter in " ".join(text.split()))


def _heading(row: Sequence[str]) -> str:
    groups = [(text, len(list(same))) for text, same in groupby(row)]
    return " & ".join(
        rf"\multicolumn{{{n}}}{{c}}{{{escape(text)}}}"
        if text and n > 1
        else " & ".join([escape(text)] * n)
        for text, n in groups
    )


def _plain(cell: Cell) -> str:
    if isinstance(cell, str):
        return str(in_csv(cell))
    if cell.std is not None and str(cell) != "-":
        return str(cell)
    return repr(float(cell.value)) if math.isfinite(cell.value) else ""
