import math

import pytest

from catdog.search.space import Dimension, Space, read_space, split_overrides
from catdog.system.errors import UserError


def read(*words: str, file=None) -> Space:
    return read_space(split_overrides(words)[1], file)


def test_values_ranges_and_intervals_are_told_apart() -> None:
    space = read(
        "head.units=64,128", "trainer.learning_rate=tag(log,interval(1e-4,1e-2))", "head.dropout=interval(0,0.7)",
        "trainer.batch_size=int(interval(8,64))", "trainer.epochs=range(2,9,2)",
    )  # fmt: skip
    units, rate, dropout, batch, epochs = space
    assert units.choices == ("64", "128")
    assert (rate.low, rate.high, rate.log, rate.whole) == (1e-4, 1e-2, True, False)
    assert (dropout.low, dropout.high, dropout.log) == (0, 0.7, False)
    assert (batch.whole, batch.size) == (True, 57)
    # Like Python's, a range does not include its end.
    assert epochs.values == ("2", "4", "6", "8")
    assert not space.is_finite
    assert space.size == math.inf
    assert rate.words == "tag(log,interval(0.0001,0.01))"


def test_what_holds_for_all_trials_is_split_off() -> None:
    fixed, varied = split_overrides(["model=cnn", "head.units=64,128", "trainer.epochs=3"])
    assert fixed == ["model=cnn", "trainer.epochs=3"]
    assert [item.get_key_element() for item in varied] == ["head.units"]


@pytest.mark.parametrize("value", [0.00021544346900318823, 0.0001, 0.01, 0.0099999])
def test_a_value_is_shown_as_it_is_read(value) -> None:
    rate = Dimension("trainer.learning_rate", low=1e-4, high=1e-2, log=True)
    text = rate.show(value)
    assert len(text) <= 9
    assert rate.show(rate.read(text)) == text
    assert float(text) == pytest.approx(value, rel=1e-3)
    assert rate.low <= float(text) <= rate.high


def test_a_key_may_depend_on_others(tmp_path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(
        "optimizer: [adam, sgd]\n"
        "optimizer.options.momentum: {values: 'interval(0.5,0.99)', when: {optimizer: sgd}}\n"
        "head.dropout: [0, 0.5]\n"
    )
    space = read(file=file)
    assert [dimension.applies({"optimizer": "adam"}) for dimension in space] == [True, False, True]
    assert space.keys == ("optimizer", "optimizer.options.momentum", "head.dropout")
    assert space.word({"head.dropout": "0.5", "optimizer": "adam"}) == ["optimizer=adam", "head.dropout=0.5"]


def test_every_configuration_of_a_finite_space_is_listed_once(tmp_path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("optimizer: [adam, sgd]\nhead.units: {values: [16, 32, 64], when: {optimizer: sgd}}\n")
    space = read(file=file)
    assert space.size == 4
    assert next(iter(space.list_settings())) == {"optimizer": "adam"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("- 1", "must give keys their values"),
        ("head.units: {value: 3}", "head.units must have values and may have when"),
        (
            "head.units: {values: [1, 2], when: {optimizer: sgd}}",
            "head.units depends on optimizer, which must be a key",
        ),
        ("head.units: 64", "head.units: a search needs several values, received one"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_file_that_is_no_space_is_refused(tmp_path, content, said) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(content)
    with pytest.raises(UserError) as raised:
        read(file=file)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("a.b=interval(1,1)", "a.b: must go from a lower number to a higher one"),
        ("a.b=tag(linear,interval(1,2))", "a.b: the only tag of a search is log, received linear."),
        ("a.b=tag(log,range(1,9))", "a.b: a range has even steps"),
        ("a.b=range(5,1,-1)", "a.b: the step of a range must be more than 0"),
        ("a.b=choice(1)", "a.b: a search needs several values, received 1."),
    ],
)
def test_an_empty_interval_a_tag_and_a_single_value_are_refused(word, said) -> None:
    with pytest.raises(UserError) as raised:
        read(word)
    assert said in str(raised.value)
