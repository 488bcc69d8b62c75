"""The tutorial on real images prints today what its page shows."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.nightly
def test_the_tutorial_on_real_images_runs_as_printed(
    real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    images = tmp_path / "images"
    for name in ("chest-ct", "chest-xray"):
        shutil.copytree(real_data(name), images / name)
    script = [sys.executable, ROOT / "docs/run_tutorial.py", "real-data", "--images", images]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
