"""The config: every file composes, the command line wins, and a mistake is named before anything heavy loads."""

import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from support import compose_config

from catdog.cli import pass_config_dir
from catdog.config import schema
from catdog.config.command_lines import next_command
from catdog.config.composition import compose_run, compose_sweep
from catdog.config.digest import flatten, hash_config
from catdog.config.schema import CONF, GROUPS
from catdog.system.errors import UserError

MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
# What a choice needs beside it to make sense.
COMPANIONS = {
    **{f"dataset={name}": ["dataset.archive=somewhere"] for name in ("folder", "csv", "parquet", "webdataset")},
    "tracking=server": ["tracking.uri=http://127.0.0.1:5000"],
    "backbone=own": ["backbone.builder=my_models:resnet"],
    "model=own": ["model.builder=my_models:classifier"],
}


def companions(group: str, choice: str) -> list[str]:
    extra = COMPANIONS.get(f"{group}={choice}", [])
    if group == "backbone" and not extra:
        expected = OmegaConf.load(CONF / "backbone" / f"{choice}.yaml").get("pixel_range")
        ranges = {"[-1.0, 1.0]": "mobilenet_v2", "[0.0, 255.0]": "raw_range"}
        extra = [f"preprocessing={ranges[str(list(expected))]}"] if expected else []
    return extra


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_group_file_composes(group: str, choice: str) -> None:
    config = compose_config(f"{group}={choice}", *companions(group, choice))
    section = getattr(config, group)
    assert isinstance(section, GROUPS[group])
    if hasattr(section, "name"):
        assert section.name == choice, "tables call a choice by its file's name"


@pytest.mark.parametrize("model", MODELS)
def test_every_model_composes(model: str) -> None:
    trainer = compose_config(f"model={model}", *companions("model", model)).trainer
    # A recipe has as many epochs as the training images need.
    assert (trainer.epochs, trainer.images_seen is None) in ((20, True), (0, False))


@pytest.mark.parametrize("ingredient", sorted(path.stem for path in (CONF / "without").glob("*.yaml")))
def test_every_ingredient_can_be_turned_off_where_it_is_missing(ingredient: str) -> None:
    config = compose_config("model=augmented", f"without={ingredient}")
    assert hash_config(config, with_seed=True) == hash_config(compose_config("model=augmented"), with_seed=True)


def test_an_ingredient_that_a_model_lacks_makes_no_run(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        runs, _ = compose_sweep(["model=cnn,scratch,transfer", "without=nothing,crop", "seed=0,1"])
    assert [(run.model, run.without) for run in runs] == [
        (model, without)
        for model, without in (("cnn", "nothing"), ("scratch", "nothing"), ("scratch", "crop"), ("transfer", "nothing"))
        for _ in range(2)
    ]
    assert "no such ingredient: cnn without crop, transfer without crop" in caplog.text


def test_a_sweep_changes_what_its_models_have_and_the_default_model_lacks() -> None:
    runs, _ = compose_sweep(["model=finetuned,scratch", "augmentation.layers.flip=null", "hydra.launcher.n_jobs=2"])
    assert [run.model for run in runs] == ["finetuned", "scratch"]
    assert [list(run.config.augmentation.layers) for run in runs] == [["crop", "trivial"]] * 2
    assert runs[1].overrides == ["model=scratch", "augmentation.layers.flip=null"]
    runs, options = compose_sweep(
        ["experiment=recipes", "model=scratch", "without=nothing", "augmentation.layers.flip=null", "hydra.launcher.n_jobs=2"]
    )  # fmt: skip
    assert len(runs) == 5
    assert options.n_jobs == 2
    runs, _ = compose_sweep(["model=finetuned,scratch", "~augmentation.layers.flip"])
    assert [list(run.config.augmentation.layers) for run in runs] == [["crop", "trivial"]] * 2
    flip, fits = "augmentation.layers.flip", ". If others differ in this, '++augmentation.layers.flip=null' fits all."
    for word, said in (
        (f"{flip}=null", f"shows those it has. Leave {flip}=null out. The config is that of the run with model=transfer{fits}"),
        (f"~{flip}", f"--cfg job shows those it has. The config is that of the run with model=transfer{fits}"),
        (f"+{flip}=null", f"leave out the plus sign: {flip}=null. The config is that of the run with model=scratch{fits}"),
    ):  # fmt: skip
        with pytest.raises(UserError) as caught:
            compose_sweep(["model=scratch,transfer", word])
        assert said in str(caught.value)
    runs, _ = compose_sweep(["model=scratch,transfer", f"++{flip}=null"])
    assert [list(run.config.augmentation.layers) for run in runs] == [["crop", "trivial"], []]
    with pytest.raises(UserError, match=r"augmentation\.layers\.flp: this config has no such entry"):
        compose_sweep(["model=scratch,finetuned", "augmentation.layers.flp=null"])


@pytest.mark.parametrize("model", ["transfer", "finetuned", "scratch"])
@pytest.mark.parametrize("epochs", [1, 2, 3, 30])
def test_a_recipe_takes_any_number_of_epochs(model: str, epochs: int) -> None:
    usual = compose_config(f"model={model}").trainer
    trainer = compose_config(f"model={model}", f"trainer.epochs={epochs}").trainer
    for key in ("warmup_epochs", "freeze_epochs"):
        assert getattr(trainer, key) == min(getattr(usual, key), epochs - 1)
    # What the user asks for himself is not changed.
    with pytest.raises(
        UserError, match=rf"trainer\.warmup_epochs: must be .* less than trainer\.epochs, received {epochs}"
    ):
        compose_config(f"model={model}", f"trainer.epochs={epochs}", f"trainer.warmup_epochs={epochs}")


def test_sizes_on_the_command_line_replace_those_of_a_recipe() -> None:
    assert compose_config("model=scratch").trainer.sizes == {"0": 0.6, "0.5": 0.8}
    assert compose_config("model=scratch", "trainer.sizes={0: 1}").trainer.sizes == {"0": 1}
    given = compose_config("model=scratch", "trainer.sizes={0: 0.5, 0.25: 0.75}", "preprocessing.image_size=64").trainer
    assert given.sizes == {"0": 0.5, "0.25": 0.75}


def test_null_turns_a_layer_off() -> None:
    config = compose_config("augmentation=flip_rotate", "augmentation.layers.rotation=null")
    assert list(config.augmentation.layers) == ["flip"]


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_composes_with_each_of_its_models(path) -> None:
    models = OmegaConf.load(path).hydra.sweeper.params.model.split(",")
    for model in models:
        assert compose_config(f"experiment={path.stem}", f"model={model}").study == path.stem


def test_the_four_variants_are_those_of_the_study() -> None:
    def facts(model: str) -> tuple:
        config = compose_config(f"model={model}")
        return config.augmentation.name, config.preprocessing.name, config.backbone.name

    assert facts("cnn") == ("none", "unit_range", "conv3")
    assert facts("augmented") == ("flip_rotate", "unit_range", "conv3")
    assert facts("preprocessed") == ("flip_rotate", "mobilenet_v2", "conv3")
    assert facts("mobilenet") == ("flip_rotate", "mobilenet_v2", "mobilenet_v2")
    config = compose_config()
    assert (config.trainer.epochs, config.trainer.batch_size, config.preprocessing.image_size) == (20, 32, 160)
    assert (config.optimizer.algorithm, config.trainer.learning_rate, config.loss.function) == (
        "Adam", 0.001, "cross_entropy",
    )  # fmt: skip


def test_a_choice_on_the_command_line_wins_over_the_model() -> None:
    config = compose_config("model=mobilenet", "augmentation=none")
    assert config.augmentation.layers == {}
    assert config.backbone.application == "MobileNetV2"


def test_layers_can_be_changed_removed_and_added() -> None:
    config = compose_config(
        "model=augmented",
        "augmentation.layers.flip.mode=vertical",
        "~augmentation.layers.rotation",
        "+augmentation.layers.zoom={layer: RandomZoom, height_factor: 0.2}",
    )
    assert list(config.augmentation.layers) == ["flip", "zoom"]
    assert config.augmentation.layers["flip"]["mode"] == "vertical"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.epochs=0", "trainer.epochs: must be 1 or more, or 0 where"),
        ("trainer.batch_size=-1", "trainer.batch_size: must be 1 or more, received -1"),
        ("dataset.test_fraction=1.5", "dataset.test_fraction: must be more than 0 and less than 1, received 1.5"),
        ("dataset.max_images_per_class=0", "dataset.max_images_per_class: must be 1 or more, or null, received 0"),
        ("trainer.precision=float8", "trainer.precision: must be one of auto, float32"),
        ("trainer.keep=first", "trainer.keep: must be one of best, last"),
        ("trainer.learning_rate=0", "trainer.learning_rate: must be more than 0"),
        ("head.dropout=1", "head.dropout: must be 0 or more and less than 1"),
        ("seed=-1", "seed: must be 0 to 2147483647"),
        ("backbone.trainable_layers=some", "backbone.trainable_layers: must be 0 or more, or all"),
        ("backbone.trainable_layers=0", "Random weights that are not trained learn nothing"),
        ("+augmentation.layers.x=3", "augmentation.layers.x: must be a mapping with the key `layer`"),
        ("+trainer.warmup=3", "trainer.warmup: must be a key that catdog knows"),
        ("dataset=folder", "Set dataset.archive=PATH"),
        ("tracking=server", "tracking.uri: has no value"),
        ("backbone=mobilenet_v2", "Use preprocessing=mobilenet_v2"),
        ("model=own", "model.builder: must be your own as module:object, such as my_code:build, received ''"),
        ("backbone=own", "backbone.builder: must be your own as module:object"),
        ("model.options={a: 1}", "model.options: must be empty where model.builder is null"),
        ("backbone.builder=resnet", "backbone.builder: must be your own as module:object"),
        (
            "optimizer.algorithm=my code",
            "optimizer.algorithm: must be a class of keras.optimizers, such as AdamW, or your own",
        ),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay: must be 0 or more, or null, received -1"),
        ("optimizer.betas=[0.9]", "optimizer.betas: must be two numbers"),
        ("loss.function=mse", "loss.function: must be one of cross_entropy, focal, or your own as module:function"),
        ("loss.gamma=2", "loss.gamma: must be null where loss.function is not focal"),
        ("trainer.class_weights=even", "trainer.class_weights: must be none, balanced, or a number"),
        ("trainer.callbacks=mine:Ema", "trainer.callbacks: must be a list such as [my_callbacks:Ema]"),
        ("backbone=efficientnet_v2_b0", "Use preprocessing=raw_range"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_config(override)
    assert said in str(caught.value)


def test_the_environment_sets_defaults_and_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATDOG_ARCHIVE", "a.zip")
    monkeypatch.setenv("CATDOG_WEIGHTS", "w.h5")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    config = compose_config("model=mobilenet")
    assert (config.dataset.archive, config.backbone.weights) == ("a.zip", "w.h5")
    assert config.tracking.uri == "sqlite:///other.db"
    assert compose_config("dataset.archive=b.zip").dataset.archive == "b.zip"
    assert compose_config("tracking=server").tracking.uri == "sqlite:///other.db"


def test_the_config_digest_counts_what_affects_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CATDOG_WEIGHTS", raising=False)

    def digest(*overrides: str, with_seed: bool = True) -> str:
        return hash_config(compose_config(*overrides), with_seed=with_seed)

    base = digest()
    assert digest("study=other", "tracking.uri=sqlite:///x.db", "dataset.archive=elsewhere") == base
    assert digest("trainer.epochs=21") != base
    assert digest("seed=1") != base
    assert digest("seed=1", with_seed=False) == digest(with_seed=False)
    assert digest("model=preprocessed") != digest("model=augmented")


@pytest.mark.parametrize(
    "overrides",
    [
        "backbone.weights=FILE",
        "backbone=own backbone.builder=my_models:resnet +backbone.options.weights=FILE",
        "model=own model.builder=my_models:vit model.options={weights:FILE}",
        "trainer.callbacks=[{callback:'my_callbacks:Teacher',teacher:FILE}]",
    ],
)
def test_a_file_counts_by_its_content_not_by_its_path(tmp_path: Path, overrides: str) -> None:
    def digest(path: Path) -> str:
        return hash_config(compose_config(*overrides.replace("FILE", str(path)).split()), with_seed=True)

    here, there = tmp_path / "a.weights.h5", tmp_path / "elsewhere" / "b.weights.h5"
    here.write_bytes(b"weights")
    before = digest(here)
    there.parent.mkdir()
    here.rename(there)
    assert digest(there) == before
    there.write_bytes(b"other weights")
    assert digest(there) != before


def test_a_file_called_as_a_value_of_a_key_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = hash_config(compose_config(), with_seed=True)
    for name in ("constant", "best", "same", "relu", "max"):
        (tmp_path / name).write_text("")
    assert hash_config(compose_config(), with_seed=True) == before


def test_flatten_names_every_leaf() -> None:
    leaves = flatten(compose_config("model=augmented"))
    assert leaves["trainer.epochs"] == 20
    assert leaves["augmentation.layers.rotation.factor"] == 0.2
    assert leaves["dataset.max_images_per_class"] is None


@pytest.mark.parametrize("command", ["train", "compare", "evaluate", "predict"])
def test_help_names_groups_and_keys_without_tensorflow(catdog, command: str) -> None:
    done = catdog(command, "--help")
    assert done.code == 0
    assert "tracking.uri=" in done.out
    assert f"python -m catdog.{command}" in done.out
    if command == "train":
        for group, choice in CHOICES:
            assert group in done.out
            assert choice in done.out


@pytest.mark.parametrize("arguments", [("--cfg", "job"), ("trainer.epochs=0",), ("--help",)])
def test_light_commands_import_nothing_heavy(tmp_path, monkeypatch, arguments: tuple[str, ...]) -> None:
    import subprocess

    # -X importtime lists every module that was imported.
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "catdog.train", *arguments], cwd=tmp_path, capture_output=True,
        text=True, check=False, env={"PATH": "", "PYTHONPATH": str(schema.PROJECT), "HOME": str(tmp_path)},
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "catdog.config.schema" in imported
    assert not {"tensorflow", "keras", "mlflow", "matplotlib", "pandas"} & imported


def test_cfg_job_prints_the_composed_config(catdog) -> None:
    done = catdog("train", "--cfg", "job", "model=mobilenet", "augmentation=none")
    assert done.code == 0
    assert OmegaConf.create(done.out).backbone.application == "MobileNetV2"
    assert OmegaConf.create(done.out).augmentation.layers == {}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.epoch=3", "trainer.epoch: no such key. Did you mean trainer.epochs?"),
        ("nonsense=3", "nonsense: no such key"),
        ("hydra/launcher=nosuch", "hydra/launcher=nosuch: no such option; allowed: basic, catdog, ray, slurm."),
        (
            "trainer.optimizer=adamw",
            "trainer.optimizer: is called optimizer=NAME, a group of its own: optimizer=adamw.",
        ),
        ("trainer.epochs=many", "trainer.epochs: must be a whole number, received 'many'"),
        ("trainer.epochs=0", "trainer.epochs: must be 1 or more, or 0 where"),
        ("trainer.average_flips=twice", "trainer.average_flips: must be true or false, received 'twice'."),
        ("model=vgg", "model=vgg: no such option; allowed: augmented, cnn"),
        ("trainer.epochs", "cannot read 'trainer.epochs'"),
        ("model=1", "model=1: no such option; allowed: augmented, cnn"),
    ],
)
@pytest.mark.parametrize("sweep", [False, True])
def test_a_mistake_on_the_command_line_is_one_message_and_code_2(
    catdog, tmp_path, override: str, said: str, sweep: bool
) -> None:
    done = catdog("train", *(["-m"] if sweep else []), override)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.text
    assert not (tmp_path / "mlruns").exists(), "a mistake leaves nothing half-written"


def test_the_order_of_layers_is_part_of_what_a_run_is() -> None:
    flip, turn = "{layer: RandomFlip}", "{layer: RandomRotation, factor: 0.1}"
    first, second = (
        hash_config(compose_config(*(f"+augmentation.layers.{item}" for item in items)), with_seed=True)
        for items in ((f"a={flip}", f"b={turn}"), (f"b={turn}", f"a={flip}"))
    )
    assert first != second


def test_a_path_in_the_home_folder_is_found(catdog, tmp_path) -> None:
    done = catdog("train", "--cfg", "job", "dataset=folder", "dataset.archive=~/my images", HOME=str(tmp_path))
    assert OmegaConf.create(done.out).dataset.archive == f"{tmp_path}/my images"


def test_the_next_command_names_a_python_that_is_not_activated(catdog) -> None:

    assert next_command("compare", "cats_vs_dogs", schema.DEFAULT_URI).endswith("-m catdog.compare")
    assert "'study=my study'" in next_command("compare", "my study", schema.DEFAULT_URI)
    assert catdog("__main__").out.startswith("python -m catdog.train")


def test_several_values_without_a_sweep_are_pointed_to_it(catdog) -> None:
    done = catdog("train", "model=cnn,augmented")
    assert done.code == 2
    assert "model=cnn,augmented: several values make a sweep: add -m" in done.err


def test_compare_evaluate_and_predict_refuse_unknown_keys(catdog) -> None:
    for command in ("compare", "evaluate"):
        done = catdog(command, "studdy=x")
        assert done.code == 2
        assert "Did you mean study?" in done.err


def test_runs_that_a_command_composes_find_the_folder_of_config_dir(tmp_path) -> None:
    (tmp_path / "backbone").mkdir()
    text = (CONF / "backbone" / "conv3.yaml").read_text()
    (tmp_path / "backbone" / "mine.yaml").write_text(text)
    for typed in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"], ["-cd", str(tmp_path)]):
        (passed,) = pass_config_dir(typed)
        assert (
            compose_run(["model=cnn", "backbone=mine", passed]).config.backbone
            == compose_run(["model=cnn"]).config.backbone
        )
    with pytest.raises(UserError, match="backbone=mine: no such option"):
        compose_run(["backbone=mine"])
