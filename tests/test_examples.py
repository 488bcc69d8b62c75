"""The examples run, and their configuration is one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from medxlate.config import resolve

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_python_api(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "python_api.py"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        env={"OMP_NUM_THREADS": "1", "HOME": str(tmp_path), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert "epoch 2:" in done.stdout
    assert "'mse':" in done.stdout
    assert len(list((tmp_path / "out" / "fake_ct").glob("*.nii.gz"))) == 16


def test_configuration() -> None:
    config = resolve(file=EXAMPLES / "small_gpu.toml")
    assert config.optimizer.epochs == 50
