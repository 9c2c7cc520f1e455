"""Names of runs: short keys that tell runs apart, own code under its own name, nothing that is off, values as they are typed."""

import pytest

from catdog.config.composition import compose_sweep
from catdog.config.names import OFF_KEYS, fold_mappings, name_job, read_overrides, shorten_keys, show_value, unescape
from catdog.config.schema import Config, list_options


@pytest.mark.parametrize(
    ("key", "beside", "short"),
    [
        ("augmentation.mix.cutmix", (), "cutmix"),
        ("head.dropout", (), "dropout"),
        ("trainer.learning_rate", (), "learning_rate"),
        ("augmentation", (), "augmentation"),
        ("augmentation.layers.flip.mode", (), "mode"),
        # Another key in use ends with the same part.
        ("augmentation.layers.flip.mode", ("augmentation.layers.rotate.mode",), "flip.mode"),
        ("head.dropout", ("backbone.options.dropout",), "head.dropout"),
        # Another key of catdog does, so the short name would be that key's.
        ("optimizer.options.nesterov", (), "options.nesterov"),
        ("optimizer.options", (), "optimizer.options"),
        ("dataset.drawing.seed", (), "drawing.seed"),
    ],
)  # fmt: skip
def test_a_name_spells_out_no_more_of_a_key_than_is_needed(key: str, beside: tuple[str, ...], short: str) -> None:
    assert shorten_keys([key, *beside])[key] == short


@pytest.mark.parametrize(
    ("overrides", "varying", "variant"),
    [
        (["augmentation.mix.cutmix=1"], None, "cnn cutmix=1"),
        (["model=cnn", "augmentation.mix.cutmix=0"], {"augmentation.mix.cutmix"}, "cnn"),
        (["model=cnn", "augmentation.mix.cutmix=0.0"], None, "cnn"),
        (["model=cnn", "trainer.patience=null"], {"trainer.patience"}, "cnn"),
        (["model=cnn", "trainer.class_weights=none"], {"trainer.class_weights"}, "cnn"),
        # A value that only happens to be the default is not off.
        (["model=cnn", "trainer.epochs=20"], {"trainer.epochs"}, "cnn epochs=20"),
        (["model=cnn", "optimizer.weight_decay=null"], {"optimizer.weight_decay"}, "cnn weight_decay=null"),
        # Own code.
        (["model.builder=my_models:small"], None, "my_models:small"),
        (["model.builder='my_models:small'"], None, "my_models:small"),
        (["model=own", "model.builder=my_models\\:small", "trainer.epochs=3"], {"model.builder"}, "my_models:small"),
        (["model.builder=null"], {"model.builder"}, "cnn"),
        (["model=augmented", "model.builder=my_models:small"], {"model", "model.builder"}, "my_models:small model=augmented"),
        (["model.builder=my_models:small", "trainer.learning_rate=0.1"], {"trainer.learning_rate"},
         "my_models:small learning_rate=0.1"),
        (["backbone=own", "backbone.builder=my_models:net", "head.units=64"], None, "my_models:net units=64"),
        (["model=augmented", "backbone.builder=my_models:net"], None, "my_models:net model=augmented"),
    ],
)  # fmt: skip
def test_a_variant_is_named_by_what_is_on_and_by_its_own_code(overrides, varying, variant: str) -> None:
    model = next((item.partition("=")[2] for item in overrides if item.startswith("model=")), "cnn")
    assert name_job(model, overrides, varying)[1] == variant


def test_what_is_named_as_off_has_a_default() -> None:
    defaults = {key: default for key, default, _ in list_options(Config)}
    assert {defaults[key] for key in OFF_KEYS} == {None, 0, 1, "none"}


def test_swept_values_are_recorded_without_needless_backslashes() -> None:
    runs, _ = compose_sweep(["dataset=synthetic", "model.builder=my_models:small,my_models:large"])
    assert [run.overrides[1] for run in runs] == ["model.builder=my_models:small", "model.builder=my_models:large"]
    # Before anything else a backslash is needed: the override can be typed again.
    assert unescape("study=a\\:b\\, c") == "study=a:b\\, c"
    assert compose_sweep(runs[1].overrides)[0][0].config == runs[1].config


def test_values_are_shown_as_they_are_typed() -> None:
    assert [show_value(value) for value in ("None", "True", "False", "0.5", "none")] == [
        "null",
        "true",
        "false",
        "0.5",
        "none",
    ]
    assert read_overrides(["+a.b='x y'", "~c"]) == {"a.b": "x y", "c": ""}


def test_a_mapping_that_not_all_configs_have_is_one_setting() -> None:
    flip = {"augmentation.layers.flip.layer": "RandomFlip", "augmentation.layers.flip.mode": "horizontal"}
    sizes = {"trainer.sizes.0": "0.6", "trainer.sizes.0.5": "0.8"}
    before, after = {"seed": "1"} | flip | sizes, {"seed": "1", "trainer.sizes": "None"}
    assert fold_mappings([before, after]) == [
        {"seed": "1", "augmentation.layers.flip": "RandomFlip", "trainer.sizes": "{0: 0.6, 0.5: 0.8}"},
        {"seed": "1", "trainer.sizes": "None"},
    ]
    nothing = {"augmentation.layers": "{}"}
    assert fold_mappings([flip, nothing]) == [{"augmentation.layers.flip": "RandomFlip"}, {}]
    assert fold_mappings([nothing, nothing]) == [nothing, nothing]
    # Where all have it, its keys are settings.
    assert fold_mappings([before, before]) == [before, before]
    assert fold_mappings([sizes, {"trainer.sizes.0": "0.7"}]) == [sizes, {"trainer.sizes.0": "0.7"}]


def test_a_layer_with_other_values_is_told_from_the_same_layer() -> None:
    flip, other = (
        {"augmentation.layers.flip.layer": "RandomFlip", "augmentation.layers.flip.mode": mode} for mode in "hv"
    )
    first, second, third = fold_mappings([flip, other, {"seed": "1"}])
    assert (first, third) == ({"augmentation.layers.flip": "{layer: RandomFlip, mode: h}"}, {"seed": "1"})
    assert second == {"augmentation.layers.flip": "{layer: RandomFlip, mode: v}"}
    turned = dict(reversed(flip.items()))
    assert fold_mappings([flip, turned, {}])[:2] == [{"augmentation.layers.flip": "RandomFlip"}] * 2


@pytest.mark.parametrize("mapping", ["backbone.options.norm", "trainer.class_weights", "trainer.callbacks.cam"])
def test_only_a_layer_is_called_by_its_name(mapping: str) -> None:
    one, other = fold_mappings([{f"{mapping}.layer": "a", f"{mapping}.rate": "1"}, {mapping: "a"}])
    assert one == {mapping: "{layer: a, rate: 1}"}
    assert other == {mapping: "a"}


def test_names_of_libraries_may_have_dots() -> None:
    configs = [{"libraries.zope.interface": "1", "libraries.zope.event": "1"}, {}]
    assert fold_mappings(configs) == configs
