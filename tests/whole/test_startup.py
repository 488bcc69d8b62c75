"""Starting is quick: what is refused needs no torch, and what runs loads only what it uses."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.translate import smooth_noise, write_random_model, write_scan

HEAVY = {"torch", "scipy", "timm", "matplotlib", "SimpleITK"}
SIDE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a volume, and a folder that is in the way."""
    root = tmp_path_factory.mktemp("startup")
    write_random_model(root, argparse.Namespace(width=8, blocks=1, side=SIDE))
    write_scan(root / "scan.nii.gz", smooth_noise(2, SIDE))
    (root / "full").mkdir()
    (root / "full" / "mine.txt").touch()
    return root


def run(folder: Path, command: str) -> tuple[int, str, set[str]]:
    """Return the exit code of a command, what it said, and all modules that it loaded."""
    script = (
        "import sys\nfrom medxlate.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code or 0\n"
        "else:\n    code = 0\nprint('LOADED', code, *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command.split()],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        timeout=120,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("LOADED ")]
    _, code, *modules = line.split()
    return int(code), done.stderr, set(modules)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("translate nothing --model model --out out", "does not exist"),
        ("translate scan.nii.gz --model nothing --out out", "nothing"),
        ("translate scan.nii.gz --model model --out full", "not empty"),
        ("translate scan.nii.gz --model model --out out --phi no", "'--phi': 'no'"),
        ("translate scan.nii.gz --model model --out out --compile no", "'--compile': 'no'"),
        ("translate scan.nii.gz --model model --out out --tile 3", "--tile 3"),
        ("predict nothing --model model --out out.csv", "does not exist"),
        ("predict scan.nii.gz --model nothing --out out.csv", "nothing"),
        ("predict scan.nii.gz --model model --out scan.nii.gz", "exists"),
        ("predict scan.nii.gz --model model --out out.csv --level 2", "--level 2"),
        ("predict scan.nii.gz --model model --out out.csv --patient no:1", "no:1"),
        ("train --data nothing --target ct", "nothing"),
        ("evaluate --run nothing", "nothing"),
        ("report nothing", "nothing"),
        ("prepare nothing --modality ct --data out", "does not exist"),
    ],
)
def test_what_is_refused_loads_nothing_heavy(folder: Path, command: str, said: str) -> None:
    code, text, modules = run(folder, command)
    assert code in (1, 2)
    assert said in " ".join(text.split())
    assert not modules & HEAVY


def test_translating_loads_no_compiler_and_no_library_of_others(folder: Path) -> None:
    """Each of these takes a tenth to a half of the time that torch takes."""
    tables, others = {"pandas", "scipy.optimize"}, {"timm", "torchvision", "SimpleITK"}
    code, text, modules = run(
        folder, "translate scan.nii.gz --model model --out translated --device cpu"
    )
    assert code == 0, text
    assert not modules & {"torch._dynamo", *tables, *others}


def test_predicting_loads_no_tracker(folder: Path) -> None:
    code, text, modules = run(
        folder, "predict scan.nii.gz --model model --out predicted.csv --device cpu"
    )
    assert code == 0, text
    assert not modules & {"wandb", "mlflow", "scipy.optimize", "matplotlib"}
