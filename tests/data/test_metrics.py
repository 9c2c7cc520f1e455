"""Metrics that a file or a function of the user defines."""

import sys
from pathlib import Path

import numpy as np
import pytest

from catdog.data.metrics import load_metric
from catdog.statistics.metrics import ModelAnswers
from catdog.system.errors import UserError

LABELS = np.array([0, 0, 1, 1])
# The answers are cat, dog, cat, dog.
ANSWERS = ModelAnswers.from_probabilities(
    LABELS, ("cats", "dogs"), np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])
)


@pytest.mark.parametrize(
    "text",
    ["cats,dogs\n0,1\n5,0\n", "dogs,cats\n0,5\n1,0\n", ",cats,dogs\ndogs,5,0\ncats,0,1\n", "\ufeffcats, dogs\n\n0, 1\n5, 0\n"],
    ids=["plain", "other order", "named rows", "blanks"],
)  # fmt: skip
def test_costs_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "costs.csv").write_text(text, encoding="utf-8")
    metric = load_metric(f"cost:{tmp_path}/costs.csv")
    assert metric.values(ANSWERS).tolist() == [0.0, 1.0, 5.0, 0.0]
    assert not metric.higher_is_better
    assert metric.margin == pytest.approx(0.1)
    metric.require_classes("metric", ("dogs", "cats"))
    with pytest.raises(
        UserError, match=r"must have the classes cats, birds in its first line, received (cats, dogs|dogs, cats)\."
    ):
        metric.require_classes("metric", ("cats", "birds"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cats,dogs\n", "has no rows of costs"),
        ("cats,dogs\n0,1\n", "must have 2 rows of 2 costs for the classes cats, dogs, received 1 rows of 2"),
        ("cats,dogs\n0,1\n5\n", "must have 2 rows of 2 costs"),
        ("cats,dogs\n0,1\n5,high\n", "must have numbers as costs: .*'high'"),
        ("cats,dogs\n0,1\n5,nan\n", "must have finite numbers"),
        ("cats,cats\n0,1\n5,0\n", "names a class twice"),
        (
            ",cats,dogs\ncats,0,1\nbirds,5,0\n",
            "the rows must be named as the columns, cats, dogs, received cats, birds",
        ),
    ],
)
def test_a_file_that_is_no_cost_matrix_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "costs.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"metric: .*costs.csv.*{said}.*Its first line has the class names"):
        load_metric(f"cost:{path}")


def test_a_file_that_is_missing_is_named_with_the_one_that_is_meant(tmp_path: Path) -> None:
    (tmp_path / "costs.csv").write_text("cats,dogs\n0,1\n5,0\n")
    with pytest.raises(
        UserError, match=r"promote.metric: .*cost\.csv: there is no such file. Did you mean .*costs\.csv\?"
    ):
        load_metric(f"cost:{tmp_path}/cost.csv", "promote.metric")


def test_an_own_function_is_loaded_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "my_scores.py").write_text(
        "def doubt(labels, probabilities):\n    return 1 - probabilities.max(axis=1)\n\n\n"
        "doubt.lower_is_better = True\nNUMBER = 3\n"
    )
    metric = load_metric("my_scores:doubt")
    assert metric.values(ANSWERS) == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert (metric.words, metric.higher_is_better, metric.margin) == ("doubt", False, None)
    with pytest.raises(UserError, match=r"metric: my_scores:NUMBER must be a function, but is an object of type int\."):
        load_metric("my_scores:NUMBER")
    with pytest.raises(
        UserError,
        match=r"metric: my_scores .* has no 'dout', received .*Did you mean my_scores:doubt\?",
    ):
        load_metric("my_scores:dout")
    with pytest.raises(UserError, match="metric: there is no module 'nowhere'"):
        load_metric("nowhere:score")
    sys.modules.pop("my_scores")
