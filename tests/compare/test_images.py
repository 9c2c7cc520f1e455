import numpy as np

from catdog.compare.images import Gallery, confident_mistakes, disagreements


def test_confident_mistakes_are_the_surest_wrong_answers(make_record):
    mistakes = confident_mistakes(make_record(wrong=[3, 50, 98]), most=2)
    assert mistakes.index.tolist() == ["dogs/98.jpg", "dogs/50.jpg"]
    assert mistakes["predicted"].tolist() == ["cats", "cats"]
    assert mistakes["probability"].is_monotonic_decreasing


def test_disagreements_are_all_images_that_divide_the_runs(make_record, make_comparison):
    comparison = make_comparison(
        make_record("a", wrong=[1, 2, 3]), make_record("b", wrong=[2, 3, 4]), make_record("c", wrong=[3, 4, 7])
    )
    found = {image.file: image.right for image in disagreements(comparison)}
    # All three are wrong about image 3, and right about most: neither divides them.
    assert found == {"cats/1.jpg": (1, 2), "dogs/2.jpg": (2,), "dogs/4.jpg": (0,), "cats/7.jpg": (0, 1)}
    assert [len(image.right) for image in disagreements(comparison)] == [1, 1, 2, 2]
    first = disagreements(comparison)[0]
    assert [answer.predicted for answer in first.answers] == ["cats", "cats", "dogs"]
    assert all(0.9 <= answer.probability <= 1 for answer in first.answers)


def test_files_are_matched_by_name_not_by_place(make_record, make_comparison):
    a, b = make_record("a", wrong=[1]), make_record("b", wrong=[1])
    shuffled = make_record("b", predictions=b.predictions.sample(frac=1, random_state=0))
    assert disagreements(make_comparison(a, shuffled)) == []


def test_unfinished_runs_divide_nobody(make_record, make_comparison):
    assert disagreements(make_comparison(make_record("a"), make_record("b", wrong=[1], status="FAILED"))) == []


def test_classes_called_by_numbers_are_matched_as_text(make_record):
    record = make_record(files=["7/a.png", "8/b.png"], classes=("7", "8"))
    # As pandas reads them back from CSV.
    record.predictions["label"] = [7, 8]
    assert record.answers["right"].tolist() == [True, True]


def test_gallery_embeds_a_picture_once():
    gallery = Gallery(lambda _: np.zeros((200, 300, 3), np.uint8), 100_000)
    assert gallery.show("a") == gallery.show("a")
    assert gallery.show("a") != gallery.show("b")
    assert gallery.rules.count("data:image/jpeg") == 2


def test_gallery_counts_what_it_leaves_out():
    gallery = Gallery(lambda file: None if file == "gone" else np.zeros((9, 9, 3), np.uint8), 1)
    assert [gallery.show(file) is None for file in ("gone", "a", "b", "b", "c")] == [True, False, True, True, True]
    assert (gallery.unavailable, gallery.left_out) == (1, 2)
