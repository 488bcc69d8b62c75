"""The torture: each command killed many times; quicker tests of each lie beside its room."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 20


@pytest.mark.nightly
def test_killed_commands_end_as_if_nothing_had_been(tmp_path: Path):
    out = tmp_path / "torture"
    done = subprocess.run(
        [sys.executable, "-m", "torture", "--kills", str(KILLS), "--seed", "1", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=7200,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    outcomes = {each["name"]: each for each in json.loads((out / "torture.json").read_text())}
    assert set(outcomes) == {"train", "prepare", "translate", "compare"}
    assert all(len(each["kills"]) == KILLS for each in outcomes.values())
    assert max(outcomes["train"]["lost"]) <= outcomes["train"]["limit"] + 1
    assert (out / "torture.png").stat().st_size > 10_000
