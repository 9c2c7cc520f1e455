"""A run's metrics by epoch, and the table in which runs store them."""

import numpy as np
import pandas as pd
import pytest

from catdog.data.history import History

EPOCHS = [
    {"epoch": 1, "train/loss": 0.7, "val/accuracy": 1 / 3, "learning_rate": 1e-3},
    {"epoch": 2, "train/loss": 0.1 + 0.2, "val/accuracy": float("nan"), "learning_rate": 1e-5},
]


def test_values_are_found_by_metric_and_epoch() -> None:
    history = History.from_epochs(EPOCHS)
    assert len(history) == 2
    assert history.epochs.tolist() == [1, 2]
    assert history["train/loss"].tolist() == [0.7, 0.1 + 0.2]
    assert history.last("learning_rate") == 1e-5
    assert history.at(1, "val/accuracy") == 1 / 3
    assert "val/loss" not in history
    for missing in (history.last("val/loss"), history.at(3, "train/loss"), history.at(1, "val/loss")):
        assert np.isnan(missing)


def test_the_file_is_the_table_that_pandas_writes() -> None:
    """Runs have stored this table since there are runs: its bytes must not change."""
    assert History.from_epochs(EPOCHS).to_csv() == pd.DataFrame(EPOCHS).to_csv(index=False)


def test_it_comes_back_from_its_file_bit_for_bit() -> None:
    history = History.from_epochs(EPOCHS)
    read = History.from_csv(history.to_csv().encode())
    assert read.epochs.tolist() == [1, 2]
    assert list(read.columns) == list(history.columns)
    for key, values in history.columns.items():
        np.testing.assert_array_equal(read[key], values)


def test_points_that_are_missing_are_not_a_number() -> None:
    history = History.from_points({"val/loss": {2: 0.5, 1: 0.7}, "val/accuracy": {3: 0.9}})
    assert history.epochs.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(history["val/loss"], [0.7, 0.5, np.nan])
    assert history.last("val/accuracy") == 0.9
    frame = history.to_frame()
    assert (frame.index.name, frame.index.tolist()) == ("epoch", [1, 2, 3])


def test_of_no_epochs_nothing_is_known() -> None:
    for history in (History.empty(), History.from_epochs([]), History.from_points({})):
        assert len(history) == 0
        assert np.isnan(history.last("val/loss"))
        assert np.isnan(history.at(1, "val/loss"))
    assert len(History.from_csv(b"epoch,val/loss\n")) == 0


@pytest.mark.parametrize(
    "content", [b"", b"val/loss\n0.5\n", b"epoch,val/loss\n1,much\n", b"epoch,val/loss\n1\n2,0.5\n"]
)
def test_what_is_no_history_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        History.from_csv(content)


def test_every_epoch_has_its_value() -> None:
    with pytest.raises(ValueError, match="2 values of val/loss"):
        History(np.array([1, 2]), {"val/loss": np.array([0.5])})
