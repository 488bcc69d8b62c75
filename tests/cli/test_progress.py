"""Progress: counted items, rates, and the lines of a log."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from contextlib import suppress

import pytest

from medxlate.base.events import Event, Progress, counted
from medxlate.cli.console import Reporter
from medxlate.cli.progress import Pace, duration, speed


def test_an_item_is_done_when_the_next_is_asked_for() -> None:
    heard: list[Event] = []
    seen = []
    for item in counted("abc", "letters", 3, heard.append):
        seen.append((item, heard[-1]))
    assert seen == [(letter, Progress("letters", i, 3)) for i, letter in enumerate("abc")]
    assert heard[-1] == Progress("letters", 3, 3)


def test_lines_come_every_thirty_seconds_with_rate_and_time_left() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    lines = {}
    for second in range(0, 91, 5):  # continues at 100, two a second
        now = float(second)
        if line := pace.line(Progress("files", 100 + 2 * second, 1000)):
            lines[second] = line
    assert lines == {
        30: "files: 160/1000, 2/s, 0:07:00 left",
        60: "files: 220/1000, 2/s, 0:06:30 left",
        90: "files: 280/1000, 2/s, 0:06:00 left",
    }


def test_a_training_shows_its_epoch_and_steps_a_second() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    pace.line(Progress("training", 0, 400, {}, 1, 40))
    now = 30.0
    line = pace.line(Progress("training", 12, 400, {}, 2, 40))
    assert line == "epoch 2/40: 12/400, 0.4 it/s, 0:16:10 left"


def test_a_task_that_begins_again_has_a_rate_of_its_own() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    assert pace.rate(Progress("a", 0, 10)) is None
    now = 1.0
    assert pace.rate(Progress("a", 10, 10)) == 10
    now = 50.0
    assert pace.rate(Progress("a", 0, 10)) is None
    now = 52.0
    assert pace.rate(Progress("a", 10, 10)) == 5


def test_units_people_read() -> None:
    assert [speed(r) for r in (12.34, 1, 0.07)] == ["12.3/s", "1/s", "4.2/min"]
    assert [duration(s) for s in (0, 61, 3723.4)] == ["0:00:00", "0:01:01", "1:02:03"]


def test_a_log_gets_plain_lines_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medxlate.cli.progress.EVERY", 0.0)
    reporter = Reporter(json=True)
    reporter(Progress("files", 0, 4))
    reporter(Progress("files", 4, 4))
    reporter.result({"files": 4})
    reporter.close()
    out, err = capsys.readouterr()
    assert err.splitlines()[0] == "files: 0/4"
    assert err.splitlines()[1].startswith("files: 4/4, ")
    assert out == '{\n  "files": 4\n}\n'


TRAINING = """
import time

from medxlate.base.events import Progress, StepLogged
from medxlate.cli.console import Reporter

reporter = Reporter(json=False)
for step in range(1, 31):
    reporter(Progress("training", step, 3360, {}, 12, 40))
    losses = {"predict_real": 312.4, "mri.cycle_s": 0.21}
    reporter(StepLogged(step, 12, losses, 1.4, 0.25))
time.sleep(0.5)  # the line is drawn ten times a second
"""


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_line_of_a_training_is_whole(width: int) -> None:
    """On a terminal, where rich cuts off what does not fit."""
    terminal, inner = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(width), "TERM": "xterm"}
    child = subprocess.Popen(
        [sys.executable, "-c", TRAINING], stdout=inner, stderr=inner, env=environment
    )
    os.close(inner)
    said = b""
    with suppress(OSError):  # the end of a terminal
        while block := os.read(terminal, 1 << 16):
            said += block
    os.close(terminal)
    assert child.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode())
    line = [each for each in re.split(r"[\r\n]+", text) if "ETA" in each][-1]
    assert "\N{HORIZONTAL ELLIPSIS}" not in line
    for part in ("epoch 12/40", "/3360", "it/s", "predict_real 312", "elapsed 0:00:0", "ETA "):
        assert part in line
