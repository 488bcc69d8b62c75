"""Weights & Biases: offline, unless the user has set WANDB_MODE=online."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import wandb

from medxlate.tracking.tracker import TrackedRun

PROJECT = "medxlate"


class WeightsAndBiases:
    """Keeps a run in a folder that ``wandb sync`` can send later, or sends it at once.

    A resumed training has the same id, so that its parts are one run there. Images are not kept:
    they are patients', and what is kept is meant to leave the machine.

    Args:
        run: Where and as what to keep it.
    """

    def __init__(self, run: TrackedRun) -> None:
        online = os.environ.get("WANDB_MODE") == "online" and not run.offline
        memo = run.folder / "run-id"
        if not memo.is_file():
            memo.write_text(secrets.token_hex(8) + "\n", encoding="utf-8")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=memo.read_text(encoding="utf-8").strip(),
            resume="allow",
            dir=str(run.folder),
            mode="online" if online else "offline",
            config=dict(run.settings),
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_code=True,
                disable_git=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
            ),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Keep figures after a step."""
        self._run.log({**values, "step": step}, step=step)

    def text(self, step: int, name: str, text: str) -> None:
        """Keep a sentence in the run's summary."""
        self._run.summary[name] = f"step {step}: {text}"

    def image(self, step: int, name: str, path: Path) -> None:
        """Keep nothing: see the class."""

    def finish(self) -> None:
        """Write what is buffered and end the run."""
        self._run.finish()


start = WeightsAndBiases
