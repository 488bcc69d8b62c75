"""A project of two evaluated runs, and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medxlate.evaluation.evaluate import evaluate
from medxlate.report.run_report import write_report
from medxlate.training.train import train
from tiny import debug_config, write_dataset

CHROMIUM = "/usr/bin/chromium"


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    config = debug_config(write_dataset(root))
    train(config, runs=root / "runs", name="joint")
    train(config.model_copy(update={"method": "target-only"}), runs=root / "runs", name="alone")
    for name in ("joint", "alone"):
        evaluate(root / "runs" / name, device="cpu")
    return root


@pytest.fixture(scope="session")
def page(project: Path) -> Path:
    return write_report(project / "runs" / "joint", baseline=project / "runs" / "alone").path


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    with api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Any]:
    """The page as it is opened, and a check that nothing went wrong in it."""
    wrong: list[str] = []
    context = browser.new_context(viewport={"width": 1100, "height": 900}, color_scheme="light")
    tab = context.new_page()
    # The browser advises the tests themselves, which read canvases back.
    tab.on("console", lambda m: "readback" in m.text or wrong.append(m.text))
    tab.on("pageerror", lambda problem: wrong.append(str(problem)))
    tab.on(
        "request",
        lambda asked: (
            None
            if asked.url.startswith(("data:", "blob:", page.as_uri()))
            else wrong.append(asked.url)
        ),
    )
    tab.goto(page.as_uri())
    tab.wait_for_selector(".viewer[data-current='0']")
    yield tab
    context.close()
    assert wrong == []
