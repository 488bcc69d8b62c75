"""Hooks of mkdocs: the navigation follows the folders, and examples belong to the site.

A page that is not named in ``ORDER`` comes after those that are, by name
so that a new page needs no change here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

DOCS = Path(__file__).parent
ROOT = DOCS.parent
SECTIONS = {"How to": "how-to", "Reference": "reference", "Explanation": "explanation"}
ORDER = [
    "how-to/install.md",
    "how-to/own-data.md",
    "how-to/compare.md",
    "how-to/evaluate.md",
    "how-to/report.md",
    "how-to/uncertainty.md",
    "how-to/sixteen-bit-and-hu.md",
    "how-to/privacy.md",
    "how-to/several-gpus.md",
    "how-to/air-gapped.md",
    "how-to/automate.md",
    "how-to/migrate-from-cyclegan.md",
    "how-to/import-cyclegan.md",
    "reference/cli.md",
    "reference/config.md",
    "reference/api.md",
    "reference/folders.md",
    "reference/records.md",
    "explanation/joint-objective.md",
    "explanation/patient-wise-evaluation.md",
    "explanation/what-we-found.md",
    "explanation/when-augmentation-helps.md",
    "explanation/audits.md",
    "explanation/robustness.md",
    "explanation/limits.md",
]
LOADS = re.compile(
    r'<(?:script|img|iframe|source)\b[^>]*\ssrc="https?:|<link\b[^>]*stylesheet[^>]*https?:'
)
# Files beside docs/ that pages link to, and where the site has them.
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}


def on_config(config: Any) -> Any:
    """Make the navigation."""
    config.nav = [
        {"Home": "index.md"},
        "tutorial.md",
        "real-data.md",
        *({title: _pages(folder)} for title, folder in SECTIONS.items()),
        {
            "Project": [
                "results.md",
                "benchmarks.md",
                "architecture.md",
                "decisions.md",
                *_taken_over(),
            ]
        },
    ]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the examples, the change log and the guide for contributors."""
    for path in sorted((ROOT / "examples").iterdir()):
        if path.is_file():
            _add(files, config, f"examples/{path.name}", path)
    for name in ("CHANGELOG.md", "CONTRIBUTING.md"):
        _add(files, config, OUTSIDE[name], ROOT / name)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links that lead out of docs/ to the copies in the site."""
    path = page.file.src_uri
    up = "../" * path.count("/")
    if path in OUTSIDE.values() and path != "index.md":
        return re.sub(r"\]\(docs/", "](", markdown)
    markdown = re.sub(rf"\]\({re.escape(up)}\.\./examples/", f"]({up}examples/", markdown)
    for name, target in OUTSIDE.items():
        markdown = markdown.replace(f"]({up}../{name}", f"]({up}{target}")
    return markdown


def on_post_build(config: Any, **_: Any) -> None:
    """Refuse a site that would fetch anything from elsewhere."""
    for path in sorted(Path(config.site_dir).rglob("*.html")):
        if LOADS.search(path.read_text(encoding="utf-8")):
            raise PluginError(f"{path} loads something from elsewhere")


def _pages(folder: str) -> list[str]:
    found = [path.relative_to(DOCS).as_posix() for path in (DOCS / folder).glob("*.md")]
    return sorted(found, key=lambda page: (_place(page), page))


def _place(page: str) -> int:
    return ORDER.index(page) if page in ORDER else len(ORDER)


def _taken_over() -> list[str]:
    return [target for target in OUTSIDE.values() if target != "index.md"]


def _add(files: Files, config: Any, uri: str, path: Path) -> None:
    files.append(File.generated(config, uri, abs_src_path=str(path)))
