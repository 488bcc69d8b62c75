"""Devices that cannot be used: what is there, and what to do, in one line each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from medxlate.base import device
from medxlate.base.device import choose_compute
from medxlate.base.distributed import Ranks
from medxlate.base.errors import UsageError

NO_DRIVER = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and..."
OLD_DRIVER = "The NVIDIA driver on your system is too old (found version 11040). Please update..."


def refused(name: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        choose_compute(name)
    return caught.value


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    def fail(text: str) -> None:
        def init() -> None:
            raise RuntimeError(text)

        monkeypatch.setattr(torch.version, "cuda", "13.2")
        monkeypatch.setattr(torch.cuda, "init", init)

    return fail


def test_a_machine_without_a_gpu(failing):
    failing(NO_DRIVER)
    problem = refused("cuda")
    assert "no NVIDIA driver was found" in problem.message
    assert "--device cpu" in problem.hint


def test_a_driver_that_is_too_old_for_torch(failing):
    failing(OLD_DRIVER)
    problem = refused("cuda:1")
    assert "the driver supports CUDA up to 11.4, and this torch needs 13.2" in problem.message
    assert "docs/how-to/install.md" in problem.hint


def test_what_torch_says_of_gpus_that_are_hidden(failing):
    failing("No CUDA GPUs are available")
    problem = refused("cuda")
    assert "No CUDA GPUs are available" in problem.message
    assert "CUDA_VISIBLE_DEVICES" in problem.hint


def test_a_torch_without_cuda(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    problem = refused("cuda")
    assert "built without CUDA" in problem.message
    assert "docs/how-to/install.md" in problem.hint


def test_a_gpu_of_too_high_a_number(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    problem = refused("cuda:9")
    assert "this process sees 2 GPUs (cuda:0 to cuda:1)" in problem.message
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert "this process sees 1 GPU (cuda:0)" in refused("cuda:1").message


def test_a_gpu_that_another_process_keeps_busy(monkeypatch: pytest.MonkeyPatch):
    """Torch finds out when it allocates: without an element it does not."""

    def empty(count: int, *, device: str) -> torch.Tensor:
        if count:
            raise RuntimeError("CUDA-capable device(s) is/are busy or unavailable\nMore.")
        return torch.zeros(0)

    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch, "empty", empty)
    assert "busy or unavailable" in refused("cuda").message


def test_what_torch_put_off_until_the_first_use_of_a_gpu(monkeypatch: pytest.MonkeyPatch):
    def init() -> None:
        raise torch.cuda.DeferredCudaCallError("CUDA call failed lazily at initialization")

    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "init", init)
    assert "failed lazily" in refused("cuda").message


def test_processes_of_a_job_without_a_gpu_and_with_too_few(
    failing: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
):
    failing(OLD_DRIVER)
    monkeypatch.setattr(device, "ranks", lambda: Ranks(rank=1, count=2))
    monkeypatch.setattr(device, "local_rank", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "the driver supports CUDA up to 11.4" in refused("cuda").message
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    problem = refused("cuda")
    assert problem.message == "This machine has 1 GPU, so process 2 has none."
    assert "--nproc-per-node" in problem.hint
