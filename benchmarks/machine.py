"""What a benchmark ran on, and how fast its convolutions and matrix products can be at most."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def facts(device: torch.device) -> dict[str, Any]:
    """Return the machine, its versions and the number of threads."""
    found: dict[str, Any] = {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **_processor(),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cudnn"] = torch.backends.cudnn.version()
    return found


def _processor() -> dict[str, Any]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return {"processor": platform.processor(), "flags": []}
    lines = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in text.split("\n"))}
    flags = lines.get("flags", "").split()
    return {"processor": lines.get("model name", ""), "flags": [f for f in FLAGS if f in flags]}


def wait(device: torch.device) -> None:
    """Wait until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: torch.device, *, repeats: int, warm: int) -> float:
    """Return the median seconds of a call."""
    for _ in range(warm):
        run()
    wait(device)
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        wait(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def convolution_rate(device: torch.device, dtype: torch.dtype, batch: int = 1) -> float:
    """Return the FLOP/s of the residual block's 3x3 convolution, forward and backward.

    256 to 256 channels at 64 x 64 pixels, where four fifths of a generator's work lie.
    """
    layout = torch.channels_last
    images = torch.randn(batch, 256, 66, 66, device=device, dtype=dtype)
    kernel = torch.randn(256, 256, 3, 3, device=device, dtype=dtype)
    images, kernel = (each.contiguous(memory_format=layout) for each in (images, kernel))
    images.requires_grad_()
    kernel.requires_grad_()
    gradient = torch.randn_like(F.conv2d(images, kernel).detach())

    def run() -> None:
        images.grad = kernel.grad = None
        F.conv2d(images, kernel).backward(gradient)

    flops = 3 * 2 * 256 * 256 * 9 * 64 * 64 * batch
    return flops / seconds(run, device, repeats=9, warm=3)


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int = 8192) -> float:
    """Return the FLOP/s of a large matrix product."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b, device, repeats=9, warm=3)
