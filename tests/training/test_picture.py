"""progress.png: what it shows, when it is drawn, and what happens where it cannot be."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from medxlate.artifacts.runs import RunFolder
from medxlate.base.events import EpochEnded, Event, Warned
from medxlate.config import Config
from medxlate.method.terms import FAMILIES
from medxlate.training import picture
from medxlate.training.picture import ProgressPicture, panels_of

STEPS = [
    {"event": "step", "step": s, "losses": {"mri.adv_t": 1.0 / s, "predict_real": 9.0 - s}}
    for s in (5, 10, 15, 20)
]
EPOCHS = [
    {
        "event": "epoch", "step": 10 * e, "epoch": e, "metrics": {"val_error": 7.0 - e},
        "best": e == 1, "rates": {"generators": 0.1 / e, "discriminators": 0.1 / e}, "seconds": 3.0,
    }
    for e in (1, 2)
]  # fmt: skip


def test_the_panels_hold_what_was_recorded_over_epochs() -> None:
    panels = {panel.title: panel for panel in panels_of([*STEPS, *EPOCHS])}
    assert panels[FAMILIES["predictor"]].lines[0][1:] == ([0.5, 1, 1.5, 2], [4, -1, -6, -11])
    adversarial = panels[FAMILIES["translators"]].lines
    assert adversarial[0][1:] == ([0.5, 1, 1.5, 2], [0.2, 0.1, 1 / 15, 0.05])
    error = panels["Validation error (ring: the model that is kept)"]
    assert error.lines[0][1:] == ([1, 2], [6, 5])
    assert error.kept == (1, 6)
    assert panels["Learning rate"].lines == (("generators, discriminators", [1, 2], [0.1, 0.05]),)
    assert panels["Seconds an epoch"].lines[0][1:] == ([1, 2], [3, 3])
    assert panels_of([]) == []
    assert panels_of([{"event": "epoch", "epoch": "x", "metrics": 3, "step": 1}]) == []


class Listened:
    """A picture's listener of a run with a record, by a clock that drawing moves by a second."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.run = RunFolder(folder)
        self.run.metrics.write_text("".join(json.dumps(e) + "\n" for e in [*STEPS, *EPOCHS]))
        self.heard: list[Event] = []
        self.drawn: list[int] = []
        self.now = 0.0
        self.epochs = itertools.count(1)
        patch.setattr(picture.time, "monotonic", lambda: self.now)
        patch.setattr(picture, "draw", self._draw)
        self.listener = ProgressPicture(self.run, Config(), self.heard.append)

    def _draw(self, *_: Any) -> None:
        self.drawn.append(self.epoch)
        self.now += 1

    def end_epoch(self, *, last: bool = False) -> None:
        self.now += 10
        self.epoch = next(self.epochs)
        end = self.epoch if last else 1000
        self.listener(EpochEnded(10 * self.epoch, self.epoch, end, {}, False))


def test_drawing_takes_a_hundredth_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Listened(tmp_path, monkeypatch)
    for _ in range(24):
        run.end_epoch()
    assert run.drawn == [1, 11, 21]  # a second of every hundred
    run.end_epoch(last=True)
    assert run.drawn[-1] == 25
    assert len(run.heard) == 25


def test_a_picture_that_fails_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Listened(tmp_path, monkeypatch)

    def broken(*_: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr(picture, "draw", broken)
    for _ in range(3):
        run.end_epoch(last=True)
    warnings = [each for each in run.heard if isinstance(each, Warned)]
    assert len(warnings) == 1
    assert "no room" in warnings[0].text
    assert len(run.heard) == 4


def test_the_picture_is_a_png_without_a_place_or_a_date(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    picture.draw(run, panels_of([*STEPS, *EPOCHS]), "joint: epoch 2 of 2")
    with PIL.Image.open(run.progress) as image:
        assert image.size == (1200, 1120 - 260)
        assert image.info.keys() <= {"Software", "dpi"}
        assert len(image.convert("L").getcolors(256) or ()) > 10
