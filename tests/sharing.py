"""Trainings that several processes share; ``test_ranks.py`` starts this file with torchrun.

python -m torch.distributed.run --nproc-per-node 2 tests/sharing.py cases DATA OUT
python -m torch.distributed.run ... tests/sharing.py killed MARK.1 train ...
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from doubling import double
from medxlate.base.device import choose_compute
from medxlate.base.distributed import joined, ranks
from medxlate.base.errors import ConfigError, StoppedError, UsageError
from medxlate.base.events import Event, Progress, StepLogged
from medxlate.cli.app import main
from medxlate.config import Config
from medxlate.method.synced_norm import SyncedBatchNorm, synchronise
from medxlate.training.loader import TrainLoader
from medxlate.training.setup import check_config
from medxlate.training.train import resume, train
from medxlate.training.validation import Validation
from medxlate.training.verify import verify_resume

STEPS = 6
FILLED = {"buffer_size": 3}  # the buffers are full early, so that their draws count
CASES: Mapping[str, Mapping[str, Any]] = {
    "joint": {"optimizer": {**FILLED, "ema_decay": 0.5}},
    "uneven": {"optimizer": {**FILLED, "batch_size": 3}},
    "parts": {"runtime": {"sync_bn": False}},  # as one process with runtime.accumulate=2
    "dann": {"method": "dann"},
    "matched": {"method": "raw-mix", "data": {"match_labels": True}},
}


def config_of(data: Path, case: str) -> Config:
    sections: dict[str, Any] = {
        "optimizer": {**FILLED, "batch_size": 4, "epochs": 1, "steps_per_epoch": STEPS},
        **{k: v for k, v in CASES[case].items() if k != "optimizer"},
    }
    sections["optimizer"] |= CASES[case].get("optimizer", {})
    return tiny.debug_config(data, **sections)


def run_case(config: Config, out: Path, name: str) -> list[dict[str, float]]:
    """Train in float64 and return the losses of each step, as all processes have them."""
    losses: list[dict[str, float]] = []

    def listener(event: Event) -> None:
        if isinstance(event, StepLogged):
            losses.append(dict(event.losses))

    with pytest.MonkeyPatch.context() as patch:
        double(patch)
        patch.setattr(Validation, "metrics", lambda self: {"val_error": 1.0})
        patch.setattr(Validation, "write_samples", lambda *_: None)
        patch.setattr(Validation, "translations", lambda self: {})
        train(config, runs=out / "runs", name=name, listener=listener)
    return losses


def stop_after(config: Config, out: Path, name: str, step: int) -> None:
    """Train, in float64 and without validation, until the second process asks to stop."""
    taken = [0]

    def listener(event: Event) -> None:
        if isinstance(event, Progress):
            taken[0] = event.done

    def stop() -> str:
        return "the test" if ranks().rank == 1 and taken[0] >= step else ""

    with pytest.MonkeyPatch.context() as patch:
        double(patch)
        with pytest.raises(StoppedError):
            train(config, runs=out / "runs", name=name, stop=stop, listener=listener)


def finish(run: Path) -> None:
    """Resume what ``stop_after`` stopped, in as many processes as there are now."""
    with pytest.MonkeyPatch.context() as patch:
        double(patch)
        patch.setattr(Validation, "metrics", lambda self: {"val_error": 1.0})
        patch.setattr(Validation, "write_samples", lambda *_: None)
        patch.setattr(Validation, "translations", lambda self: {})
        resume(run)


def check_refusals(data: Path) -> None:
    alone = tiny.debug_config(data, optimizer={"batch_size": 1})
    with pytest.raises(ConfigError, match="batch of 1 cannot be divided among 2 processes"):
        check_config(alone)
    odd = tiny.debug_config(data, optimizer={"batch_size": 3}, runtime={"accumulate": 2})
    with pytest.raises(ConfigError, match="multiple of 2"):
        check_config(odd)
    with pytest.raises(UsageError, match="cannot be shared by several processes"):
        choose_compute("cuda:0")
    with pytest.raises(UsageError, match="without torchrun"):
        verify_resume(tiny.debug_config(data))


def norm_gradients(images: torch.Tensor) -> dict[str, list[float]]:
    """Return outputs and gradients of a norm between two convolutions; all images, all ranks."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 1, 3)
    ).double()
    if not ranks().is_alone:
        synchronise(network)
        assert isinstance(network[1], SyncedBatchNorm)
    mine = images[ranks().part(len(images))]
    outputs = network(mine)
    (outputs**3).sum().backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    if not ranks().is_alone:
        for gradient in found.values():
            torch.distributed.all_reduce(gradient)
        outputs = torch.cat(ranks().gather_rows(outputs.detach()))
    found |= {"outputs": outputs, "mean": network[1].running_mean, "var": network[1].running_var}
    return {name: value.flatten().tolist() for name, value in found.items()}


def some_images() -> torch.Tensor:
    return torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def run_cases(data: Path, out: Path) -> None:
    with joined():
        assert not ranks().is_alone
        found = {case: run_case(config_of(data, case), out, case) for case in CASES}
        every = ranks().gather(found)
        assert all(each == every[0] for each in every)
        stop_after(config_of(data, "joint"), out, "stopped", 3)
        check_refusals(data)
        norm = norm_gradients(some_images())
        if ranks().is_first:
            (out / "losses.json").write_text(json.dumps(found))
            (out / "norm.json").write_text(json.dumps(norm))


def run_killed(mark: Path, words: list[str]) -> None:
    """Run the command line; one process is killed once, before step 8, and leaves a mark."""
    take = TrainLoader.take

    def killing(self: TrainLoader, step: int) -> Any:
        if step == 7 and os.environ["RANK"] == mark.suffix[1:] and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return take(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainLoader, "take", killing)
        sys.argv = ["medxlate", *words]
        main()


if __name__ == "__main__":
    if sys.argv[1] == "cases":
        run_cases(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        run_killed(Path(sys.argv[2]), sys.argv[3:])
