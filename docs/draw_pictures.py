"""Draw the pictures of the documentation anew.

    medxlate demo --out demo
    python docs/draw_pictures.py demo

takes ``demo.png`` from a finished demo, and photographs the top of its report as ``report.png``
(it needs playwright and Chromium). The others come from programs that measure for longer:

    python -m benchmarks.scaling --repeats 1 --steps 10 --plot docs/scaling.png
    cd tests && python -m torture --kills 30 --seed 0 --out torture      # torture/kills.png
    python docs/draw_pictures.py --study STUDY                           # study-errors.png

``translations.png`` shows three trainings on generated heads, which ``docs/results.md`` describes.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

DOCS = Path(__file__).resolve().parent
CHROMIUM = Path("/usr/bin/chromium")
SIZE = {"width": 1100, "height": 1010}  # pixels of the photograph


def from_demo(folder: Path) -> None:
    """Write demo.png and report.png from a finished demo."""
    from medxlate.report.run_report import write_report
    from medxlate.walkthrough import METHODS, draw

    draw({method: folder / "runs" / method for method in METHODS}, folder / "demo.png")
    shutil.copy(folder / "demo.png", DOCS / "demo.png")
    photograph(write_report(folder / "runs" / "joint").path, DOCS / "report.png")


def photograph(page: Path, picture: Path) -> None:
    """Write the top of a page as a PNG."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        where = str(CHROMIUM) if CHROMIUM.exists() else None
        browser = play.chromium.launch(executable_path=where, args=["--no-sandbox"])
        tab = browser.new_page(viewport=SIZE, color_scheme="light")
        tab.goto(page.resolve().as_uri())
        tab.wait_for_timeout(500)
        tab.screenshot(path=picture)
        browser.close()


def from_study(folder: Path) -> None:
    """Write study-errors.png from a study folder."""
    import pandas as pd

    from medxlate.report.comparison_charts import error_plot
    from medxlate.study.study_charts import measure, references, systems_of

    results, predictions = (
        pd.read_parquet(folder / f"{name}.parquet") for name in ("results", "predictions")
    )
    results, predictions = (
        each.assign(sources=each["sources"].fillna("")) for each in (results, predictions)
    )
    error_plot(
        DOCS / "study-errors.png",
        systems_of(results, predictions),
        label=f"{measure('', results)} (lower is better)",
        references=references(results),
    )


def main() -> None:
    """Draw what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, nargs="?", help="A folder that the demo wrote.")
    parser.add_argument("--study", type=Path, help="A study that compare has finished.")
    given = parser.parse_args()
    if given.demo:
        from_demo(given.demo)
    if given.study:
        from_study(given.study)


if __name__ == "__main__":
    main()
