"""Outputs that are not finite: never class 0, never the darkest grey, never an empty cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medxlate.base.errors import ModelError

WHY = "its weights are damaged or bf16 is too imprecise for it (try --precision fp32)"


def is_finite(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which rows of values [N, ...] hold finite numbers alone, [N]."""
    found: npt.NDArray[np.bool_] = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    return found


def no_number(network: str, number: int | None = None) -> str:
    """Return the reason for which a file fails.

    Args:
        network: What gave no number: ``predictor`` or ``translator``.
        number: Which slice of the scan that was, from 0; None: it has one.
    """
    where = "" if number is None else f"slice {number + 1}; "
    return f"the output of the {network} is not finite: {where}{WHY}"


def check_finite(values: npt.NDArray[Any], network: str, images: str = "images") -> None:
    """Raise ModelError where one of the outputs [N, ...] of a network is not finite.

    Args:
        values: The outputs, or what was made of them.
        network: What gave them, such as ``predictor`` or ``translator``.
        images: What the N are called.
    """
    if lost := len(values) - int(is_finite(values).sum()):
        raise ModelError(
            f"The output of the {network} is not finite for {lost} of {len(values)} {images}.",
            f"{WHY[0].upper()}{WHY[1:]}.",
        )
