"""Sum up what ``gpu.sh`` measured: best batch, shares of the matrix rate, ratios to the textbook.

    python benchmarks/gpu_summary.py OUT        # reads OUT/*.json and OUT/logs, writes OUT/gpu.json

It needs nothing but Python, so that there is a summary whatever failed before.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

LOG_LINES = 12  # of a part that failed


def read(path: Path) -> dict[str, Any]:
    """Return what a part wrote; nothing where it did not."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def parts(out: Path) -> dict[str, dict[str, Any]]:
    """Return how each part ended, and the end of what it printed where it failed."""
    found: dict[str, dict[str, Any]] = {}
    for line in (out / "logs" / "parts").read_text(encoding="utf-8").splitlines():
        name, code, seconds = line.split()
        found[name] = {"exit": code, "seconds": int(seconds)}
        log = out / "logs" / f"{name}.txt"
        if log.exists():
            text = log.read_text(encoding="utf-8", errors="replace")
            said = [line for line in text.splitlines() if line.strip()]
            found[name]["said"] = said[-1:] if code == "0" else said[-LOG_LINES:]
    return found


def summary(reports: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of the races, by batch size, and the ratios.

    Args:
        reports: What ``benchmarks.training`` wrote, by the name of the part.
    """
    races = {
        race["batch_size"]: race
        for name, report in reports.items()
        for race in report.get("races", ())
        if name.startswith("training-") and "error" not in race
    }
    rate = next((r["matrix_flops"]["bf16"] for r in reports.values() if "matrix_flops" in r), None)
    batches = {
        size: {
            "pairs_per_second": race["pairs_per_second"]["medxlate"],
            "flops": race["flops"] / race["median_seconds"]["medxlate"],
            "of_matrix_rate": race["flops"] / race["median_seconds"]["medxlate"] / rate
            if rate
            else None,
            "memory_bytes": race["memory_bytes"].get("medxlate"),
            "parts": race["parts"],
        }
        for size, race in sorted(races.items())
    }
    found: dict[str, Any] = {"matrix_flops": rate, "batches": batches}
    textbook = races.get(1, {}).get("pairs_per_second", {}).get("textbook")
    if batches:
        best = max(batches, key=lambda size: float(batches[size]["pairs_per_second"]))
        found["best_batch"] = best
        if textbook:
            found["textbook_pairs_per_second"] = textbook
            found["ratio_at_batch_1"] = races[1]["ratio"]
            found["ratio_at_best_batch"] = batches[best]["pairs_per_second"] / textbook
    return found


def main() -> None:
    """Write and print the summary."""
    out = Path(sys.argv[1])
    reports = {path.stem: read(path) for path in sorted(out.glob("*.json"))}
    training = {name: each for name, each in reports.items() if "races" in each}
    machine = next((each["machine"] for each in training.values() if "machine" in each), None)
    found = {"machine": machine, **summary(training), "parts": parts(out)}
    translated = reports.get("translate", {})
    found["translate"] = {
        name: translated.get(name)
        for name in ("ratio", "slices_per_second", "reading_and_writing")
        if name in translated
    }
    text = json.dumps(found, indent=1)
    (out / "gpu.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
