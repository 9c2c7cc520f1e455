"""Runs that a script recorded, in one comparison with runs that catdog trained."""

from pathlib import Path

import mlflow
import numpy as np
import pytest
from support import TINY, Study

import catdog


@pytest.mark.slow
def test_recorded_runs_stand_beside_catdogs_own(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CATDOG_CACHE", str(study.cache))
    recorded = catdog.Study("theirs", tracking_uri=study.uri)
    val = recorded.split("val", dataset=[word for word in TINY if word.startswith("dataset")])
    with recorded.record("their net", config={"rate": 1}) as run:
        run.log_validation(val.files, val.labels, np.eye(2)[val.labels])
    client = mlflow.MlflowClient(study.uri, study.uri)
    experiment = client.get_experiment_by_name("cats_vs_dogs")
    own = [found.info.run_id for found in client.search_runs([experiment.experiment_id], "tags.`catdog.kind` = 'run'")]
    found = recorded.compare(runs=[*own, run.run_id], gradcam="never").analysis
    assert len(own) == 4
    assert found.comparison.same_data
    assert found.best is not None
    assert found.best.name == "their net"
    assert len(found.verdicts) == 10
