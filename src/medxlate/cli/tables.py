"""Tables for people, of which no letter is cut off, however narrow the screen is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from medxlate.base.records import visible

WIDEST = 10**5  # letters of a line that nobody looks at: a file, a pipe
NARROWEST = 24  # letters of a column of text whose lines are broken
INDENT = 4


@dataclass(frozen=True)
class ConsoleTable:
    """Rows of figures with a text before them, or of texts.

    Attributes:
        title: What it shows.
        columns: Their heads.
        rows: Of cells, as many as columns.
        texts: Whether all columns hold text; else those after the first hold figures.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: bool = False

    def is_text(self, column: int) -> bool:
        """Return whether a column holds text, whose lines may be broken."""
        return self.texts or column == 0


@dataclass(frozen=True)
class ConsoleEntries:
    """Heads, each with a text below it.

    Attributes:
        entries: Heads and texts.
    """

    entries: tuple[tuple[str, str], ...]


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    once: Sequence[str] = (),
    texts: bool = False,
) -> ConsoleTable:
    """Return a table of figures, with text in the first column.

    Args:
        title: What it shows.
        columns: Their heads.
        rows: Of cells, as many as columns.
        once: Heads of columns that move into the title where all rows hold the same there, or
            vanish where all hold a dash.
        texts: Whether all columns hold text.
    """
    held = {head: {row[i] for row in rows} for i, head in enumerate(columns)}
    same = {head: next(iter(held[head])) for head in once if len(held[head]) == 1 < len(rows)}
    kept = [i for i, head in enumerate(columns) if head not in same]
    return ConsoleTable(
        "; ".join([title, *(f"{head}: {cell}" for head, cell in same.items() if cell != "-")]),
        tuple(columns[i] for i in kept),
        tuple(tuple(row[i] for i in kept) for row in rows),
        texts,
    )


def text_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    once: Sequence[str] = (),
) -> ConsoleTable:
    """Return a table of text; see ``table``."""
    return table(title, columns, rows, once=once, texts=True)


def merged(
    columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """Return a table in which columns that hold the same in every row are one, with all heads."""
    heads: dict[tuple[str, ...], list[str]] = {}
    for i, head in enumerate(columns):
        heads.setdefault(tuple(row[i] for row in rows), []).append(head)
    cells = [list(row) for row in zip(*heads, strict=True)]
    return [", ".join(each) for each in heads.values()], cells


def entries(pairs: Iterable[tuple[str, str]]) -> ConsoleEntries:
    """Return heads with a text below each."""
    return ConsoleEntries(tuple(pairs))


def laid_out(shown: ConsoleTable | ConsoleEntries, console: Console) -> RenderableType:
    """Return a table, or entries, as a console can show them whole.

    In its natural width where that fits; else with its texts in several lines, where that leaves
    them a readable width; else row by row, each figure after its head.
    """
    if isinstance(shown, ConsoleEntries):
        return Group(*(each for head, text in shown.entries for each in _entry(head, text)))
    natural = _width(_grid(shown, [0] * len(shown.columns)), console)
    if natural <= console.width:
        return _grid(shown, [0] * len(shown.columns))
    folded = _folded(shown, natural - console.width)
    return _stacked(shown) if folded is None else _grid(shown, folded)


def _grid(shown: ConsoleTable, widths: Sequence[int]) -> Grid:
    """Return the grid; a column of a width other than 0 breaks its lines there."""
    grid = Grid(title=Text(visible(shown.title)), title_justify="left", title_style="bold")
    for i, (column, width) in enumerate(zip(shown.columns, widths, strict=True)):
        grid.add_column(
            Text(visible(column)),
            justify="left" if shown.is_text(i) else "right",
            overflow="fold",
            no_wrap=not width,
            width=width or None,
        )
    for row in shown.rows:
        grid.add_row(*(Text(visible(cell)) for cell in row))
    return grid


def _width(grid: Grid, console: Console) -> int:
    """Return the natural width of a grid, however wide the console is; its title may be wider."""
    return Measurement.get(console, console.options.update(max_width=WIDEST), grid).maximum


def _folded(shown: ConsoleTable, excess: int) -> list[int] | None:
    """Return narrower widths of texts, the widest first; None where they would be unreadable."""
    widths = [
        max(Text(visible(cell)).cell_len for cell in cells)
        for cells in zip(shown.columns, *shown.rows, strict=True)
    ]
    folded = [0] * len(widths)
    texts = sorted(
        (i for i in range(len(widths)) if shown.is_text(i)), key=lambda i: widths[i], reverse=True
    )
    for i in texts:
        spare = min(excess, widths[i] - NARROWEST)
        if spare > 0:
            folded[i] = widths[i] - spare
            excess -= spare
    return folded if excess <= 0 else None


def _entry(head: str, text: str) -> tuple[RenderableType, RenderableType]:
    return Text(visible(head), style="bold", overflow="fold"), _indented(visible(text))


def _indented(text: str) -> RenderableType:
    return Padding(Text(text, overflow="fold"), (0, 0, 0, INDENT), expand=False)


def _stacked(shown: ConsoleTable) -> RenderableType:
    """Return the rows one below the other: the first cell, and below it each head with its cell."""
    return Group(Text(visible(shown.title), style="bold"), *_blocks(shown))


def _blocks(shown: ConsoleTable) -> Iterator[RenderableType]:
    heads = shown.columns[1:]
    longest = max((Text(visible(head)).cell_len for head in heads), default=0)
    for first, *others in shown.rows:
        yield Text(visible(first))
        for head, cell in zip(heads, others, strict=True):
            if cell.strip():
                yield _indented(f"{visible(head):{longest}}  {visible(cell)}")
