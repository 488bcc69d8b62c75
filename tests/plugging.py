"""Packages with entry points, written as pip installs them; nothing is downloaded."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from medxlate.base import plugins

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "plugin"

Entries = Mapping[str, Mapping[str, str]]  # target by name by group


def write_package(
    site: Path, entries: Entries, code: str = "", *, name: str = "acme", version: str = "1.0"
) -> Path:
    """Write a package of one module, called as the package is; return the module."""
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (folder / "METADATA").write_text(text)
    lines = []
    for group, parts in entries.items():
        lines += [f"[medxlate.{group}]", *(f"{part} = {to}" for part, to in parts.items())]
    (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
    module = site / f"{name.replace('-', '_')}.py"
    module.write_text(code)
    return module


def write_example(site: Path) -> Path:
    """Write examples/plugin as it is; return its module."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    groups = {
        group.removeprefix("medxlate."): parts for group, parts in project["entry-points"].items()
    }
    code = (EXAMPLE / "src" / "medxlate_example.py").read_text()
    return write_package(site, groups, code, name=project["name"], version=project["version"])


@contextmanager
def on_path(site: Path) -> Iterator[None]:
    """Let what lies in a folder be installed for a while."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        plugins.installed.cache_clear()
        try:
            yield
        finally:
            forget(site)
    plugins.installed.cache_clear()


def forget(site: Path) -> None:
    """Forget the modules that were imported from a folder."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(site)):
            del sys.modules[name]
