"""What runs have stored, read back: what is not there is none, what cannot be read is an error that names it."""

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from catdog.data.predictions import Predictions
from catdog.system.errors import UserError
from catdog.tracking import TrackedRun
from catdog.tracking.artifacts import encode_table, load_bytes, load_history, load_predictions, load_table


def test_what_is_not_there_is_none(tmp_path) -> None:
    assert load_bytes(str(tmp_path), "predictions/val.csv") is None
    assert load_table(f"file://{tmp_path}", "predictions/val.csv").empty
    assert len(load_predictions(str(tmp_path))) == 0
    assert load_history(str(tmp_path)) is None


def test_names_stay_as_they_are(tmp_path) -> None:
    (tmp_path / "val.csv").write_text("file,label,NA\n007,NA,0.5\n")
    table = load_table(str(tmp_path), "val.csv")
    assert table.iloc[0].tolist() == ["007", "NA", 0.5]


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.write_text("")])
def test_what_cannot_be_read_is_not_taken_for_absent(tmp_path, make) -> None:
    """Else a comparison would go on with fewer runs, and say nothing."""
    make(tmp_path / "val.csv")
    with pytest.raises(UserError, match=r"val\.csv .*(cannot be read|damaged)"):
        load_table(str(tmp_path), "val.csv")


def test_damaged_answers_and_histories_are_named(tmp_path) -> None:
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "val.csv").write_text("file,label,cats\n1.jpg,cats\n")
    (tmp_path / "history.csv").write_text("epoch,val/loss\n1,")
    with pytest.raises(UserError, match=r"predictions/val\.csv is damaged: .*\. Delete its run in MLflow"):
        load_predictions(str(tmp_path))
    assert len(load_history(str(tmp_path))) == 1
    (tmp_path / "history.csv").write_text("")
    with pytest.raises(UserError, match=r"history\.csv is damaged"):
        load_history(str(tmp_path))


def test_long_tables_are_parquet_and_read_like_short_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"train/NA/{number:03d}.jpg" for number in range(12)]
    split = pd.DataFrame({"file": names, "label": "007", "sha256": "0" * 64, "split": "val"})
    answers = Predictions.build(names, ["NA"] * 12, ("NA", "007"), np.array([[0.25, 0.75]] * 12, np.float32))
    found = {}
    for rows in (12, 11):
        monkeypatch.setattr("catdog.tracking.artifacts.CSV_ROWS", rows)
        client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/{rows}.db")
        experiment = client.create_experiment("e", f"file://{tmp_path}/{rows}")
        run = TrackedRun(client, client.create_run(experiment).info.run_id)
        run.log_table(split, "split.csv")
        run.log_table(answers.to_frame(), "predictions/val.csv")
        stored = [file.path for folder in ("", "predictions") for file in client.list_artifacts(run.run_id, folder)]
        suffix = "csv" if rows == 12 else "parquet"
        assert sorted(stored) == ["predictions", f"predictions/val.{suffix}", f"split.{suffix}"]
        address = client.get_run(run.run_id).info.artifact_uri
        found[rows] = load_table(address, "split.csv"), load_predictions(address)
    pd.testing.assert_frame_equal(found[11][0], found[12][0], check_dtype=False)
    assert found[11][0]["label"].tolist() == ["007"] * 12
    pd.testing.assert_frame_equal(found[11][1].to_frame(), found[12][1].to_frame())


def test_a_class_called_file_stays_in_csv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catdog.tracking.artifacts.CSV_ROWS", 1)
    answers = Predictions.build(["a", "b"], ["file", "b"], ("file", "b"), np.array([[0.25, 0.75]] * 2, np.float32))
    content, path = encode_table(answers.to_frame(), "predictions/val.csv")
    assert path == "predictions/val.csv"
    assert Predictions.from_csv(content).class_names == ("file", "b")


def test_damaged_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "split.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(UserError, match=r"split\.parquet is damaged"):
        load_table(str(tmp_path), "split.csv")
