"""MLflow: a database in the run folder, unless the user has set MLFLOW_TRACKING_URI."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from medxlate.tracking.tracker import Place

EXPERIMENT = "medxlate"
MOST_PARAMS = 100  # that MLflow takes at once
LONGEST = 500  # characters of a parameter that every version of it keeps


class MLflow:
    """Keeps a run in MLflow; look at it with ``mlflow ui --backend-store-uri``.

    Images are kept where the database is the run folder's own.

    Args:
        place: Where and as what.
    """

    def __init__(self, place: Place) -> None:
        given = None if place.offline else os.environ.get("MLFLOW_TRACKING_URI")
        folder = place.folder.resolve()
        self._is_local = given is None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the database library's, about MLflow
            self._client = MlflowClient(tracking_uri=given or f"sqlite:///{folder / 'mlflow.db'}")
            self._run = self._find_or_make(place, folder)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Keep figures after a step."""
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def text(self, step: int, name: str, text: str) -> None:
        """Keep a sentence as a tag."""
        self._client.set_tag(self._run, name.replace("/", "."), f"step {step}: {text}"[:LONGEST])

    def image(self, step: int, name: str, path: Path) -> None:
        """Keep a picture beside the database."""
        if self._is_local:
            self._client.log_artifact(self._run, str(path), "samples")

    def finish(self) -> None:
        """End the run."""
        self._client.set_terminated(self._run)

    def _find_or_make(self, place: Place, folder: Path) -> str:
        """Return the id of the run of this name and place, which a continued training has."""
        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            experiment = found.experiment_id
        else:
            artifacts = (folder / "artifacts").as_uri() if self._is_local else None
            experiment = self._client.create_experiment(EXPERIMENT, artifact_location=artifacts)
        memo = folder / "run-id"
        if memo.is_file():
            run = memo.read_text(encoding="utf-8").strip()
            self._client.set_terminated(run, status="RUNNING")
            return run
        run = str(self._client.create_run(experiment, run_name=place.name).info.run_id)
        params = [Param(k, str(v)[:LONGEST]) for k, v in place.settings.items()]
        for at in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(run, params=params[at : at + MOST_PARAMS])
        memo.write_text(run + "\n", encoding="utf-8")
        return run


start = MLflow
