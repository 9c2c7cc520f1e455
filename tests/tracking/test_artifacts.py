"""What runs have stored, read back: what is not there is none, what cannot be read is an error that names it."""

import pytest

from catdog.system.errors import UserError
from catdog.tracking.artifacts import load_bytes, load_history, load_predictions, load_table


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
