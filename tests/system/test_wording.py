import math

import pytest

from catdog.system import wording


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (9_996, "10.0 k"), (128_210, "128 k"), (999_600, "1.00 M"),
     (2_257_984, "2.26 M"), (4.3e9, "4.30 G"), (math.nan, wording.MISSING)],
)  # fmt: skip
def test_compact_count_has_three_digits(number, words):
    assert wording.compact_count(number).replace("\N{NO-BREAK SPACE}", " ") == words


@pytest.mark.parametrize(("value", "words"), [(0.0004, "p < 0.001"), (0.0312, "p = 0.031"), (1.0, "p = 1.00")])
def test_p_value_is_rounded_but_never_to_zero(value, words):
    assert wording.p_value(value).replace("\N{NO-BREAK SPACE}", " ") == words


@pytest.mark.parametrize(
    ("value", "words"), [(0.5249, "0.52"), (16.43, "16.4"), (99.96, "100"), (math.nan, wording.MISSING)]
)
def test_seconds_has_three_digits(value, words):
    assert wording.seconds(value) == words


def test_listed_and_plural():
    assert [wording.listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert wording.plural(1, "run") == "1 run"
    assert wording.plural(1204, "image") == "1,204 images"
