"""What PyPI shows: the README with links that lead somewhere, and the project's addresses.

A release is built with ``MEDXLATE_REPOSITORY`` set to the public address of the repository
(``make release REPOSITORY=...``); links and pictures then lead to the files of its tag. Without it
links keep their text alone, and pictures are left out: nothing relative reaches a package index.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

PICTURE = re.compile(r"<!-- picture -->\n.*?<!-- end of picture -->\n+", re.DOTALL)
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)]+)\)")


def long_description(readme: str, repository: str, version: str) -> str:
    """Return the README for a package index; ``repository`` may be empty."""
    if not repository:
        return LINK.sub(lambda link: "" if link[1] else link[2], PICTURE.sub("", readme))
    root = repository.rstrip("/")

    def absolute(link: re.Match[str]) -> str:
        kind = "raw" if link[1] else "blob"
        return f"{link[1]}[{link[2]}]({root}/{kind}/v{version}/{link[3]})"

    return LINK.sub(absolute, readme)


def urls(repository: str, version: str) -> dict[str, str]:
    """Return the links of the project's page; none without ``repository``."""
    root = repository.rstrip("/")
    files = f"{root}/blob/v{version}"
    named = {
        "Repository": root,
        "Documentation": f"{files}/docs/index.md",
        "Changelog": f"{files}/CHANGELOG.md",
        "Security": f"{files}/SECURITY.md",
    }
    return named if repository else {}


class CustomMetadataHook(MetadataHookInterface):
    """Fills the fields that ``pyproject.toml`` calls dynamic, but for the version."""

    def update(self, metadata: dict[str, object]) -> None:
        """Add readme and urls."""
        root = Path(self.root)
        repository = os.environ.get("MEDXLATE_REPOSITORY", "")
        if repository and not repository.startswith("https://"):
            raise ValueError(f"MEDXLATE_REPOSITORY is {repository!r}: it must begin with https://")
        source = (root / "src/medxlate/_version.py").read_text(encoding="utf-8")
        version = re.findall(r'__version__ = "(.+)"', source)[0]
        readme = (root / "README.md").read_text(encoding="utf-8")
        text = long_description(readme, repository, version)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = urls(repository, version)
