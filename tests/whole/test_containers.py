"""The recipes of containers agree with the package and with the page that shows them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
RECIPES = [ROOT / "containers" / name for name in ("Dockerfile", "medxlate.def")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_the_page_shows_the_commands_of_the_recipe(recipe: Path):
    page = (ROOT / "docs/how-to/install.md").read_text(encoding="utf-8")
    text = recipe.read_text(encoding="utf-8")
    commands = re.findall(r"^#   (.+)$", text, re.MULTILINE)
    assert len(commands) >= 2
    assert all(command in page for command in commands)
    for index in re.findall(r"https://download\S+", text):
        assert index in page


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_python_and_the_order_of_installation(recipe: Path):
    text = recipe.read_text(encoding="utf-8")
    (version,) = re.findall(r"python=(3\.\d+)$", text, re.MULTILINE | re.IGNORECASE)
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(version)
    assert text.index(" torch torchvision\n") < text.index("medxlate-*.whl")


def test_what_docker_sees_is_what_the_wheel_is_built_from():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    shown = {line.removeprefix("!") for line in lines if line.startswith("!")}
    hatch = PROJECT["tool"]["hatch"]
    needed = {
        "pyproject.toml",
        "README.md",
        "hatch_build.py",
        *PROJECT["project"]["license-files"],
        *(each.split("/")[0] for each in hatch["build"]["targets"]["wheel"]["packages"]),
        hatch["version"]["path"].split("/")[0],
    }
    assert lines[0] == "*"
    assert shown == needed
