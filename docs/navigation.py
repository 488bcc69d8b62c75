"""Hooks of mkdocs: files beside docs/ belong to the site; the site loads nothing from elsewhere.

The navigation itself is in ``mkdocs.yml``; a page that it leaves out fails the build.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LOADS = re.compile(
    r'<(?:script|img|iframe|source)\b[^>]*\ssrc="https?:|<link\b[^>]*stylesheet[^>]*https?:'
)
# Code in a sentence or a table cell, and an option in it; blocks of code come after a span.
INLINE = re.compile(r"(?<!</span>)<code>([^<\n]+)</code>")
OPTION = re.compile(r"(?<![\w-])--?[a-z][\w-]*")
# Files beside docs/ that pages link to, and where the site has them.
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}


def on_files(files: Files, config: Any) -> Files:
    """Add the examples, the change log and the guide for contributors."""
    for path in sorted((ROOT / "examples").iterdir()):
        if path.is_file():
            _add(files, config, f"examples/{path.name}", path)
    for name, target in OUTSIDE.items():
        if target != "index.md":
            _add(files, config, target, ROOT / name)
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


def on_page_content(html: str, **_: Any) -> str:
    """Keep each option on one line: browsers break lines after hyphens."""
    return INLINE.sub(lambda code: f"<code>{OPTION.sub(_whole, code[1])}</code>", html)


def _whole(option: re.Match[str]) -> str:
    return f'<span class="option">{option[0]}</span>'


def on_post_build(config: Any, **_: Any) -> None:
    """Refuse a site that would fetch anything from elsewhere."""
    for path in sorted(Path(config.site_dir).rglob("*.html")):
        if LOADS.search(path.read_text(encoding="utf-8")):
            raise PluginError(f"{path} loads something from elsewhere")


def _add(files: Files, config: Any, uri: str, path: Path) -> None:
    files.append(File.generated(config, uri, abs_src_path=str(path)))
