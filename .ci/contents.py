"""Check what is in a wheel and an sdist: ``python .ci/contents.py FILE ...``."""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_CODE = (".dcm", ".npy", ".safetensors", ".pth", ".pt", ".nii", ".gz", ".xz", ".pyc")
SDIST = ("src", "tests", "docs", "examples", "benchmarks", ".ci")
FILES = (
    "CHANGELOG.md",
    "CITATION.cff",
    "LICENSE",
    "Makefile",
    "README.md",
    "hatch_build.py",
    "mkdocs.yml",
)
RELATIVE = re.compile(r"\]\((?!https?://)([^)]*)\)")


def wheel_problems(path: Path) -> list[str]:
    """A wheel holds the package, all of it, and nothing else."""
    with zipfile.ZipFile(path) as file:
        names = set(file.namelist())
    own = {name for name in names if ".dist-info/" not in name}
    source = {
        file.relative_to(ROOT / "src").as_posix()
        for file in (ROOT / "src" / "medxlate").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    problems = [f"{name} is not of the package" for name in sorted(own - source)]
    problems += [f"{name} is missing" for name in sorted(source - own)]
    problems += [f"{name} holds data" for name in names if name.endswith(NOT_CODE)]
    if "medxlate/py.typed" not in names:
        problems.append("medxlate/py.typed is missing")
    if not any(name.endswith("licenses/LICENSE") for name in names):
        problems.append("LICENSE is missing")
    return problems + [
        problem
        for name in names
        if name.endswith(".dist-info/METADATA")
        for problem in metadata_problems(_text(path, name))
    ]


def metadata_problems(metadata: str) -> list[str]:
    """A package index shows no file of ours: links of the long description are absolute."""
    if "\n\n# medxlate\n" not in metadata:
        return ["the long description is missing"]
    return [f"the long description links to {link}" for link in RELATIVE.findall(metadata)]


def _text(path: Path, name: str) -> str:
    with zipfile.ZipFile(path) as file:
        return file.read(name).decode()


def sdist_problems(path: Path) -> list[str]:
    """An sdist holds all that is needed to build, test and read."""
    with tarfile.open(path) as tar:
        names = {member.name.partition("/")[2] for member in tar if member.isfile()}
        (info,) = (
            member for member in tar if member.name.count("/") == 1 and "PKG-INFO" in member.name
        )
        metadata = tar.extractfile(info)
        assert metadata is not None
        problems = metadata_problems(metadata.read().decode())
    problems += [f"{name} is missing" for name in FILES if name not in names]
    problems += [f"{name} holds data" for name in names if name.endswith(NOT_CODE)]
    for folder in SDIST:
        here = {
            file.relative_to(ROOT).as_posix()
            for file in (ROOT / folder).rglob("*")
            if file.is_file() and "__pycache__" not in file.parts
        }
        problems += [f"{name} is missing" for name in sorted(here - names)]
    return problems


def main(paths: list[Path]) -> None:
    """Exit with what is wrong."""
    problems = []
    for path in paths:
        found = wheel_problems(path) if path.suffix == ".whl" else sdist_problems(path)
        problems += [f"{path.name}: {problem}" for problem in found]
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
