"""The figure: when commands were killed, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def draw(outcomes: Sequence[Any], path: Path) -> None:
    """Draw the moments of all kills, and the steps that those of train cost."""
    counted = [each for each in outcomes if each.lost]
    figure, axes = plt.subplots(1, 1 + len(counted), figsize=(5.2 * (1 + len(counted)), 3.2))
    first, *others = [axes] if not counted else list(axes)
    for row, outcome in enumerate(outcomes):
        shares = [seconds / outcome.undisturbed for seconds in outcome.kills]
        first.plot(shares, [row] * len(shares), "|", markersize=16, color="C0")
    first.set_yticks(
        range(len(outcomes)), [f"{each.name}: {len(each.kills)} kills" for each in outcomes]
    )
    first.set_ylim(-0.6, len(outcomes) - 0.4)
    first.set_xlim(0, 1.02)
    first.set_xlabel("moment of the kill, share of an undisturbed run")
    first.set_title("All ended with the undisturbed results, bit for bit", fontsize=10)
    for axis, outcome in zip(others, counted, strict=True):
        axis.bar(range(1, len(outcome.lost) + 1), outcome.lost, color="C0")
        axis.axhline(outcome.limit, color="C3", linewidth=1)
        axis.set_title(
            f"{outcome.name}: work lost; a checkpoint every {outcome.limit} {outcome.unit}",
            fontsize=10,
        )
        axis.set_xlabel("kill")
        axis.set_ylabel(f"{outcome.unit} lost")
        axis.set_ylim(0, 1.3 * outcome.limit)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
