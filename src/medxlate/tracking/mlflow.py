"""MLflow: a database in the run folder, unless the user has set MLFLOW_TRACKING_URI."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from medxlate.tracking.tracker import TrackedRun

EXPERIMENT = "medxlate"
MOST_PARAMS = 100  # MLflow's limit for one call
LONGEST = 500  # characters of a parameter that all versions of MLflow keep


class MLflow:
    """Keeps a run in MLflow; look at it with ``mlflow ui --backend-store-uri``.

    Images are kept where the database is the run folder's own.

    Args:
        run: Where and as what to keep it.
    """

    def __init__(self, run: TrackedRun) -> None:
        given = None if run.offline else os.environ.get("MLFLOW_TRACKING_URI")
        folder = run.folder.resolve()
        self._is_local = given is None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the database library's, about MLflow
            self._client = MlflowClient(tracking_uri=given or f"sqlite:///{folder / 'mlflow.db'}")
            self._run_id = self._find_or_make(run, folder)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Keep figures after a step."""
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def text(self, step: int, name: str, text: str) -> None:
        """Keep a sentence as a tag."""
        self._client.set_tag(self._run_id, name.replace("/", "."), f"step {step}: {text}"[:LONGEST])

    def image(self, step: int, name: str, path: Path) -> None:
        """Keep a picture beside the database."""
        if self._is_local:
            self._client.log_artifact(self._run_id, str(path), "samples")

    def finish(self) -> None:
        """End the run."""
        self._client.set_terminated(self._run_id)

    def _find_or_make(self, run: TrackedRun, folder: Path) -> str:
        """Return the id of this run in MLflow; a resumed training keeps the one that it had."""
        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            experiment = found.experiment_id
        else:
            artifacts = (folder / "artifacts").as_uri() if self._is_local else None
            experiment = self._client.create_experiment(EXPERIMENT, artifact_location=artifacts)
        memo = folder / "run-id"
        if memo.is_file():
            run_id = memo.read_text(encoding="utf-8").strip()
            self._client.set_terminated(run_id, status="RUNNING")
            return run_id
        run_id = str(self._client.create_run(experiment, run_name=run.name).info.run_id)
        params = [Param(k, str(v)[:LONGEST]) for k, v in run.settings.items()]
        for start in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(run_id, params=params[start : start + MOST_PARAMS])
        memo.write_text(run_id + "\n", encoding="utf-8")
        return run_id


start = MLflow
