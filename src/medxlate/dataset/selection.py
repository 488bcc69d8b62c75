"""Choosing rows by label and columns: ``age >= 18``, ``ct: sex == "F" and site in [1, 2]``.

Expressions are those of pandas' ``DataFrame.query``, of which only comparisons of columns with
numbers, texts and lists of them, ``and``, ``or`` and ``not`` are allowed: nothing can be called
or reached into. Comparing a text with a number, which would quietly be true or false for every row,
is an error, and a row without a value in a named column is not selected.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medxlate.base.errors import UsageError, nearest
from medxlate.dataset.index import Modality, kept_columns
from medxlate.dataset.labels import MISSING

LONGEST = 1000  # characters of an expression
HUGE = 1e300  # no number of a label or column is as large
HOW = (
    "Write, for example, age >= 18 and sex == \"F\", or site in ['A', 'B']; put `names with "
    "spaces` in backticks."
)
_QUOTED = re.compile(r"""('[^']*'|"[^"]*")|`([^`]+)`""")
_NAMED = re.compile(r"\s*(?P<modality>[\w.+-]+)\s*:(?P<text>.*)", re.DOTALL)
_ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_COMPARING = (*_ORDER, ast.Eq, ast.NotEq)

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Selection:
    """An expression that passed the check.

    Attributes:
        text: As it was given.
        tree: The expression with another name for each column.
        names: The column behind each of these names.
    """

    text: str
    tree: ast.Expression
    names: Mapping[str, str]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it names."""
        return tuple(self.names.values())

    def mask(self, frame: pd.DataFrame) -> Mask:
        """Return which rows are selected, [N].

        Args:
            frame: A row an image. Text that is a number throughout counts as numbers; what a
                label table calls missing is missing.

        Raises:
            UsageError: A column is not there or holds nothing, or a text is compared with a number.
        """
        for column in self.columns:
            if column not in frame:
                raise UsageError(
                    f"'{self.text}': there is no column '{column}'.",
                    nearest(column, map(str, frame.columns)),
                )
        values = pd.DataFrame({name: _typed(frame[own]) for name, own in self.names.items()})
        for name, own in self.names.items():
            if values[name].isna().all():
                raise UsageError(f"'{self.text}': the column '{own}' is empty.")
        _check_kinds(self, values)
        found = values.eval(ast.unparse(self.tree), engine="python")
        known = values.notna().all(axis=1)
        return np.asarray(found, dtype=bool) & known.to_numpy()


def parse_selection(text: str) -> Selection:
    """Check an expression.

    Raises:
        UsageError: It is not an expression, or holds more than columns, values and comparisons.
    """
    names: dict[str, str] = {}

    def placeholder(column: str) -> str:
        return names.setdefault(column, f"c{len(names)}")

    # Of what is between backticks any name may become; text is left as it is.
    plain = _QUOTED.sub(lambda m: m[1] or f"_quoted_{m[2].encode().hex()}_", text)
    try:
        if len(text) > LONGEST:
            raise ValueError(f"longer than {LONGEST} characters")
        tree = ast.parse(plain.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UsageError(f"'{text}' is not a valid expression for selecting rows.", HOW) from None
    if not _is_condition(tree.body):
        raise UsageError(
            f"'{text}': only comparisons of columns with values, combined by and, or, not and in, "
            "are allowed.",
            HOW,
        )
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            quoted = re.fullmatch("_quoted_([0-9a-f]+)_", node.id)
            node.id = placeholder(bytes.fromhex(quoted[1]).decode() if quoted else node.id)
    return Selection(text, tree, {name: own for own, name in names.items()})


def combined(frame: pd.DataFrame, selections: Sequence[Selection]) -> Mask:
    """Return which rows all of the expressions select, [N]; see ``Selection.mask``."""
    mask: Mask = np.ones(len(frame), dtype=bool)
    for each in selections:
        mask &= each.mask(frame)
    return mask


def by_modality(texts: Sequence[str], prepared: Sequence[str]) -> dict[str, list[Selection]]:
    """Return the expressions that hold for each modality.

    Args:
        texts: ``age >= 18`` holds for all of them, ``ct: age >= 18`` for one.
        prepared: The modalities of the dataset.

    Raises:
        UsageError: An expression cannot be used, or names a modality that was not prepared.
    """
    found: dict[str, list[Selection]] = {name: [] for name in prepared}
    for text in texts:
        named = _NAMED.fullmatch(text)
        if named is None:
            for selections in found.values():
                selections.append(parse_selection(text))
            continue
        if named["modality"] not in found:
            raise UsageError(
                f"'{text}': there is no modality '{named['modality']}'.",
                nearest(named["modality"], prepared),
            )
        found[named["modality"]].append(parse_selection(named["text"].strip()))
    return found


def selected(modality: Modality, selections: Sequence[Selection], *, label: str) -> Modality:
    """Return a modality with the selected rows of its table alone.

    Args:
        modality: As prepared.
        selections: Expressions over its label and the columns that ``prepare --keep`` kept.
        label: The label's name.

    Raises:
        UsageError: An expression cannot be used, or nothing is selected.
    """
    if not selections:
        return modality
    slices = modality.slices
    frame = kept_columns(slices).assign(**{label: slices["label"]})
    try:
        mask = combined(frame, selections)
    except UsageError as problem:
        raise UsageError(
            f"Modality {modality.name}: {problem.message}",
            f"{problem.hint} Add columns with `prepare --keep`. To select in one modality only, "
            "begin with its name, as in 'ct: age >= 18'.".strip(),
        ) from None
    if not mask.any():
        said = " and ".join(each.text for each in selections)
        raise UsageError(
            f"'{said}' selects none of the {len(mask)} images of {modality.name}.",
            "Check the values: text must match exactly.",
        )
    return replace(modality, slices=slices[mask].reset_index(drop=True), whole=modality)


def _typed(values: pd.Series[Any]) -> pd.Series[Any]:
    """Return numbers where all values are, else texts; what is missing is missing."""
    if pd.api.types.is_numeric_dtype(values):
        return values.astype(float)
    texts = values.map(lambda value: str(value).strip(), na_action="ignore")
    texts = texts.where(texts.notna() & ~texts.str.lower().isin(MISSING), None).astype(object)
    numbers = pd.to_numeric(texts, errors="coerce")
    return texts if (numbers.isna() & texts.notna()).any() else numbers.astype(float)


def _is_value(node: ast.AST) -> bool:
    """Return whether a node is a number, with a sign or without, or a text."""
    if isinstance(node, ast.UnaryOp):
        operand = node.operand
        signed = isinstance(operand, ast.Constant) and not isinstance(operand.value, str)
        return isinstance(node.op, ast.USub) and signed and _is_value(operand)
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return -HUGE < value < HUGE
    return isinstance(value, str)


def _is_condition(node: ast.expr) -> bool:
    """Return whether an expression holds comparisons, each with a column, and nothing else."""
    if isinstance(node, ast.BoolOp):
        return all(map(_is_condition, node.values))
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.Not) and _is_condition(node.operand)
    if not isinstance(node, ast.Compare):
        return False
    if isinstance(node.ops[0], ast.In | ast.NotIn):
        (several, *more) = node.comparators
        if more or not isinstance(several, ast.List | ast.Tuple) or not several.elts:
            return False
        return isinstance(node.left, ast.Name) and all(map(_is_value, several.elts))
    sides = [node.left, *node.comparators]
    named = [isinstance(each, ast.Name) for each in sides]
    plain = all(name or _is_value(each) for name, each in zip(named, sides, strict=True))
    return any(named) and plain and all(isinstance(each, _COMPARING) for each in node.ops)


def _check_kinds(selection: Selection, values: pd.DataFrame) -> None:
    """Refuse comparisons of texts with numbers, and texts in an order."""
    for node in ast.walk(selection.tree):
        if not isinstance(node, ast.Compare):
            continue
        kinds = dict(_kinds(node, values))
        if len(set(kinds.values())) > 1:
            said = ", ".join(f"{selection.names.get(k, k)} is {v}" for k, v in kinds.items())
            raise UsageError(
                f"'{selection.text}' compares text with a number: {said}.",
                'Quote text, as in site == "A", and leave numbers unquoted.',
            )
        ordered = any(isinstance(each, _ORDER) for each in node.ops)
        if ordered and "text" in kinds.values():
            raise UsageError(
                f"'{selection.text}': text has no order.", "Compare it with ==, != or in."
            )


def _kinds(node: ast.Compare, values: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Yield what is compared, and whether it is a number or text."""
    for side in (node.left, *node.comparators):
        for each in side.elts if isinstance(side, ast.List | ast.Tuple) else [side]:
            if isinstance(each, ast.Name):
                yield each.id, "a number" if values[each.id].dtype.kind == "f" else "text"
            else:
                text = isinstance(each, ast.Constant) and isinstance(each.value, str)
                yield ast.unparse(each), "text" if text else "a number"
