import base64
import json

import numpy as np
import pytest

from catdog.comparison.atlas import BROKEN, FIXED, NO_CLASS, NOISE, RIGHT, WRONG, build_atlas
from catdog.comparison.cams import NO_CAMS
from catdog.comparison.page.atlas_view import build_view
from catdog.comparison.page.quality import build_confusions
from catdog.data.predictions import Predictions

SEEDS = range(5)


@pytest.fixture
def make_atlas(make_record, make_analysis):
    """From variant -> for each seed the images that it gets wrong."""

    def make(variants: dict[str, list[list[int]]], **options):
        records = [
            make_record(f"{name} seed={seed}", name, seed=seed, wrong=wrong, **options)
            for name, seeds in variants.items()
            for seed, wrong in enumerate(seeds)
        ]
        return build_atlas(make_analysis(*records))

    return make


def test_images_are_sorted_by_what_happens_to_them(make_atlas):
    atlas = make_atlas({
        # Image 0: wrong everywhere. 1: fixed by b. 2: broken by b. 3: seeds of a disagree. 4: b's seeds, beyond nearly all.
        "a": [[0, 1, 3], [0, 1, 3], [0, 1], [0, 1], [0, 1]],
        "b": [[0, 2, 4], [0, 2, 4], [0, 2], [0, 2], [0, 2]],
    })  # fmt: skip
    sorting = atlas.sort(0)
    assert sorting.kinds[:6].tolist() == [WRONG, FIXED, BROKEN, NOISE, NOISE, RIGHT]
    assert (sorting.kinds[5:] == RIGHT).all()
    assert sorting.by[:, :5].T.tolist() == [[False, False], [False, True], [False, True], [True, False], [False, True]]
    assert sorted(atlas.listed) == [0, 1, 2, 3, 4]
    # Seen from b, it is the other way round.
    assert atlas.sort(1).kinds[:5].tolist() == [WRONG, BROKEN, FIXED, NOISE, NOISE]
    assert atlas.sort(1).by[:, 1].tolist() == [True, False]


@pytest.mark.parametrize(
    ("seeds", "reference_right", "other_right", "kind"),
    [
        (5, 1, 4, FIXED), (5, 2, 4, NOISE), (5, 1, 3, NOISE), (5, 0, 5, FIXED), (5, 4, 1, BROKEN), (4, 1, 4, NOISE),
        (4, 0, 4, FIXED), (1, 0, 1, FIXED), (1, 1, 0, BROKEN), (5, 1, 1, WRONG), (5, 0, 0, WRONG), (5, 2, 0, WRONG),
        (5, 3, 0, NOISE), (10, 2, 8, FIXED), (10, 3, 8, NOISE),
    ],
)  # fmt: skip
def test_nearly_all_is_four_in_five(make_atlas, seeds, reference_right, other_right, kind):
    a = [[] if seed < reference_right else [7] for seed in range(seeds)]
    b = [[] if seed < other_right else [7] for seed in range(seeds)]
    assert make_atlas({"a": a, "b": b}).sort().kinds[7] == kind


def test_one_seed_shows_no_seed_noise(make_atlas):
    atlas = make_atlas({"a": [[1, 2]], "b": [[2, 3]]})
    assert not atlas.seeds_varied
    assert sorted(atlas.sort().kinds[1:4]) == [WRONG, FIXED, BROKEN]


def test_the_surest_mistakes_come_first(make_atlas):
    # Later images are answered more surely.
    atlas = make_atlas({"a": [[3, 50, 98]], "b": [[3, 50, 98]]})
    assert atlas.listed.tolist() == [98, 50, 3]
    assert atlas.sort().rank[[98, 50, 3]].tolist() == [0, 1, 2]


def test_lists_take_turns_where_not_all_images_can_be_listed(make_atlas):
    atlas = make_atlas({"a": [[1, 2, 3, 10, 11]], "b": [[1, 2, 3, 20]]})
    kinds = atlas.sort().kinds[atlas.listed]
    assert kinds[:3].tolist() == [WRONG, FIXED, BROKEN]


def test_a_label_is_suspect_where_it_is_more_likely_wrong_than_the_model(make_atlas):
    # The probability of a mistake falls from a half to one in two million: mistake 5 is to be expected, mistake 95 is not.
    atlas = make_atlas({"a": [[5, 95]], "b": [[5, 95, *range(30, 60)]]}, decades=6)
    assert np.flatnonzero(atlas.suspects != NO_CLASS).tolist() == [95]
    assert atlas.class_names[atlas.suspects[95]] == "dogs"
    assert atlas.class_names[atlas.labels[95]] == "cats"
    assert atlas.listed[0] == 95


def test_no_label_is_suspect_where_the_best_model_errs_as_often_as_it_expects_to(make_atlas):
    # Probabilities of 0.9 to 0.99 and seven mistakes in a hundred. The thresholds of confident learning would suspect 60.
    mistakes = [1, 4, 9, 16, 25, 36, 60]
    atlas = make_atlas({"a": [mistakes], "b": [[*mistakes, *range(70, 90)]]})
    assert (atlas.suspects == NO_CLASS).all()
    assert atlas.listed[0] == 60


def test_files_are_matched_by_name_not_by_place(make_record, make_analysis):
    a, b = make_record("a", wrong=[1]), make_record("b", wrong=[1])
    shuffled = b.predictions.to_frame().sample(frac=1, random_state=0)
    shuffled = make_record("b", predictions=Predictions.from_frame(shuffled))
    atlas = build_atlas(make_analysis(a, shuffled))
    assert atlas.sort().kinds[1] == WRONG
    assert len(atlas.listed) == 1


def test_unfinished_runs_and_no_runs_at_all(make_record, make_analysis):
    failed = make_record("b", wrong=[1], status="FAILED")
    assert len(build_atlas(make_analysis(make_record("a"), failed)).listed) == 0
    assert build_atlas(make_analysis(failed)) is None
    assert build_atlas(make_analysis(make_record("a", predictions=Predictions.empty()))) is None


def test_runs_that_know_other_classes(make_record, make_analysis):
    birds = ("birds", "cats", "dogs")
    atlas = build_atlas(make_analysis(make_record("a", wrong=[1]), make_record("b", classes=birds, wrong=[1, 2])))
    assert atlas.class_names == ["cats", "dogs", "birds"]
    assert atlas.sort().kinds[[1, 2]].tolist() == [WRONG, BROKEN]
    first, second = build_confusions(atlas)
    assert [name for name, _ in first.rows] == ["cats", "dogs", "birds"]
    # The next class after cats is dogs, the one after dogs is birds.
    assert second.rows[1][1] == [("0", 0.0), ("49", 0.98), ("1", 0.02)]


def test_confusion_is_the_mean_over_seeds(make_atlas):
    atlas = make_atlas({"a": [[0, 2], [0]]})
    (table,) = build_confusions(atlas)
    assert table.rows == [("cats", [("50.0", 1.0), ("0.0", 0.0)]), ("dogs", [("1.5", 0.03), ("48.5", 0.97)])]


def test_many_classes_are_told_by_their_most_confused_pairs(make_record, make_analysis):
    names = tuple(f"class {index:02}" for index in range(20))
    files = [f"{names[index % 20]}/{index}.png" for index in range(200)]
    atlas = build_atlas(make_analysis(make_record("a", files=files, classes=names, wrong=[3, 23, 43, 5])))
    (table,) = build_confusions(atlas)
    assert table.rows == []
    assert table.pairs == [("class 03", "class 04", "3"), ("class 05", "class 06", "1")]
    assert table.hardest[:2] == [("class 03", 0.7), ("class 05", 0.9)]


def test_calibration_is_measured_over_seeds(make_atlas):
    atlas = make_atlas({"sure": [range(0, 100, 2), range(1, 100, 2)], "right": [[], []]})
    found = atlas.calibrations
    assert found["sure"].error == pytest.approx(0.445, abs=0.02)
    assert found["sure"].answers.sum() == 200
    assert found["right"].overconfidence == pytest.approx(-0.055, abs=0.001)


def unpack(data: dict, key: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(data[key]), dtype).reshape(-1, len(data["files"]))


def test_the_script_gets_what_the_runs_said(make_atlas):
    atlas = make_atlas({"a": [[1, 2], [1]], "b": [[2], []]})
    view = build_view(atlas, NO_CAMS, {"a": 0, "b": 1})
    data = json.loads(view.data)
    assert data["files"] == [row.file for row in view.rows]
    place = data["files"].index("dogs/2.jpg")
    answers = unpack(data, "answers", "u1")
    assert len(answers) == 4
    # Wrong with a probability of 0.9018 in the first seed of either, right in the second.
    assert answers[:, place].tolist() == [10, 90 + 128, 10, 90 + 128]
    assert unpack(data, "right", "<u2")[:, place].tolist() == [1, 1]
    assert unpack(data, "kinds", "u1").shape == (2, 2)
    assert [variant["seeds"] for variant in data["variants"]] == [[0, 1], [0, 1]]
    assert "said" not in data


def test_of_many_classes_the_script_gets_the_answer_too(make_atlas):
    classes = ("cats", "dogs", "eels")
    atlas = make_atlas({"a": [[1, 2], [1]]}, classes=classes)
    data = json.loads(build_view(atlas, NO_CAMS, {"a": 0}).data)
    place = data["files"].index("cats/1.jpg")
    assert unpack(data, "said", "<u2")[:, place].tolist() == [1, 1]
    assert unpack(data, "sure", "u1")[:, place].tolist() == [90, 90]


def test_the_answers_of_very_many_runs_are_cut_and_said_to_be(make_atlas, monkeypatch):
    monkeypatch.setattr("catdog.comparison.page.atlas_view.RUN_BYTES", 60)
    atlas = make_atlas({"a": [[1, 2, 3, 4, 5]] * 14, "b": [[6]] * 3})
    view = build_view(atlas, NO_CAMS, {"a": 0, "b": 1})
    assert view.runs_shown == [3, 3]
    assert json.loads(view.data)["variants"][0]["runs"] == 14
    # More marks than anybody counts: their number instead.
    assert {cell.marks for row in view.rows for cell in row.cells[:1]} == {""}
    assert view.rows[0].cells[0].right in (0, 14)
