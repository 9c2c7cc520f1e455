"""Suggestions: what users of other tools type has a name in catdog, and nothing far away is suggested."""

import pytest

from catdog.config.mistakes import list_groups, list_keys
from catdog.config.suggestions import FOREIGN_NAMES, MISSING, MOVED_KEYS, REMARKS, find_foreign, suggest, suggest_key
from catdog.sweeps.options import HELP

KEYS = list_keys("config")


def test_every_key_of_the_table_exists_and_every_name_has_one_meaning() -> None:
    launcher = [f"hydra.launcher.{name}" for name in HELP]
    known = {*KEYS, *list_groups("config"), *launcher, "optimizer.options.gradient_accumulation_steps"}
    assert set(FOREIGN_NAMES) <= known
    assert set(REMARKS) <= set(FOREIGN_NAMES)
    names = [name for words in FOREIGN_NAMES.values() for name in words.split()] + list(MISSING)
    assert len(names) == len(set(names))
    assert not {*names} & {*KEYS, *list_groups("config")}
    assert not set(MOVED_KEYS) & set(KEYS)


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("lr", "trainer.learning_rate"), ("optimizer.lr", "trainer.learning_rate"), ("max_epochs", "trainer.epochs"),
        ("trainer.max-epochs", "trainer.epochs"), ("num_epochs", "trainer.epochs"), ("img_size", "preprocessing.image_size"),
        ("pretrained", "backbone.weights"), ("opt", "optimizer"), ("sched", "trainer.schedule"), ("wd", "optimizer.weight_decay"),
        ("accelerator", "trainer.devices"), ("seed_everything", "seed"), ("early_stopping", "trainer.patience"),
        ("mixup_alpha", "augmentation.mix.mixup"), ("model_ema", "trainer.ema"), ("num_classes", ""),
        ("n_trials", ""), ("dropout_rate", "head.dropout"), ("val_split", "dataset.holdout_fraction"),
    ],
)  # fmt: skip
def test_names_of_other_tools_are_known(typed: str, key: str) -> None:
    found, remark = find_foreign(typed)
    assert found == key
    assert found or remark


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        ("trainer.epoch", ["trainer.epochs"]), ("trainer.label_smoothing", ["loss.label_smoothing"]),
        ("label_smothing", ["loss.label_smoothing"]), ("trackng.uri", ["tracking.uri"]), ("tracking.url", ["tracking.uri"]),
        ("batch_size", ["trainer.batch_size"]), ("train_epochs_total", ["trainer.epochs"]),
        ("layers", ["augmentation.layers", "backbone.layers"]),
        # Far from everything: no suggestion is better than a wrong one.
        ("trainer.foo", []), ("optimizer.lr", []), ("trainer.foo.bar", []), ("nonsense", []), ("name", []), ("x", []),
    ],
)  # fmt: skip
def test_a_key_is_suggested_if_it_is_near_or_shares_a_word(typed: str, keys: list[str]) -> None:
    assert suggest_key(typed, KEYS) == keys


def test_a_name_is_suggested_if_few_letters_differ() -> None:
    models = ["cnn", "augmented", "mobilenet"]
    assert suggest("MobileNet", models) == "mobilenet"
    assert suggest("mobile-net", models) == "mobilenet"
    assert suggest("moiblenet", models) == "mobilenet"
    assert suggest("vgg", models) == ""
    assert suggest("trian", ["train", "compare"]) == "train"
    assert suggest("tune", ["train", "compare"]) == ""
