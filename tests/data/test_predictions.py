"""Answers to images: what follows from them, and the table in which runs store them."""

import io

import numpy as np
import pandas as pd
import pytest

from catdog.data.predictions import UNKNOWN, Predictions

FILES = ["cats/1.jpg", "dogs/007", "dogs/NA", "eels/1.jpg"]
ANSWERS = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.6, 0.4]], dtype=np.float32)


@pytest.fixture
def four() -> Predictions:
    return Predictions.build(FILES, ["cats", "dogs", "dogs", "eels"], ["cats", "dogs"], ANSWERS)


def test_what_follows_from_the_probabilities(four: Predictions) -> None:
    assert len(four) == 4
    # Of equal probabilities the first counts; a label that the model does not know is never right.
    assert four.predicted.tolist() == [0, 1, 0, 0]
    assert four.label_indices.tolist() == [0, 1, 1, UNKNOWN]
    assert four.right.tolist() == [True, True, False, False]
    assert (four.correct, four.accuracy) == (2, 0.5)
    with pytest.raises(ValueError, match="-1"):
        _ = four.confusion
    known = Predictions.build(FILES[:3], four.labels[:3], four.class_names, ANSWERS[:3])
    assert known.confusion.tolist() == [[1, 0], [1, 1]]


def test_the_file_is_the_table_that_pandas_writes(four: Predictions) -> None:
    """Runs have stored this table since there are runs: its bytes must not change."""
    table = pd.DataFrame(ANSWERS, columns=["cats", "dogs"])
    table.insert(0, "file", FILES)
    table.insert(1, "label", ["cats", "dogs", "dogs", "eels"])
    assert four.to_csv() == table.to_csv(index=False)
    assert four.to_csv().splitlines()[2] == "dogs/007,dogs,0.2,0.8"


@pytest.mark.parametrize("names", [("cats", "dogs"), ("file", "label"), ("7", "NA"), ('a "b", c', "new\nline")])
def test_it_comes_back_from_its_file(names: tuple[str, str]) -> None:
    probabilities = np.random.default_rng(0).dirichlet([1, 1], 50).astype(np.float32)
    written = Predictions.build(
        [f"{n}.jpg" for n in range(50)], [names[n % 2] for n in range(50)], names, probabilities
    )
    read = Predictions.from_csv(written.to_csv().encode())
    assert read.class_names == names
    assert read.files.tolist() == written.files.tolist()
    assert read.labels.tolist() == written.labels.tolist()
    assert (read.probabilities.astype(np.float32) == probabilities).all()
    assert (read.right == written.right).all()


def test_numbers_are_read_as_pandas_reads_them() -> None:
    """Comparisons of stored runs must come out as before, to the last bit."""
    probabilities = np.random.default_rng(1).dirichlet([1, 1, 1], 500).astype(np.float32)
    text = Predictions.build(map(str, range(500)), ["a"] * 500, "abc", probabilities).to_csv()
    plain = pd.read_csv(io.StringIO(text))[["a", "b", "c"]].to_numpy(dtype=float)
    assert (Predictions.from_csv(text.encode()).probabilities == plain).all()


def test_names_are_text_whatever_they_look_like() -> None:
    frame = pd.DataFrame({"file": [1, 2], "label": [7, 8], "7": [0.9, 0.2], "8": [0.1, 0.8]})
    read = Predictions.from_frame(frame)
    assert read.right.tolist() == [True, True]
    assert read.files.tolist() == ["1", "2"]
    assert Predictions.from_csv(b"file,label,NA\n007,NA,0.5\n").files.tolist() == ["007"]


def test_of_nothing_nothing_is_known() -> None:
    nothing = Predictions.empty()
    assert (len(nothing), nothing.correct, nothing.class_names) == (0, 0, ())
    assert np.isnan(nothing.accuracy)
    without_classes = Predictions.build(["a"], ["cats"], (), np.zeros((1, 0)))
    assert without_classes.right.tolist() == [False]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a,b,cats\n1,2,0.5\n",
        b"file,label,cats,dogs\n1.jpg,cats,0.5\n",
        b"file,label,cats,dogs\n1.jpg,cats,0.5,0.2,0.3\n",
        b"file,label,cats,dogs\n1.jpg,cats,0.5,much\n",
        b"file,label,cats,cats\n1.jpg,cats,0.5,0.5\n",
        b"file,label,c\xff\n",
    ],
)
def test_what_is_no_table_of_predictions_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        Predictions.from_csv(content)


def test_lengths_must_fit() -> None:
    with pytest.raises(ValueError, match=r"2 files, got 1 labels and probabilities of shape \(2, 2\)"):
        Predictions.build(FILES[:2], ["cats"], ["cats", "dogs"], ANSWERS[:2])
    with pytest.raises(ValueError, match=r"shape \(4, 2\)"):
        Predictions.build(FILES, FILES, ["cats", "dogs", "eels"], ANSWERS)
