"""The figures of docs/architecture.md about the structure, measured."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def measured() -> str:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.structure"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_two_classes_have_one_name(measured: str):
    assert "classes of one name: none" in measured


def test_the_calls_from_train_to_the_gradients_are_those_of_the_page(measured: str):
    calls = re.findall(r"^  \w+/\w+\.py:(\w+)$", measured, re.MULTILINE)
    assert (calls[0], calls[-1]) == ("train", "backward")
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    sentence = page[page.index("From `train` to the gradients") :].partition("\n\n")[0]
    assert f"these are {'ten' if len(calls) == 10 else len(calls)} calls" in sentence
    assert re.findall(r"`(\w+)`", sentence) == ["train", *calls]


def test_a_pixel_passes_few_modules(measured: str):
    found = re.findall(r"modules that run between .*: (\d+)$", measured, re.MULTILINE)
    assert len(found) == 2
    assert all(0 < int(count) <= 13 for count in found)
