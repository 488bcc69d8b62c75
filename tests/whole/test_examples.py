"""The examples run, and their configuration is one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from medxlate.config import resolve

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(*arguments: object, home: Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
        env={"OMP_NUM_THREADS": "1", "HOME": str(home), "PATH": "", "MPLBACKEND": "agg"}
        | {"PYTHONPATH": str(EXAMPLES.parent / "src")},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What examples/python_api.py writes; the others go on from there."""
    home = tmp_path_factory.mktemp("examples")
    printed = run(EXAMPLES / "python_api.py", home / "out", home=home)
    assert "epoch 2:" in printed
    assert "image mse" in printed
    return home / "out"


def test_python_api(out: Path) -> None:
    assert len(list((out / "fake_ct").glob("*.nii.gz"))) == 16


@pytest.mark.nightly
def test_compare_methods(out: Path, tmp_path: Path) -> None:
    script = EXAMPLES / "compare_methods.py"
    printed = run(script, out / "data", tmp_path / "study", "ct", home=tmp_path)
    assert "6 cells, 0 failed" in printed
    assert "joint" in printed


def test_translated_volumes(out: Path, tmp_path: Path) -> None:
    (run_folder,) = (path for path in (out / "runs").iterdir() if path.is_dir())
    script = EXAMPLES / "translated_volumes.py"
    printed = run(script, out / "raw/mri", run_folder, tmp_path / "fake", home=tmp_path)
    assert printed.count("(2, 48, 48), same size True") == 16


@pytest.mark.nightly
def test_notebook(tmp_path: Path) -> None:
    """Its cells run in order; what they printed once is not kept."""
    path = EXAMPLES / "look_at_translations.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    script = tmp_path / "notebook.py"
    script.write_text("\n".join("".join(cell["source"]) for cell in code), encoding="utf-8")
    assert "model mse" in run(script, home=tmp_path)
    assert (tmp_path / "look/look.png").stat().st_size > 1000


def test_configuration() -> None:
    config = resolve(file=EXAMPLES / "small_gpu.toml")
    assert config.optimizer.epochs == 50
