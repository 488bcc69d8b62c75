"""Where the time of a step goes, by kind of kernel."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.machine import wait

# What a kernel belongs to, by what its name holds; the first that fits. Compiled kernels are named
# after all that was fused into them (padding, norm, activation), so they are a group of their own.
GROUPS = {
    "compiled kernels (norm, padding, activation)": r"cpp_fused|triton_|CompiledFx|Torch-Compiled",
    "copies and casts": r"copy|nchwToNhwc|nhwcToNchw|Memcpy|Memset|::(cat|clone|index|fill_|zero_"
    r"|empty|contiguous|roll|stack)|CatArray|FillFunctor",
    "optimizer": r"adam|Adam|multi_tensor|_foreach|addcdiv|addcmul|lerp",
    "convolution, backward": r"convolution_backward|ConvolutionBackward|wgrad|dgrad|bgrad",
    "convolution, forward": r"conv|fprop|implicit_gemm|winograd",
    "matrix products": r"::(mm|bmm|addmm|baddbmm|linear|matmul)|gemm|cutlass|nvjet",
    "norm": r"norm|bn_|batchnorm",
    "padding": r"pad",
}
# Regions that people name, and calls that wait: their time is that of the kernels within.
_REGIONS = re.compile(r"^(ProfilerStep|Optimizer\.|##|Torch-Compiled|CompiledFunction|cuda)")


def seconds_by_group(step: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Return the seconds of a step by group of kernels: of the GPU, else of the processor."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    wait(device)
    with profile(activities=activities) as found:
        step()
        wait(device)
    groups = dict.fromkeys([*GROUPS, "other"], 0.0)
    for event in found.key_averages():
        if not on_gpu:
            groups[group_of(event.key)] += event.self_cpu_time_total / 1e6
        elif event.device_type == DeviceType.CUDA and not _REGIONS.match(event.key):
            # The calls that launched them hold the same time once more.
            groups[group_of(event.key)] += event.self_device_time_total / 1e6
    return groups


def group_of(kernel: str) -> str:
    """Return the group that a kernel or an operation of torch belongs to."""
    return next((g for g, pattern in GROUPS.items() if re.search(pattern, kernel)), "other")
