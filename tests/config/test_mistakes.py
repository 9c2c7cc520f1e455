"""Mistakes on a command line: each is one message in catdog's words, with code 2, before anything is loaded or written."""

import pytest
from support import run_catdog

from catdog.config.commands import ROOTS
from catdog.config.composition import compose_run
from catdog.config.mistakes import explain_flag, explain_stray, explain_unknown, list_keys, require_valid
from catdog.system.errors import UserError

HYDRA = (
    "Hydra",
    "hydra.cc",
    "BasicSweeper",
    "Traceback",
    "override",
    "provider",
    "OmegaConf",
    "struct",
    "DictConfig",
    "usage:",
)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        # Misspelt keys, groups and choices.
        (["trainer.label_smoothing=0.1"], "trainer.label_smoothing: no such key. Did you mean loss.label_smoothing?"),
        (["modle=cnn"], "modle: no such key. Did you mean model=cnn?\n       Allowed: study, seed, reuse; the groups model,"),
        (["trainer.epoch=3"], "trainer.epoch: no such key. Did you mean trainer.epochs?\n       Allowed in trainer: trainer."),
        (["trainer.foo=3"], "trainer.foo: no such key.\n       Allowed in trainer: trainer."),
        (["study.name=x"], "study.name: no such key; study holds one value: study=VALUE."),
        (["dataset=flower"], "dataset=flower: no such option; allowed: cats_dogs, csv, folder, parquet, synthetic, "),
        (["dataset=/my/photos"], "webdataset. Your own images: dataset=folder dataset.archive=/my/photos"),
        (["model=MobileNet"], "model=MobileNet: no such option; allowed: augmented, cnn, drawn_mini, finetuned, mobilenet, own, "),
        (["model=cnn,augmentd"], "Did you mean model=augmented?"),
        (["model=resnet50_v2"], "Did you mean backbone=resnet50_v2?"),
        (["model="], "model=: no such option; allowed: augmented, cnn"),
        (["optimizer=adamax"], "Another class of keras.optimizers: optimizer.algorithm=NAME."),
        (["augmentation=mixup"], "allowed: flip_rotate, none, strong, trivial. Mixing is augmentation.mix.mixup=0.2"),
        # The names of other tools.
        (["lr=0.01"], "lr: no such key. In catdog it is called trainer.learning_rate: trainer.learning_rate=0.01."),
        (["trainer.max_epochs=3"], "In catdog it is called trainer.epochs: trainer.epochs=3."),
        (["pretrained=true"], "In catdog it is called backbone.weights. It is imagenet, null or a weights file"),
        (["early_stopping=true"], "In catdog it is called trainer.patience. It is a number of epochs."),
        (["num_classes=2"], "num_classes: no such key. There is nothing to set: the classes are the folders of the data set."),
        (["mixup=0.2"], "mixup: no such key. Did you mean augmentation.mix.mixup?"),
        (["ema=true"], "ema: no such key. Did you mean trainer.ema?"),
        (["trainer.optimizer=adamw"], "is called optimizer=NAME, a group of its own: optimizer=adamw."),
        # What Hydra has and catdog does not.
        (["hydra/sweeper=optuna"], "hydra/sweeper=optuna: catdog has no such sweeper. python -m catdog.tune searches"),
        (["trainer.learning_rate=interval(0.1,1)"], "only a search takes an interval. python -m catdog.tune searches"),
        (["trainer.learning_rate=tag(a, interval(0.1,1))"], "only a search takes an interval"),
        (["trainer.learning_rate=glob(*)"], "catdog has no files for trainer.learning_rate"),
        # Spaces, and words without a value.
        (["trainer.epochs", "=", "3"], "trainer.epochs: write it without spaces: trainer.epochs=3"),
        (["trainer.epochs", "=3"], "trainer.epochs: write it without spaces: trainer.epochs=3"),
        (["trainer.epochs=", "3"], "trainer.epochs: write it without spaces: trainer.epochs=3"),
        (["trainer.epochs:", "3"], "trainer.epochs: write it with an equals sign, without spaces: trainer.epochs=3"),
        (["seed=0,", "1"], "seed: write its values without spaces: seed=0,1"),
        (["trainer.epochs"], "cannot read 'trainer.epochs': it needs a value: trainer.epochs=VALUE."),
        (["mobilenet"], "cannot read 'mobilenet': write model=mobilenet."),
        (["model"], "cannot read 'model': it needs a choice: model=augmented|cnn|"),
        (["photos/cats"], "for a folder or zip of your own images write dataset=folder dataset.archive=photos/cats"),
        (["=3"], "cannot read '=3'. Write KEY=VALUE"),
        # Prefixes.
        (["+trainer.epochs=3"], "+trainer.epochs: exists already; leave out the plus sign: trainer.epochs=3"),
        (["+model=cnn"], "+model: exists already; leave out the plus sign: model=cnn"),
        (["+trainer.foo=3"], "trainer.foo: no such key."),
        (["++foo=3"], "foo: no such key."),
        (["~trainer.epochs"], "~trainer.epochs: this cannot be removed, only changed. Give it another value."),
        (["~model"], "~model: this cannot be removed, only changed. Choose another: augmented, cnn"),
        (["~foo"], "foo: no such key."),
    ],
)  # fmt: skip
def test_a_mistake_in_the_words_is_found_before_anything_is_composed(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        require_valid(words, "config")
    assert said in str(caught.value)
    assert not [word for word in HYDRA if word in str(caught.value)]


@pytest.mark.parametrize(
    "words",
    [
        ["model=cnn,augmented", "seed=range(0,3)", "trainer.learning_rate=choice(0.1,0.2)"],
        ["model=cnn, augmented"],
        ["model=glob(*)"],
        ["+augmentation.layers.x={layer: RandomFlip}", "~augmentation.layers.flip", "augmentation.layers.flip.mode=vertical"],
        ["+experiment=quickstart", "experiment=null", "hydra.run.dir=x", "hydra/launcher=catdog"],
        ["study='my = study'", "dataset.archive=a=b", "optimizer.options={amsgrad: true}", "optimizer.options.nesterov=true"],
        ["dataset.drawing.seed=3", "trainer.callbacks.ema.decay=1", "optimizer.betas=[0.9,0.99]", "++seed=1"],
    ],
)  # fmt: skip
def test_what_is_right_passes(words: list[str]) -> None:
    require_valid(words, "config")


def test_the_choices_of_a_folder_of_configs_count(tmp_path) -> None:
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "poly.yaml").write_text("gamma: 1\n", encoding="utf-8")
    require_valid(["loss=poly,focal"], "config", folders=[tmp_path])
    with pytest.raises(
        UserError, match=r"loss=pol: no such option; allowed: cross_entropy, focal, poly\. Did you mean loss=poly\?"
    ):
        require_valid(["loss=pol"], "config", folders=[tmp_path])


@pytest.mark.parametrize(
    ("flag", "following", "said"),
    [
        ("--epochs", "3", "--epochs: no such flag; catdog takes KEY=VALUE, without dashes. Write trainer.epochs=3."),
        ("--epochs=3", "", "Write trainer.epochs=3."),
        ("--batch-size", "16", "Write trainer.batch_size=16."),
        ("--trainer.max_epochs=3", "", "Write trainer.epochs=3."),
        ("--model", "mobilenet", "Write model=mobilenet."),
        ("--lr", "", "Write trainer.learning_rate=VALUE."),
        ("--fp16", "true", "Write trainer.precision=VALUE. It is auto, float32, mixed_float16 or mixed_bfloat16."),
        ("--resume", "", "There is nothing to set: the same command resumes an interrupted run."),
        ("--dry-run", "", "Write hydra.launcher.plan_only=VALUE."),
        ("-x", "", "--help lists the keys; the flags are -m, --cfg job and --help."),
    ],
)  # fmt: skip
def test_a_flag_says_which_key_it_is(flag: str, following: str, said: str) -> None:
    assert said in explain_flag(flag, following, "config", sweeps=True)


def test_a_key_of_another_command_is_said_to_be_one() -> None:
    assert "trainer.epochs: no such key of compare, but of train." in explain_unknown("trainer.epochs", "compare")
    assert "model: no such key of compare, but of train, evaluate, predict, serve, export and card." in explain_unknown(
        "model", "compare"
    )
    assert "margin: no such key of evaluate, but of audit, compare, decide, tune and export." in explain_unknown(
        "margin", "evaluate"
    )
    assert "Allowed: discard; the group tracking, and its keys, such as tracking.uri" in explain_unknown(
        "study", "deliver"
    )


def test_an_argument_that_is_neither_file_nor_option_is_explained() -> None:
    assert "Write format=json." in explain_stray("--format", "json", "predict")
    assert "neither a file nor an option. Did you mean format? Options: study" in explain_stray(
        "formt=csv", "", "predict"
    )
    assert "format: write it without spaces" in explain_stray("format", "=", "predict")
    assert "no such file or folder" in explain_stray("cat.jpg", "", "predict")


# Mistakes that show when Hydra reads the values; all of a command's in its own words.
VALUES = [
    ("trainer.epochs=1,2", "trainer.epochs=1,2: several values make a sweep: add -m."),
    ("seed=range(0,3)", "seed=range(0,3): several values make a sweep: add -m."),
    ("trainer.epochs=abc", "trainer.epochs: must be a whole number, received 'abc'."),
    ("optimizer.betas=0.9", "optimizer.betas: must be a list, received 0.9. Write optimizer.betas=[0.9]"),
    ("backbone.layers=3", "backbone.layers: must be a mapping of names to values, received 3."),
    ("augmentation.layers.mixup={layer: MixUp}", "To add one, write a plus sign: '+augmentation.layers.mixup={layer: MixUp}'"),
    ("~augmentation.layers.flip", "~augmentation.layers.flip: this config has no such entry to leave out"),
    ("augmentation=[none,rotate]", "augmentation=rotate: no such option; allowed: flip_rotate, none, strong, trivial."),
    ("hydra.launcher.partition=gpu", "hydra.launcher.partition: an option of a cluster. Add hydra/launcher=slurm; without"),
    ("hydra.launcher.gpus=1", "hydra.launcher.gpus: an option of a cluster. Add hydra/launcher=slurm or hydra/launcher=ray"),
    ("hydra.launcher.address=auto", "hydra.launcher.address: an option of a cluster. Add hydra/launcher=ray;"),
    ("hydra.launcher.jobs=3", "hydra.launcher.jobs: no such key. Did you mean hydra.launcher.n_jobs?"),
    ("hydra.sweeper.n_trials=3", "hydra.sweeper.n_trials: no such key. catdog sweeps lists and ranges"),
    ("seed=nosuch(1,2)", "cannot read 'seed=nosuch(1,2)'."),
    ("--config-dir=nosuch", "--config-dir: there is no folder"),
    ("--cfg=jobs", "--cfg/-c: invalid choice: 'jobs'"),
    ("--epochs", "--epochs: no such flag; catdog takes KEY=VALUE, without dashes. Write trainer.epochs="),
]  # fmt: skip


# A value of another kind than the key holds: one of each way in which OmegaConf and Hydra refuse it.
KINDS = [
    ("augmentation.mix=mixup", "augmentation.mix: holds further keys and no value of its own, received mixup. "
     "Write augmentation.mix.mixup=0.2. Its keys: augmentation.mix.mixup, augmentation.mix.cutmix, "),
    ("augmentation.mix=cutmix", "Write augmentation.mix.cutmix=1. "),
    ("augmentation.mix=0.2", "received 0.2. Write augmentation.mix.mixup=0.2. "),
    ("dataset.drawing=[1,2]", "dataset.drawing: holds further keys and no value of its own, received [1,2]. "
     "Write dataset.drawing.seed=7."),
    ("augmentation.layers=[1,2]", "augmentation.layers: must be a mapping of names to values, received [1,2]. To add"),
    ("optimizer.options=[1,2]", "optimizer.options: must be a mapping of names to values, received [1,2]. To add"),
    ("preprocessing.pixel_range={a: 1}", "preprocessing.pixel_range: must be a list, received {a: 1}."),
    ("optimizer.betas={a: 1}", "optimizer.betas: must be a list, received {a: 1}."),
    ("head.pooling=[1,2]", "head.pooling: must be one value, received [1,2]. Write head.pooling=VALUE."),
    ("dataset.archive={a: 1}", "dataset.archive: must be one value, received {a: 1}."),
    ("trainer.deterministic=[1,2]", "trainer.deterministic: must be true or false, received '[1, 2]'."),
    ("trainer.epochs=[1,2]", "trainer.epochs: must be a whole number, received '[1, 2]'."),
    ("head=[1,2]", "head=1: no such option; allowed: dense."),
    ("loss={a: 1}", "loss: takes the name of a choice, loss=NAME, received {a: 1}; allowed: cross_entropy, focal."),
]  # fmt: skip


@pytest.mark.parametrize(("word", "said"), KINDS)
def test_a_value_of_another_kind_than_the_key_holds_gets_a_message_of_catdog(word: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_run([word])
    assert said in str(caught.value)
    assert not [name for name in (*HYDRA, "ListConfig", "subclass", "full_key") if name in str(caught.value)]


@pytest.mark.parametrize(("word", "said"), VALUES)
def test_a_mistake_in_a_value_is_one_message_and_code_2(tmp_path, word: str, said: str) -> None:
    done = run_catdog(tmp_path, tmp_path, "train", *([] if word.startswith("--cfg") else ["--cfg", "job"]), word)
    assert done.code == 2
    assert said in done.err
    assert not [name for name in HYDRA if name in done.text]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ROOTS)
def test_every_other_command_explains_the_same_mistakes(tmp_path, command: str) -> None:
    # Of `export`, format is a list, so that format=a,b is one value.
    key = next(key for key in ("show", "format", "tracking.uri") if key in list_keys(command))
    for words, said in (
        (("--nosuch", "3"), "--nosuch: no such flag; catdog takes KEY=VALUE, without dashes."),
        ((f"+{key}=json",), f"+{key}: exists already; leave out the plus sign: {key}=json"),
        (("lr=3",), "'lr=3': neither a file nor an option." if command == "predict" else "lr: no such key"),
        ((f"{key}=a,b",), f"{key}=a,b: "),
    ):
        done = run_catdog(tmp_path, tmp_path, command, *words)
        assert done.code == 2, words
        assert said in done.err, words
        assert not [name for name in HYDRA if name in done.text], words
    if command not in ("decide", "predict", "tune"):
        done = run_catdog(tmp_path, tmp_path, command, "-m", f"{key}=a,b")
        assert (done.code, f"-m: {command} makes no sweep; leave it out." in done.err) == (2, True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["max_seed=3", "model=cnn,augmented"], "max_seed: no such key. Did you mean max_seeds?"),
        (["model=cnn,augmentd"], "model=augmentd: no such option"),
        (["model=cnn,augmented", "--max-seeds", "3"], "Write max_seeds=3."),
        (["model=cnn,augmented", "trainer.learning_rate=interval(0.1,1)"], "only a search takes an interval"),
    ],
)
def test_decide_finds_mistakes_in_what_it_passes_on_before_its_first_round(
    tmp_path, words: list[str], said: str
) -> None:
    done = run_catdog(tmp_path, tmp_path, "decide", *words)
    assert done.code == 2
    assert said in done.err
    assert "round 1" not in done.text


def test_version_is_that_of_catdog(tmp_path) -> None:
    assert run_catdog(tmp_path, tmp_path, "compare", "--version").out.startswith("catdog ")
