"""The layer table of docs/architecture.md, held against the code's own imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "medxlate"

# Each room may import those before it, and itself.
LAYERS = [
    {"_version"},
    {"base"},
    {"pretrained", "charts"},
    {"config"},
    {"images"},
    {"dataset", "phantoms"},
    {"method"},
    {"artifacts"},
    {"inference"},
    {"tracking"},
    {"training"},
    {"evaluation"},
    {"export", "report"},
    {"study"},
    {"walkthrough", "scrub", "doctor", "extend"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}

# A library that only these rooms and modules may import.
HOMES = {
    "filelock": {"base.files"},
    "typer": {"cli"},
    "rich": {"cli.console", "cli.tables"},
    "timm": {"method.predictor"},
    "safetensors": {"base.tensors"},
    "pydicom": {"images.dicom"},
    "SimpleITK": {"images.volumes", "images.bias"},
    "nibabel": {"images.nifti"},
    "tifffile": {"images.tiff"},
    "torch_fidelity": {"evaluation.features", "evaluation.fidelity"},
    "matplotlib": {"charts", "report", "training.picture"},
    "jinja2": {"report.page"},
    "ray": {"study.cluster"},
    "wandb": {"tracking.wandb"},
    "mlflow": {"tracking.mlflow"},
    "onnx": {"export.onnx"},
    "onnxruntime": {"export.onnx"},
    "huggingface_hub": {"method.predictor", "artifacts.hub", "export.hub"},
}
NO_TORCH = {
    "base.errors", "base.events", "base.files", "base.machine", "base.plugins", "base.pool",
    "base.records",
    "base.toml", "config", "images", "phantoms", "scrub", "cli", "pretrained",
}  # fmt: skip


def modules() -> dict[str, Path]:
    return {
        path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.parent != PACKAGE or path.stem not in ("__init__", "__main__")
    }


def imports(path: Path) -> Iterator[str]:
    """Every import, also those inside functions; the names behind TYPE_CHECKING as well."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = modules()


def above(name: str) -> set[str]:
    """The rooms that a module lies in: images and images.dicom."""
    parts = name.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts))}


def own_rooms(path: Path) -> set[str]:
    names = {name.split(".")[1] for name in imports(path) if name.startswith("medxlate.")}
    return {name for name in names if not name.startswith("__")}


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name: str) -> None:
    room = name.split(".")[0]
    assert room in LEVEL, f"{name} has no place in the layer table"
    for other in own_rooms(MODULES[name]) - {room}:
        assert LEVEL[other] < LEVEL[room], f"{name} imports {other}, which is not below it"


def test_no_cycles_between_modules() -> None:
    graph: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        found = {i.removeprefix("medxlate.") for i in imports(path) if i.startswith("medxlate.")}
        graph[name] = {module for module in found if module in MODULES} - {name}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"cycle: {' -> '.join((*trail, name))}"
        if name not in done:
            for other in graph[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("library", HOMES)
def test_libraries_stay_at_home(library: str) -> None:
    users = {
        n for n, path in MODULES.items() if library in {i.split(".")[0] for i in imports(path)}
    }
    strangers = {n for n in users if not {n, *above(n)} & HOMES[library]}
    assert users, f"nobody imports {library}"
    assert not strangers


@pytest.mark.parametrize("room", sorted(NO_TORCH))
def test_rooms_without_torch(room: str) -> None:
    users = [
        name
        for name, path in MODULES.items()
        if room in {name, name.split(".")[0]}
        and "torch" in {i.split(".")[0] for i in imports(path)}
    ]
    assert not users


def loaded(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after some code."""
    script = f"import sys\n{code}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(out.stdout.splitlines()[-1].split())


def test_help_loads_neither_torch_nor_pydicom() -> None:
    code = (
        "from medxlate.cli.app import app\n"
        "try:\n    app(['train', '--help'])\nexcept SystemExit:\n    pass"
    )
    heavy = {"torch", "pydicom", "pandas", "numpy", "timm", "matplotlib"}
    assert not loaded(code) & heavy
    assert not loaded("import medxlate; medxlate.__version__") & heavy


def test_training_needs_no_library_that_reads_images() -> None:
    readers = {"pydicom", "SimpleITK", "nibabel", "tifffile", "matplotlib"}
    assert not loaded("import medxlate.training.train") & readers


def test_preparing_needs_no_torch() -> None:
    assert not loaded("import medxlate.dataset.prepare") & {"torch", "timm", "matplotlib"}


def test_a_process_that_prepares_loads_only_what_its_files_need() -> None:
    """Every worker pays for what reading imports, and PNG needs neither DICOM nor volumes."""
    code = "import medxlate.dataset.parts, medxlate.images.grouping"
    assert not loaded(code) & {"torch", "pydicom", "SimpleITK", "nibabel", "tifffile", "rich"}
