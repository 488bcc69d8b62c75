"""How large the code is, and how far a pixel and a call go through it.

    python -m benchmarks.structure [CHECKOUT]

Counts lines and modules; then runs a small ``prepare`` and three steps of a training, and reports
which modules ran while an image was read, and which calls lie between ``train`` and the gradients
of ``joint``.
"""

from __future__ import annotations

import ast
import sys
import tempfile
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

ROOT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve()
sys.path.insert(0, str(ROOT / "src"))
PACKAGE = ROOT / "src" / "medxlate"


def lines(pattern: str) -> tuple[int, int]:
    """Return how many lines the files of a pattern have, and how many files there are."""
    files = [path for path in ROOT.glob(pattern) if ".venv" not in path.parts]
    return sum(path.read_text(encoding="utf-8").count("\n") for path in files), len(files)


def twin_classes() -> list[str]:
    """Return the names that two classes of the package have."""
    names = Counter(
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    return sorted(name for name, count in names.items() if count > 1)


def module_of(frame: types.FrameType) -> str:
    """Return the package's module that a frame runs, or nothing."""
    path = Path(frame.f_code.co_filename)
    return path.relative_to(PACKAGE).as_posix() if PACKAGE in path.parents else ""


@contextmanager
def watched(entered: Callable[[types.FrameType], None]) -> Iterator[None]:
    """Report each call of a Python function while the block runs."""

    def profile(frame: types.FrameType, event: str, _: object) -> None:
        if event == "call" and module_of(frame):
            entered(frame)

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)


def hops(frame: types.FrameType | None) -> list[str]:
    """Return the package's calls from ``train`` to this one, outermost first."""
    found: list[str] = []
    while frame is not None:
        if module_of(frame):
            found.append(f"{module_of(frame)}:{frame.f_code.co_name}")
        frame = frame.f_back
    return found[::-1]


def note_pixel(seen: set[str], frame: types.FrameType) -> None:
    """Add the module of a call to those that run while a scan becomes squares on disk."""
    caller: types.FrameType | None = frame
    while caller is not None:
        if caller.f_code.co_name == "write_part":
            seen.add(module_of(frame))
            return
        caller = caller.f_back


def main() -> None:
    """Measure and print."""
    for name, pattern in {"source": "src/medxlate/**/*.py", "tests": "tests/**/*.py"}.items():
        count, files = lines(pattern)
        print(f"{name}: {count:,} lines in {files} files")
    print(f"classes of one name: {', '.join(twin_classes()) or 'none'}")
    import medxlate
    from medxlate.phantoms.files import write_phantoms
    from medxlate.walkthrough import prepare_phantoms

    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        for modality, kind in {"ct": "DICOM series", "mri": "NIfTI volumes"}.items():
            raw, seen = home / modality, set[str]()
            write_phantoms(raw, patients={modality: 5}, slices=3, size=64)
            with watched(partial(note_pixel, seen)):
                prepare_phantoms(raw, home / "data", size=32)
            print(f"modules that run between {kind} and their squares on disk: {len(seen)}")
        calls: list[list[str]] = []

        def entered(frame: types.FrameType) -> None:
            if frame.f_code.co_name == "backward" and module_of(frame).endswith("joint.py"):
                calls.append(hops(frame))

        settings = {
            "data.folder": str(home / "data"), "optimizer.epochs": 1,
            "optimizer.steps_per_epoch": 1, "runtime.compile": "off", "runtime.device": "cpu",
        }  # fmt: skip
        with watched(entered):
            medxlate.train(
                source="mri", target="ct", preset="debug", settings=settings, runs=home / "runs"
            )
    print(f"calls from `train` to the gradients of `joint`: {len(calls[-1])}")
    print("  " + "\n  ".join(calls[-1]))


if __name__ == "__main__":
    main()
