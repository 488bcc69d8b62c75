"""Which device computes, and in which precision."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medxlate.base.distributed import local_rank, ranks
from medxlate.base.errors import UsageError
from medxlate.base.events import Listener, Warned, silent

Precision = Literal["fp32", "bf16"]

# Either multiplies bfloat16 natively; without them it is emulated, about ten times slower than
# float32 (docs/benchmarks.md).
BF16_FLAGS = ("amx_bf16", "avx512_bf16")

# How torch's allocators and libraries say that memory ran out; only CUDA's has a type of its own.
OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory", "ALLOC_FAILED")

DEVICES = re.compile(r"cpu|mps|cuda(:\d{1,3})?")
INSTALL = "Install the torch build that fits this machine's driver: docs/how-to/install.md."


@dataclass(frozen=True)
class Compute:
    """A device and a precision.

    Attributes:
        device: Where tensors live.
        precision: ``bf16``: convolutions and matrix products in bfloat16 by autocast, weights,
            losses and optimizer states in float32; ``fp32``: everything in float32.
    """

    device: torch.device
    precision: Precision

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which networks run."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def choose_compute(
    device: str = "auto", precision: str = "auto", *, listener: Listener = silent
) -> Compute:
    """Choose the device and the precision.

    Args:
        device: ``auto`` (a CUDA device, else Apple's, else the processor), cpu, cuda, cuda:N or
            mps.
        precision: ``auto`` (bf16 where the hardware multiplies it natively), fp32 or bf16; where
            bf16 would only be emulated, fp32 is taken instead.
        listener: Warned of that.

    Raises:
        UsageError: The device does not exist here, or the precision at all.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise UsageError(f"Unknown precision '{precision}'.", "Use auto, fp32 or bf16.")
    chosen = _device(device)
    native = has_native_bf16(chosen)
    if precision == "bf16" and not native:
        listener(
            Warned(
                f"This {chosen.type} has no bf16 instructions, and emulating them is many times "
                "slower; using fp32 instead."
            )
        )
    if chosen.type == "cuda":
        _prepare_cuda(chosen)
    return Compute(chosen, "bf16" if native and precision != "fp32" else "fp32")


def _prepare_cuda(device: torch.device) -> None:
    """Make a GPU the one of this process, and float32 mean float32 there.

    Streams, events and captures that name no device are those of the current one: on another than
    the tensors', a result would be read before it is there. Torch computes float32 convolutions in
    TF32, with 10 bits of mantissa in place of 23, unless it is asked not to. cuBLAS looks at its
    variable when it begins, which is before anybody asks for deterministic sums.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.cuda.set_device(device)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


@contextmanager
def tuned_convolutions(device: torch.device) -> Iterator[None]:
    """Let cuDNN choose its algorithms by trying them, while the block runs: for steps of one shape.

    Not where only deterministic algorithms are allowed, nor on other devices.
    """
    before = torch.backends.cudnn.benchmark
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Allow only algorithms that give the same bits each time, while the block runs, if ``on``."""
    before = torch.are_deterministic_algorithms_enabled()
    if on:
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def full_precision(values: Tensor) -> Tensor:
    """Return bfloat16 as float32, in which losses are taken; float32 and float64 stay."""
    return values.float() if values.dtype == torch.bfloat16 else values


def has_native_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return not cpu_flags().isdisjoint(BF16_FLAGS)
    return False


def is_out_of_memory(problem: BaseException) -> bool:
    """Return whether an exception says that memory ran out, on whatever device."""
    if isinstance(problem, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(problem, RuntimeError) and any(s in str(problem) for s in OUT_OF_MEMORY)


def _device(name: str) -> torch.device:
    if not ranks().is_alone:
        name = _device_of_rank(name)
    if name == "auto":
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        name = next((each for each, is_there in there.items() if is_there), "cpu")
    if not DEVICES.fullmatch(name):
        raise UsageError(f"Unknown device '{name}'.", "Use auto, cpu, cuda, cuda:N or mps.")
    refusal = None
    if name.startswith("cuda"):
        refusal = cuda_refusal() or _number_refusal(name)
    elif name == "mps" and not torch.backends.mps.is_available():
        refusal = Refusal("torch finds no Apple GPU", "Use auto or cpu.")
    if refusal is not None:
        raise UsageError(f"The device '{name}' cannot be used: {refusal.why}.", refusal.fix)
    try:
        # With its number, also where only "cuda" was asked for: 0, or what the process was given.
        # Without an element, torch would not find out that another process keeps the GPU busy.
        return torch.empty(1, device=name).device
    except RuntimeError as problem:
        first = str(problem).splitlines()[0]
        raise UsageError(
            f"The device '{name}' cannot be used: {first}", "Run `medxlate doctor` for details."
        ) from None


@dataclass(frozen=True)
class Refusal:
    """Why a device cannot be used.

    Attributes:
        why: The reason, without a full stop.
        fix: What to do about it.
    """

    why: str
    fix: str


def cuda_refusal() -> Refusal | None:
    """Return why torch cannot use a GPU of NVIDIA's (or AMD's) here; None where it can."""
    if torch.version.cuda is None and torch.version.hip is None:
        return Refusal("this torch was built without CUDA", INSTALL)
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as problem:
        first = str(problem).splitlines()[0].rstrip(".")
    else:
        return None
    if old := re.search(r"too old \(found version (\d+)\)", first):
        most = f"{int(old[1]) // 1000}.{int(old[1]) % 1000 // 10}"
        return Refusal(
            f"the driver supports CUDA up to {most}, and this torch needs {torch.version.cuda}",
            "Update the driver, or install the torch build that fits it: docs/how-to/install.md.",
        )
    if "no NVIDIA driver" in first:
        return Refusal(
            "no NVIDIA driver was found",
            "Use --device cpu or a machine with a GPU. Start a container with access to the GPUs "
            "(docker --gpus all, apptainer --nv).",
        )
    return Refusal(first, "Check `nvidia-smi` and CUDA_VISIBLE_DEVICES.")


def _number_refusal(name: str) -> Refusal | None:
    """Return why there is no GPU of a number such as cuda:9."""
    count, number = torch.cuda.device_count(), int(name.partition(":")[2] or 0)
    if number < count:
        return None
    there = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
    return Refusal(
        f"this process sees {count} GPU{'s' * (count > 1)} ({there})",
        "Choose one of these, or change CUDA_VISIBLE_DEVICES.",
    )


def _device_of_rank(name: str) -> str:
    """Return the device of this process among several: a GPU of its own, or the processor."""
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"The device '{name}' cannot be shared by several processes.", "Use auto, cpu or cuda."
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return name
    count = torch.cuda.device_count()
    if 0 < count <= local_rank():  # without any, the reason follows from ``cuda_refusal``
        raise UsageError(
            f"This machine has {count} GPU{'s' * (count > 1)}, so process {local_rank() + 1} has "
            "none.",
            "Lower torchrun's --nproc-per-node, or use --device cpu.",
        )
    return f"cuda:{local_rank()}"


def cpu_flags() -> frozenset[str]:
    """Return the processor's instructions as Linux names them; none on other systems."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="ignore") as stream:
            for line in stream:
                if line.startswith("flags"):
                    return frozenset(line.partition(":")[2].split())
    except OSError:  # not Linux
        pass
    return frozenset()
