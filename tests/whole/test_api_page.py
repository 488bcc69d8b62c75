"""The Python page names everything public once, and its examples run."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import medxlate
from medxlate import extend

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "api.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def homes(module: ModuleType) -> set[str]:
    """Where a module's public functions and classes are defined, as mkdocstrings names them."""
    public = (getattr(module, name) for name in module.__all__)
    return {f"{each.__module__}.{each.__name__}" for each in public if callable(each)}


def test_every_public_name_is_on_the_page_once() -> None:
    shown = re.findall(r"^::: (\S+)$", TEXT, re.MULTILINE)
    assert len(shown) == len(set(shown))
    assert homes(medxlate) <= set(shown)
    assert set(shown) <= homes(medxlate) | homes(extend) | {"medxlate.extend"}


def test_the_examples_call_what_is_there() -> None:
    tree = ast.parse("\n".join(BLOCKS))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    checked = 0
    for call in calls:
        name = ast.unparse(call.func).removeprefix("medxlate.")
        if name in medxlate.__all__:
            taken = inspect.signature(getattr(medxlate, name)).parameters
            assert {keyword.arg for keyword in call.keywords} <= set(taken), ast.unparse(call)
            checked += 1
    assert checked > 10


@pytest.mark.nightly
def test_the_examples_run_as_printed(tmp_path: Path) -> None:
    script = tmp_path / "examples.py"
    script.write_text("\n".join(BLOCKS), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", script.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = [line.partition("  # ") for line in "\n".join(BLOCKS).splitlines()]
    for line, _, said in printed:
        if line.startswith("print(") and said:
            assert said in done.stdout.splitlines(), line
    assert "pet" in done.stdout.splitlines()[-1], "the last example shows an error"


@pytest.mark.parametrize("block", BLOCKS)
def test_an_example_is_formatted(block: str) -> None:
    assert max(map(len, block.splitlines())) <= 100
