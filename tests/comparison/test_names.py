"""Names of runs: what varies among those that are compared, short, unique, and never cut within a word."""

import pytest

from catdog.comparison.names import common_overrides, name_by_differences
from catdog.comparison.variants import name_variants
from catdog.config.names import LONGEST_NAME, name_job
from catdog.system.wording import fold_word

DOZEN = (
    "preprocessing.image_size=48", "trainer.batch_size=16", "trainer.epochs=4", "trainer.schedule=cosine",
    "trainer.warmup_epochs=1", "optimizer.weight_decay=0.001", "loss.label_smoothing=0.1", "head.units=64",
    "head.dropout=0.3", "trainer.patience=3", "trainer.learning_rate=0.003", "optimizer.clipnorm=1.0",
)  # fmt: skip


@pytest.fixture
def make_trained(make_record):
    """A run that was trained with overrides, as MLflow has it."""

    def make(*overrides: str, seed: int = 0, number: int = 0, **params: str):
        words = ["model=cnn", *overrides]
        name, variant = name_job("cnn", [*words, f"seed={seed}"])
        given = dict(word.split("=") for word in overrides)
        tags = {"mlflow.source.name": f"python -m catdog.train {' '.join(words)} seed={seed}",
                "catdog.variant_digest": f"{sorted((given | params).items())}"}  # fmt: skip
        return make_record(
            name, variant, seed=seed, run_id=f"{number:032x}", tags=tags, params={"seed": str(seed), **given, **params}
        )

    return make


def named(*records, in_sweep: bool = False) -> list[str]:
    return [record.name for record in name_by_differences(records, in_sweep=in_sweep)]


def test_runs_are_named_by_what_varies_and_what_is_common_is_told_once(make_trained):
    runs = [
        make_trained(*DOZEN, number=1),
        make_trained(*DOZEN[:-2], "trainer.learning_rate=0.01", DOZEN[-1], number=2),
        make_trained(*DOZEN, seed=1, number=3),
    ]
    assert named(*runs) == [
        "cnn learning_rate=0.003 seed=0",
        "cnn learning_rate=0.01 seed=0",
        "cnn learning_rate=0.003 seed=1",
    ]
    assert common_overrides(runs) == [*DOZEN[:-2], DOZEN[-1]]


def test_a_default_that_is_written_out_is_no_difference(make_trained):
    first = make_trained("trainer.epochs=20", number=1)
    second = make_trained("head.units=64", number=2, **{"trainer.epochs": "20"})
    assert named(first, second) == ["cnn", "cnn units=64"]


def test_long_names_have_the_keys_that_tell_the_runs_apart(make_trained):
    def run(number: int):
        return make_trained(
            f"optimizer.weight_decay=0.00{number % 3}", f"loss.label_smoothing=0.{number % 2 + 1}", f"head.units={64 + number}",
            f"preprocessing.image_size={48 + 16 * (number % 2)}", number=number,
        )  # fmt: skip

    names = named(*map(run, range(12)))
    assert len(set(names)) == 12
    assert max(map(len, names)) <= LONGEST_NAME
    assert all(" units=" in name and name.endswith(" …") for name in names)


def test_names_that_a_sweep_gave_stay(make_record):
    runs = [make_record("cnn epochs=3", tags={}), make_record("cnn epochs=4", tags={})]
    assert named(*runs, in_sweep=True) == named(*runs) == ["cnn epochs=3", "cnn epochs=4"]


def test_equal_names_get_what_differs(make_record, make_comparison):
    def run(number: int, digest: str, code: str, **params: str):
        tags = {"catdog.variant_digest": digest, "catdog.code_digest": code}
        return make_record("cnn", run_id=f"{number:032x}", tags=tags, params={"seed": "1", **params})

    epochs = [run(n, f"d{n}", "c0de", **{"trainer.epochs": str(4 * n)}) for n in (1, 2)]
    assert sorted(name_variants(make_comparison(*epochs)).values()) == ["cnn epochs=4", "cnn epochs=8"]
    code = [run(n, "same", f"c0de{n}") for n in (1, 2)]
    assert sorted(name_variants(make_comparison(*code)).values()) == ["cnn code=c0de1", "cnn code=c0de2"]
    # A recipe that was changed by a later version: the setting says more than the digest of the code.
    both = [run(n, f"d{n}", f"c0de{n}", **{"loss.label_smoothing": f"0.{n}"}) for n in (1, 2)]
    assert sorted(name_variants(make_comparison(*both)).values()) == [
        "cnn label_smoothing=0.1",
        "cnn label_smoothing=0.2",
    ]
    # Nothing that is known differs: the digests remain.
    unknown = list(name_variants(make_comparison(*[run(n, f"d{n}", "c0de") for n in (1, 2)])).values())
    assert len(set(unknown)) == 2


def test_a_single_run_of_a_dozen_overrides_has_a_short_name_of_its_own():
    name, variant = name_job("cnn", [*DOZEN, "seed=2"])
    assert variant.startswith("cnn image_size=48 batch_size=16 +10 more ")
    assert name == f"{variant} seed=2"
    assert len(name) <= LONGEST_NAME
    assert name_job("cnn", DOZEN[:-1])[1] != name_job("cnn", [*DOZEN[:-1], "optimizer.clipnorm=2.0"])[1]


@pytest.mark.parametrize(
    ("word", "pieces"),
    [
        ("short", ["short"]),
        ("augmentation.layers.flip.mode=horizontal_and_vertical", ["augmentation.layers.flip.mode=", "horizontal_and_vertical"]),
        ("optimizer.weight_decay=0.0001", ["optimizer.weight_decay=0.0001"]),
        ("x" * 35, ["x" * 30, "x" * 5]),
    ],
)  # fmt: skip
def test_very_long_words_are_cut_between_their_parts(word: str, pieces: list[str]):
    assert fold_word(word, 30) == pieces
