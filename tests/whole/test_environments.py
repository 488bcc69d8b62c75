"""What pip does beside MONAI's and nnU-Net's packages, answered by its resolver without network.

The packages are empty ones with the names, versions and requirements of the real ones; medxlate's
requirements are those of pyproject.toml. ``docs/benchmarks.md`` has the answers for the real index.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
NEEDS = [
    Requirement(text)
    for text in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "dependencies"
    ]
]
TORCH = {"2.6.0": "0.21.0", "2.8.0": "0.23.0", "2.15.0": "0.29.2"}  # and its torchvision
TIMM = ["torch", "torchvision"]
PACKAGES = [
    *((("torch", version), []) for version in TORCH),
    *((("torchvision", vision), [f"torch=={torch}"]) for torch, vision in TORCH.items()),
    *((("timm", version), TIMM) for version in ("1.0.22", "1.0.31")),
    (("torch-fidelity", "0.4.0"), ["torch", "torchvision"]),
    (("monai", "1.6.1"), ["torch>=2.8.0", "numpy>=1.24,<3.0"]),
    (("nnunetv2", "2.8.1"), ["torch>=2.1.2", "dynamic-network-architectures>=0.4.1,<0.5"]),
    (("dynamic-network-architectures", "0.4.4"), ["torch>=1.6.0", "timm<1.0.23"]),
]


def write_wheel(folder: Path, name: str, version: str, needs: list[str]) -> None:
    """Write an empty package."""
    stem = f"{name.replace('-', '_')}-{version}"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    files = {
        f"{stem}.dist-info/METADATA": "\n".join(lines + [f"Requires-Dist: {n}" for n in needs]),
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{stem}.dist-info/RECORD"
    rows = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        rows.append(f"{path},sha256={digest.decode()},{len(text.encode())}")
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        for path, text in {**files, record: "\n".join([*rows, f"{record},,"])}.items():
            archive.writestr(path, text)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    for (name, version), needs in PACKAGES:
        write_wheel(folder, name, version, needs)
    own = {name for (name, _), _ in PACKAGES}
    for need in NEEDS:
        if need.name not in own:
            (floor,) = re.findall(r">=([\d.]+)", str(need.specifier))
            write_wheel(folder, need.name, floor, [])
    write_wheel(folder, "medxlate", "1.0", [str(need) for need in NEEDS])
    return folder


def pip(index: Path, environment: Path, *words: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(environment), "install", "--quiet"]
    options = ["--no-index", "--find-links", str(index), "--disable-pip-version-check"]
    subprocess.run([*command, *options, *words], check=True, capture_output=True, timeout=120)


def installs(index: Path, tmp_path: Path, there: list[str], *asked: str) -> dict[str, str]:
    """Return what pip would install, by name, where some packages are there already."""
    environment, report = tmp_path / "environment", tmp_path / "report.json"
    command = [sys.executable, "-m", "venv", "--without-pip", str(environment)]
    subprocess.run(command, check=True, timeout=120)
    pip(index, environment, *there)
    pip(index, environment, "--dry-run", "--report", str(report), *asked)
    found = json.loads(report.read_text())["install"]
    return {each["metadata"]["name"]: each["metadata"]["version"] for each in found}


@pytest.mark.parametrize(
    "there",
    [
        ["torch==2.6.0", "torchvision"],
        ["torch==2.8.0", "torchvision", "monai"],
        ["torch==2.8.0", "nnunetv2"],
        ["torch==2.8.0", "nnunetv2", "monai"],
    ],
    ids=" ".join,
)
def test_nothing_that_is_there_is_changed(index: Path, tmp_path: Path, there: list[str]) -> None:
    found = installs(index, tmp_path, there, "medxlate")
    assert "medxlate" in found
    assert not {"torch", "torchvision", "monai", "nnunetv2"} & set(found)
    assert found.get("timm") == (None if "nnunetv2" in there else "1.0.31")


def test_torch_without_torchvision_stays_where_it_is_named_too(index: Path, tmp_path: Path) -> None:
    """As docs/how-to/install.md says: timm needs torchvision, whose newest brings its own torch."""
    found = installs(index, tmp_path, ["torch==2.8.0", "monai"], "medxlate", "torch==2.8.0")
    assert "torch" not in found
    assert found["torchvision"] == "0.23.0"


def test_the_page_names_the_version_of_torch_that_pip_knows() -> None:
    """``torch.__version__`` may end in +cu130 where the package of PyPI does not."""
    page = (ROOT / "docs" / "how-to" / "install.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"torch==\$\(python -c '(.+)'\)", page)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == metadata.version("torch")
