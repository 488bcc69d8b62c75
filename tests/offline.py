"""Runs prepare, train, translate and evaluate where no connection can be opened.

``python offline.py FOLDER``: every process, those that are spawned too, refuses to open a socket
that is not for the machine's own processes, and to look up a name. Attempts are kept in
``FOLDER/attempts`` as well, for a library may swallow the error.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any


def forbid(log: Path) -> None:
    """Let every attempt at a connection fail, and write it down."""

    def refuse(*arguments: Any, **_: Any) -> Any:
        with log.open("a") as stream:
            stream.write(f"{os.getpid()} {arguments!r}\n")
        raise OSError("no connection may be opened here")

    usual = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> Any:
        return usual(self, address) if self.family == socket.AF_UNIX else refuse(address)

    socket.socket.connect = connect  # type: ignore[method-assign]
    socket.socket.connect_ex = refuse  # type: ignore[method-assign]
    socket.socket.sendto = refuse  # type: ignore[method-assign]
    socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse


def work(folder: Path) -> None:
    """Go the whole way, in several processes where there are any."""
    import tiny
    from medxlate.dataset.options import PrepareOptions
    from medxlate.dataset.prepare import prepare
    from medxlate.evaluation.evaluate import evaluate
    from medxlate.inference.predict import predict
    from medxlate.inference.translate import translate
    from medxlate.training.train import train

    tiny.write_raw(folder / "raw")
    options = PrepareOptions(
        labels=folder / "raw" / "labels.csv", label="age", workers=2,
        patient=rf"regex:({tiny.PREFIX}\d\d)", patient_column="patient",
    )  # fmt: skip
    for name in tiny.PATIENTS:
        raw = folder / "raw" / name
        prepare(raw, modality=name, data=folder / "data", options=options, size=tiny.SIZE)
    config = tiny.debug_config(folder / "data", runtime={"offline": True}, optimizer={"epochs": 1})
    run = train(config, runs=folder / "runs").run
    raw = folder / "raw" / "mri"
    translate(raw, out=folder / "out", model=run, device="cpu")
    predict(raw, out=folder / "predictions.csv", model=run, device="cpu")
    evaluate(run, device="cpu")
    # The paper's own way to begin is a download: it is refused here before one is tried.
    from medxlate.base.errors import ModelError

    changed = config.model_copy(
        update={"model": config.model.model_copy(update={"pretrained": "imagenet"})}
    )
    refused = ""
    try:
        train(changed, runs=folder / "runs")
    except ModelError as problem:
        refused = str(problem)
    if "runtime.offline forbids downloading" not in refused:
        raise SystemExit(f"a download was not refused: {refused}")


def main() -> None:
    """Run in a process of its own."""
    work(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
