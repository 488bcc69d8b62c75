"""Whole flows on CUDA without a GPU: stock torch on devices whose kernels do nothing.

What this shows: tensors and streams on the right device, waits for the device, launches, captures,
stop and resume. What it cannot show: values, speed, memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
RUN = Path(os.environ.get("MEDXLATE_NULL_GPU", ROOT.parent / "shared" / "nullgpu" / "run"))
DEVICES = ["cuda:0", "cuda:1"]

MADE_FOR = "13"  # the stand-in

pytestmark = [
    pytest.mark.skipif(not RUN.is_file(), reason="MEDXLATE_NULL_GPU names no stand-in for a GPU"),
    pytest.mark.skipif(
        (torch.version.cuda or "").split(".")[0] != MADE_FOR,
        reason=f"the stand-in is one for CUDA {MADE_FOR}",
    ),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run every flow once, and return what each one gave and what was complained about."""
    script = ROOT / "tests" / "null_gpu.py"
    root = tmp_path_factory.mktemp("flows")
    done = subprocess.run(
        [RUN, sys.executable, script, root],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(script.parent), *sys.path])},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    complaints = [line for line in done.stderr.splitlines() if "[null GPU]" in line]
    return {**json.loads(line.removeprefix("RESULT ")), "complaints": complaints}


def test_nothing_runs_on_another_device_or_stream(found: dict[str, Any]):
    """The stand-in complains of events and captures on another device's stream."""
    assert found["complaints"] == []


def test_doctor_tries_every_gpu(found: dict[str, Any]):
    assert f"CUDA {torch.version.cuda}" in found["doctor"]["GPU"]
    for device in DEVICES:
        shown = found["doctor"][device]
        assert "compute capability 9.0" in shown
        assert "GiB; bf16 and CUDA graph capture work" in shown


def test_a_gpu_that_is_not_there_is_refused(found: dict[str, Any]):
    assert "this process sees 2 GPUs (cuda:0 to cuda:1)" in found["refused"]


def test_the_demo_runs_on_the_gpu_that_is_found(found: dict[str, Any]):
    methods = ("target-only", "raw-mix", "joint", "oracle")
    assert found["demo"] == {"devices": dict.fromkeys(methods, "cuda"), "slices": 404}


@pytest.mark.parametrize("device", DEVICES)
def test_a_training_stops_and_is_resumed(found: dict[str, Any], device: str):
    assert found[f"train {device}"]["stopped"]
    assert found[f"train {device}"]["steps"] == 16
    assert found[f"streamed {device}"]["steps"] == 16
    assert found[f"dann {device}"]["steps"] == 16


@pytest.mark.parametrize("device", DEVICES)
def test_models_are_used_and_evaluated(found: dict[str, Any], device: str):
    used = found[f"use {device}"]
    assert used["slices"] == used["predictions"] == 24
    assert used["evaluated"] == "Evaluation"


@pytest.mark.parametrize("device", DEVICES)
def test_the_device_is_the_process_own_and_float32_is_float32(found: dict[str, Any], device: str):
    used = found[f"use {device}"]
    assert used["current"] == int(device[-1])
    assert used["float32"]
    assert not used["tuned"]  # what a training sets ends with it


@pytest.mark.parametrize("device", DEVICES)
def test_a_warm_step_waits_for_nothing(found: dict[str, Any], device: str):
    assert found[f"captured step {device}"]["syncs"] == 0
    assert found[f"eager step {device}"]["syncs"] == 0
    assert found[f"captured step {device}"]["mallocs"] == 0


@pytest.mark.parametrize("device", DEVICES)
def test_memory_that_runs_out_in_a_capture_ends_capturing(found: dict[str, Any], device: str):
    """The step goes on eagerly, whole, and the warning names the cause."""
    seen = found[f"memory {device}"]
    assert seen["eager"]
    assert seen["parts"] == 1
    (text,) = seen["texts"]
    assert "captured as a CUDA graph: CUDA out of memory. Tried to allocate 1 GiB" in text


@pytest.mark.parametrize("device", DEVICES)
def test_a_captured_step_is_one_launch(found: dict[str, Any], device: str):
    """Beside it there is what brings two batches, the buffers' plans and the rates: 14 launches."""
    captured, eager = found[f"captured step {device}"], found[f"eager step {device}"]
    assert captured["replays"] == 5
    assert captured["recorded"] > 500  # not an empty graph
    assert eager["replays"] == eager["recorded"] == 0
    assert captured["launches"] <= 5 * 15
    assert eager["launches"] > 5 * 500


@pytest.mark.parametrize("device", DEVICES)
def test_steps_are_captured_whether_their_networks_compile_or_not(
    found: dict[str, Any], device: str
):
    """A graph that the rehearsal left behind would break the capture."""
    seen = found[f"compiled {device}"]
    assert seen["works"] == {"compiled": True, "captured": True, "texts": []}
    assert (seen["fails"]["compiled"], seen["fails"]["captured"]) == (False, True)
    (text,) = seen["fails"]["texts"]
    assert "ptxas is not there" in text


def test_several_processes_have_torchs_own_batch_norm(found: dict[str, Any]):
    assert found["norms"] == ["SyncBatchNorm"]
