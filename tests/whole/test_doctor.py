"""``medxlate doctor``: what it finds here, and what it says where something is wrong."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from medxlate import doctor, pretrained
from medxlate.base import machine
from medxlate.cli.app import app
from medxlate.doctor import Check, examine

ROOT = Path(__file__).resolve().parents[2]


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_this_machine_has_no_problem_and_everything_is_looked_at(tmp_path: Path) -> None:
    found = by_name(examine(tmp_path, {}))
    assert not [check for check in found.values() if check.state == "problem"]
    assert torch.__version__ in found["torch"].found
    assert f"{machine.cores()} usable" in found["processor cores"].found
    assert "JPEG 2000" in found["DICOM codecs"].found
    assert str(tmp_path) in found["disk"].found
    assert {"write access", "memory", "shared memory", "completion", "SLURM"} <= set(found)
    assert list(tmp_path.iterdir()) == []


def test_packages_are_compared_with_the_requirements(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = ["numpy>=9999", "no-such-package>=2", "pandas>=1", "ray>=9; extra == 'cluster'"]
    monkeypatch.setattr(metadata, "requires", lambda _: asked)
    found = {check.found: check.fix for check in examine(tmp_path) if check.name == "packages"}
    assert found == {
        f"numpy is {metadata.version('numpy')}": "pip install 'numpy>=9999'",
        "no-such-package is missing": "pip install 'no-such-package>=2'",
    }


def test_little_of_everything_is_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "memory_left", lambda: 2**30)
    monkeypatch.setattr(machine, "cores", lambda: 1)
    monkeypatch.setattr(doctor, "LITTLE_DISK", 2**80)
    found = by_name(examine(tmp_path, {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "8"}))
    for name in ("memory", "processor cores", "disk", "SLURM"):
        assert found[name].state == "note", name
        assert found[name].fix, name


def test_weights_are_looked_for_where_they_are_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    file = tmp_path / "torch/hub/checkpoints" / pretrained.REGISTRY["inception"].file

    def states(environ: dict[str, str]) -> list[str]:
        found = by_name(examine(tmp_path, environ))
        return [found[f"weights {name}"].state for name in ("inception", "resnet50")]

    environ = {"HF_HOME": str(tmp_path)}
    assert states(environ) == ["note", "note"]
    file.parent.mkdir(parents=True)
    file.touch()
    snapshot = tmp_path / "hub/models--timm--resnet50.a1_in1k/snapshots/0123"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    assert states(environ) == ["ok", "ok"]
    if not {"HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "HUGGINGFACE_HUB_CACHE"} & set(os.environ):
        assert by_name(examine(tmp_path, {}))["weights resnet50"].found in (
            f"not in {constants.HF_HUB_CACHE}",
            *map(str, Path(constants.HF_HUB_CACHE).rglob("model.safetensors")),
        )


def test_a_torch_that_does_not_load_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert by_name(examine(tmp_path, {}))["torch"].state == "problem"


def test_the_command_ends_with_one_where_there_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["doctor", str(tmp_path), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["problems"] == 0
    result = CliRunner().invoke(app, ["doctor", str(tmp_path / "missing"), "--json"])
    assert result.exit_code == 1
    found = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert found["write access"]["state"] == "problem"
    assert CliRunner().invoke(app, ["doctor", str(tmp_path)]).exit_code == 0


def test_every_extra_of_the_package_is_looked_for() -> None:
    held = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = set(held["project"]["optional-dependencies"]) - {"dev", "docs"}
    assert extras == set(doctor.EXTRAS)


def test_a_driver_without_a_torch_that_can_use_it_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "_driver", lambda: "470.82.01")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    found = by_name(examine(tmp_path, {}))["GPU"]
    assert found.state == "problem"
    assert found.found == "driver 470.82.01, but this torch was built without CUDA"
    assert "install.md" in found.fix


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((9, 0), ["sm_80", "sm_90"], True),
        ((8, 6), ["sm_80", "sm_90"], True),
        ((6, 1), ["sm_75", "sm_80", "compute_120"], False),
        ((12, 1), ["sm_90", "compute_120"], True),
        ((10, 0), ["sm_90"], False),
        ((10, 3), ["sm_100", "sm_103a"], True),
        ((7, 0), [], True),  # torch does not say
        ((9, 0), ["gfx90a", "gfx942"], True),  # AMD's
    ],
)
def test_kernels_for_a_gpu(capability: tuple[int, int], built: list[str], runs: bool) -> None:
    assert doctor._has_kernels(*capability, built) is runs


def test_a_gpu_that_cannot_compute_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may keep it for itself, or have taken all of its memory."""

    def busy(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA-capable device(s) is/are busy or unavailable\nMore.")

    facts = SimpleNamespace(name="A GPU", major=9, minor=0, total_memory=2**36)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: facts)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90"])
    monkeypatch.setattr(torch, "ones", busy)
    found = doctor._cuda_device(0)
    assert found.state == "problem"
    assert found.found.endswith(
        "it cannot compute: CUDA-capable device(s) is/are busy or unavailable"
    )
    assert "nvidia-smi" in found.fix
