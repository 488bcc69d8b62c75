"""What the benchmarks compare with is what they say, and what they count is right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import reference
import tiny  # computes on one thread

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.gpu_summary import best_batch, summary
from benchmarks.machine import convolution_rate
from benchmarks.profiling import group_of, seconds_by_group
from benchmarks.reference import ReferenceTraining, Sizes
from benchmarks.training import count_flops, make_batches, make_textbook

pytestmark = pytest.mark.alone

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
SIZES = Sizes(width=8, blocks=1, discriminator_width=8, predictor="test_resnet")


def test_the_textbooks_training_takes_the_textbooks_step():
    torch.manual_seed(0)
    training = ReferenceTraining(SIZES, CPU, mean=50, std=15)
    names = ("g", "f", "d_s", "d_t", "predictor")
    networks = {name: getattr(training, name) for name in names}
    batch = make_batches(2, tiny.SIZE, CPU)[0]
    y, x = batch["mri"], batch["ct"]
    wanted = reference.reference_step(
        reference.ReferenceNetworks(**networks),
        y.images,
        y.labels,
        x.images,
        x.labels,
        fakes_for_d_t=lambda fake: fake,  # the buffers fill first and show what they are given
        fakes_for_d_s=lambda fake: fake,
        label_mean=50,
        label_std=15,
    )
    adams = {
        name: reference.ReferenceAdam(
            [parameter.detach().clone() for parameter in network.parameters()],
            *((1e-3, (0.9, 0.999)) if name == "predictor" else (2e-4, (0.5, 0.999))),
        )
        for name, network in networks.items()
    }
    losses = training.step(y.images, y.labels, x.images, x.labels)
    for name, value in losses.items():
        assert value == pytest.approx(wanted.losses[name], rel=1e-5), name
    assert set(losses) == set(wanted.losses) - {"identity", "total", "gradient_ratio"}
    # Equation 3 to the letter: P's gradient is multiplied by lambda, in years squared.
    wanted.gradients["predictor"] = [0.001 * 15**2 * g for g in wanted.gradients["predictor"]]
    for name, network in networks.items():
        adams[name].step(wanted.gradients[name])
        for mine, theirs, gradient in zip(
            network.parameters(), adams[name].parameters, wanted.gradients[name], strict=True
        ):
            # Where a gradient is zero but for rounding, Adam goes by the rounding's sign.
            counts = gradient.abs() > 1e-3 * gradient.abs().max()
            torch.testing.assert_close(mine[counts], theirs[counts], rtol=1e-3, atol=1e-6)


def test_the_reference_knows_nothing_of_medxlate():
    code = "import sys, benchmarks.reference; print('medxlate' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "False"


def test_operations_are_counted_as_the_step_does_them():
    step, batch = make_textbook(SIZES, CPU), make_batches(3, tiny.SIZE, CPU)[0]
    with FlopCounterMode(display=False) as counter:
        step(batch)
    assert counter.get_total_flops() == 3 * count_flops(SIZES, tiny.SIZE)


def test_the_convolutions_rate_is_a_rate(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("benchmarks.machine.seconds", lambda *_, **__: 0.5)
    # Multiply and add, forward and two gradients, 3 x 3 x 256 x 256 weights at 64 x 64 places.
    assert convolution_rate(CPU, torch.float32, 2) == 2 * 3 * (2 * 9 * 256**2 * 64**2) / 0.5


@pytest.mark.parametrize(
    ("kernel", "group"),
    [
        ("aten::mkldnn_convolution", "convolution, forward"),
        ("aten::convolution_backward", "convolution, backward"),
        ("sm90_xmma_wgrad_implicit_gemm_bf16bf16_bf16f32", "convolution, backward"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_nhwckrsc_nhwc", "convolution, forward"),
        ("void cudnn::ops::nchwToNhwcKernel<float>", "copies and casts"),
        ("triton_per_fused__native_batch_norm_legit_relu_7", "compiled kernels"),
        ("aten::native_batch_norm_backward", "norm"),
        ("aten::reflection_pad2d", "padding"),
        ("aten::_fused_adam_", "optimizer"),
        ("Optimizer.step#Adam.step", "optimizer"),
        ("aten::copy_", "copies and casts"),
        ("aten::tanh", "other"),
    ],
)
def test_kernels_are_grouped(kernel: str, group: str):
    assert group_of(kernel).startswith(group)


def test_a_profile_holds_the_time_of_the_step():
    step, batch = make_textbook(SIZES, CPU), make_batches(2, tiny.SIZE, CPU)[0]
    step(batch)
    found = seconds_by_group(lambda: step(batch), CPU)
    assert min(found.values()) >= 0
    for group in ("convolution, forward", "convolution, backward", "norm", "padding", "optimizer"):
        assert found[group] > 0, group


def test_a_gpus_figures_are_summed_up():
    def report(size: int, seconds: float, textbook: float | None = None) -> dict[str, Any]:
        taken = {"medxlate": seconds} | ({"textbook": textbook} if textbook else {})
        race = {
            "batch_size": size,
            "flops": 100 * size,
            "median_seconds": taken,
            "pairs_per_second": {name: size / each for name, each in taken.items()},
            "ratio": textbook / seconds if textbook else None,
            "memory_bytes": {},
            "parts": 1,
        }
        return {"matrix_flops": {"bf16": 1000.0}, "races": [race]}

    failed = {"batch_size": 64, "error": "out of memory"}
    eager = {"races": [*report(4, 4.0)["races"], *report(8, 2.0)["races"], failed]}
    assert best_batch(eager) == 8
    found = summary({"race": report(1, 1.0, 4.0), "batches": eager, "best": report(8, 1.0)})
    assert found["best"][0]["of_matrix_rate"] == pytest.approx(0.8)
    assert [each["batch_size"] for each in found["batches"]] == [4, 8]
    assert found["ratio_at_batch_1"] == pytest.approx(4.0)
    assert found["ratio_at_best_batch"] == pytest.approx(8 / 0.25)
    assert set(summary({})) == {"matrix_flops", "aims"}


def test_a_gpus_script_ends_well_and_tells_what_failed(tmp_path: Path):
    environment = {"PATH": "/usr/bin:/bin", "OUT": str(tmp_path), "PYTHON": "/bin/false"}
    script = ROOT / "benchmarks" / "gpu.sh"
    subprocess.run(["bash", script], env=environment, check=True, capture_output=True)
    assert json.loads((tmp_path / "gpu.json").read_text()) == {"error": "no summary"}
    environment["PYTHON"] = sys.executable
    (tmp_path / "race.json").write_text('{"machine": "of an earlier run"}')
    subprocess.run(
        ["bash", script], env={**environment, "BUDGET": "1"}, check=True, capture_output=True
    )
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert {part["exit"] for part in found["parts"].values()} == {"left-out"}
    assert found["machine"] is None
