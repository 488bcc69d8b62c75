"""What the processes of a job do in ``test_divided.py``; torchrun starts this file.

``all ROOT``: the four commands, one after the other. ``killed ROOT``: a translation in which
the second process ends by SIGKILL. ``full ROOT``: the command, where the second process finds the
disk full.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from medxlate.base.distributed import joined, ranks
from medxlate.cli.app import app
from medxlate.dataset import parts as parts_module
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.prepare import prepare
from medxlate.evaluation import judge as judge_module
from medxlate.evaluation import subject as subject_module
from medxlate.evaluation.evaluate import evaluate
from medxlate.inference import stream as stream_module
from medxlate.inference.outputs import Outputs
from medxlate.inference.predict import predict
from medxlate.inference.translate import translate

TAGS = PrepareOptions(label="tag:PatientAge", patient="tag:PatientID")


def small_units() -> None:
    """Make units and batches so small that there are several, and a judge that takes a second."""
    judge_module.ARCHITECTURE, judge_module.STEPS = "test_resnet", (6, 6)
    stream_module.BATCHES = 1
    subject_module.BATCHES = {"cpu": 1}


def translation(root: Path, out: Path) -> Any:
    return translate(
        root / "raw",
        out=out,
        model=root / "model",
        key=root / "pseudonym.key",
        device="cpu",
        batch_size=3,
        force=True,  # the same CT is translated and predicted from
    )


def everything(root: Path, out: Path) -> dict[str, Any]:
    """Run the four commands; return what they say, but for places and times."""
    prepared = prepare(root / "raw", modality="ct", data=out / "data", options=TAGS, size=32)
    again = prepare(root / "raw", modality="ct", data=out / "data", options=TAGS, size=32)
    translated = translation(root, out / "images")
    predicted = predict(
        root / "raw", out=out / "p.csv", model=root / "model", device="cpu", batch_size=3
    )
    found = evaluate(root / "runs" / "joint", device="cpu").results
    evaluated = found.model_dump(mode="json", exclude={"seconds"})
    return {
        "prepared": [prepared.state, prepared.images, dict(prepared.skipped), again.state],
        "translated": [translated.files, translated.slices, translated.failed],
        "predicted": [len(predicted.table), predicted.failed],
        "evaluated": evaluated,
    }


def count_scans() -> list[str]:
    """Return a list that will hold the scans that ``prepare`` reads in this process."""
    read: list[str] = []
    original = parts_module.open_slices

    def counted(scan: Any, *arguments: Any) -> Any:
        read.append(scan.name)
        return original(scan, *arguments)

    parts_module.open_slices = counted
    return read


def die_after(calls: int) -> None:
    """End this process by SIGKILL amid a translation."""
    put = Outputs.put

    def counted(self: Outputs, *arguments: Any) -> None:
        nonlocal calls
        calls -= 1
        if calls < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        put(self, *arguments)

    Outputs.put = counted  # type: ignore[method-assign]


def fill_disk_of_the_second() -> None:
    def full(self: Outputs, *_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x.dcm")

    if os.environ["RANK"] == "1":
        Outputs.put = full  # type: ignore[method-assign]


def main(what: str, root: Path) -> None:
    torch.set_num_threads(1)
    small_units()
    if what == "full":
        fill_disk_of_the_second()
        words = [
            "translate",
            root / "raw",
            "--force",
            "--out",
            root / "full",
            "--model",
            root / "model",
        ]
        words += ["--key", root / "pseudonym.key", "--device", "cpu", "--batch-size", "3"]
        app([str(word) for word in words])
    with joined() as team:
        if what == "killed":
            if ranks().rank == 1:
                die_after(9)
            translation(root, root / "killed")
        else:
            read = count_scans()
            said = everything(root, root / "shared")
            (root / f"read-{team.rank}.json").write_text(json.dumps(read))
            (root / f"said-{team.rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
