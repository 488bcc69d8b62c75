"""The whole way from Python, on generated patients: under a minute on a processor.

Run ``python examples/python_api.py OUT``. The settings are those of preset ``debug``: they show how
the pieces fit and are far too small to learn anything.
"""

from __future__ import annotations

import sys
from pathlib import Path

import medxlate
from medxlate.base.events import EpochEnded, Event
from medxlate.config import resolve
from medxlate.dataset.options import PrepareOptions
from medxlate.phantoms.files import write_phantoms


def main(out: Path) -> None:
    """Write everything below ``out``."""
    write_phantoms(out / "raw", patients={"ct": 12, "mri": 16}, slices=2, size=48)

    ages = PrepareOptions(label="PatientAge", window=(40, 120))
    medxlate.prepare(out / "raw/ct", modality="ct", data=out / "data", size=32, options=ages)
    table = out / "raw/mri/labels.csv"
    columns = PrepareOptions(labels=table, label="age", file="file", patient="patient")
    medxlate.prepare(out / "raw/mri", modality="mri", data=out / "data", options=columns)

    config = resolve(
        preset="debug",
        overrides={"data": {"folder": str(out / "data"), "sources": ["mri"], "target": "ct"}},
    )
    run = medxlate.train(config, runs=out / "runs", listener=show).run

    medxlate.translate(out / "raw/mri", out=out / "fake_ct", model=run)
    ages_found = medxlate.predict(out / "raw/ct", out=out / "ages.csv", model=run).table
    evaluation = medxlate.evaluate(run)
    print(ages_found.tail(3).to_string(index=False))
    for metric in evaluation.results.metrics:
        if metric.level != "image" or metric.of == "model":
            print(
                metric.level or metric.source, metric.label, metric.value, metric.low, metric.high
            )


def show(event: Event) -> None:
    """Print what the training tells; every part of the library is silent without a listener."""
    if isinstance(event, EpochEnded):
        print(f"epoch {event.epoch}: {dict(event.metrics)}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example"))
