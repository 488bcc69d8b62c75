"""Sum up what ``gpu.sh`` has measured so far: shares of the matrix rate, ratios to the textbook.

    python benchmarks/gpu_summary.py OUT PARTS   # reads OUT/*.json and PARTS, writes OUT/gpu.json
    python benchmarks/gpu_summary.py best FILE   # prints the batch size of the highest rate

It needs nothing but Python, so that there is a summary whatever failed before.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOG_LINES = 12  # of a part that failed
AIMS = {"of_matrix_rate": 0.45, "ratio_at_batch_1": 8.0}


def read(path: Path) -> dict[str, Any]:
    """Return what a part wrote; nothing where it did not."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def parts(folder: Path) -> dict[str, dict[str, Any]]:
    """Return how each part ended, and the end of what it printed where it failed."""
    found: dict[str, dict[str, Any]] = {}
    for line in (folder / "parts").read_text(encoding="utf-8").splitlines():
        name, code, seconds = line.split()
        found[name] = {"exit": code, "seconds": int(seconds)}
        log = folder / f"{name}.txt"
        if log.exists():
            text = log.read_text(encoding="utf-8", errors="replace")
            said = [line for line in text.splitlines() if line.strip()]
            found[name]["said"] = said[-1:] if code == "0" else said[-LOG_LINES:]
    return found


def races(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the races of a report that ended."""
    return [race for race in report.get("races", ()) if "error" not in race]


def best_batch(report: Mapping[str, Any]) -> int:
    """Return the batch size at which medxlate's step takes most pairs of images a second."""
    return int(max(races(report), key=lambda r: r["pairs_per_second"]["medxlate"])["batch_size"])


def summary(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of the races and the ratios, as far as they are known.

    Args:
        reports: What ``benchmarks.training`` wrote: ``race``, ``batches`` (eager) and ``best``.
    """
    rate = next((r["matrix_flops"]["bf16"] for r in reports.values() if "matrix_flops" in r), None)
    found: dict[str, Any] = {"matrix_flops": rate, "aims": AIMS}
    for name, report in reports.items():
        found[name] = [_figures(race, rate) for race in races(report)]
    for race in races(reports.get("race", {})):
        found["ratio_at_batch_1"] = race["ratio"]
        textbook = race["pairs_per_second"].get("textbook")
        found["textbook_pairs_per_second"] = textbook
        for best in races(reports.get("best", {})):
            if textbook:
                found["ratio_at_best_batch"] = best["pairs_per_second"]["medxlate"] / textbook
    return found


def _figures(race: Mapping[str, Any], rate: float | None) -> dict[str, Any]:
    flops = race["flops"] / race["median_seconds"]["medxlate"]
    return {
        "batch_size": race["batch_size"],
        "compiled": race.get("compiled"),
        "prepare_seconds": race.get("prepare_seconds"),
        "pairs_per_second": race["pairs_per_second"]["medxlate"],
        "flops": flops,
        "of_matrix_rate": flops / rate if rate else None,
        "memory_bytes": race["memory_bytes"].get("medxlate"),
        "parts": race["parts"],
        "notes": race.get("notes"),
    }


def main() -> None:
    """Write the summary, or print the best batch."""
    if sys.argv[1] == "best":
        print(best_batch(read(Path(sys.argv[2]))))
        return
    out = Path(sys.argv[1])
    reports = {name: read(out / f"{name}.json") for name in ("race", "batches", "best")}
    training = {name: each for name, each in reports.items() if each}
    machine = next((each["machine"] for each in training.values() if "machine" in each), None)
    translated = read(out / "translate.json")
    found = {
        "machine": machine,
        **summary(training),
        "translate": {
            name: translated[name]
            for name in ("ratio", "slices_per_second", "reading_and_writing")
            if name in translated
        },
        "parts": parts(Path(sys.argv[2])),
    }
    text = json.dumps(found, indent=1)
    (out / "gpu.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
