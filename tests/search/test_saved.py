import pytest
import yaml

from catdog.config import schema
from catdog.config.composition import compose_run
from catdog.config.digest import hash_config
from catdog.search.saved import build_experiment, require_free, save_winner
from catdog.system.errors import UserError

FIXED = [
    "model=augmented",
    "trainer.epochs=9",
    "dataset=synthetic",
    "study=x",
    "seed=3",
    "loss=focal",
    "hydra.launcher.n_jobs=2",
]
WORDS = [
    "augmentation=strong",
    "trainer.learning_rate=0.0021",
    "optimizer=sgd",
    "augmentation.layers.rotation.factor=0.03",
]


def test_the_experiment_makes_the_same_configuration(tmp_path, monkeypatch) -> None:
    content = build_experiment(FIXED, WORDS)
    assert "study" not in content
    conf = tmp_path / "conf"
    (conf / "experiment").mkdir(parents=True)
    for entry in schema.CONF.iterdir():
        if entry.name != "experiment":
            (conf / entry.name).symlink_to(entry)
    (conf / "experiment" / "won.yaml").write_text("# @package _global_\n" + yaml.safe_dump(content, sort_keys=False))
    typed = compose_run([*FIXED, *WORDS]).config
    monkeypatch.setattr(schema, "CONF", conf)
    saved = compose_run(["experiment=won", "seed=3"]).config
    assert hash_config(saved, with_seed=True) == hash_config(typed, with_seed=True)


def test_the_winner_is_written_and_only_its_own_search_may_replace_it(make_tuning, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    tuning = make_tuning(40)
    assert tuning.winner is not None
    path = save_winner(tuning, "won", "a" * 64)
    assert path is not None
    text = path.read_text()
    assert text.startswith("# @package _global_\n# trial ")
    assert "python -m catdog.train experiment=won" in text
    rate = yaml.safe_load(text)["trainer"]["learning_rate"]
    assert float(rate) == float(tuning.winner.settings["trainer.learning_rate"])
    require_free("won", "a" * 64)
    with pytest.raises(
        UserError, match=r"save: conf/experiment/won\.yaml exists already\. Give another name, or remove it\."
    ):
        require_free("won", "b" * 64)


def test_without_a_winner_nothing_is_written(make_tuning, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.chdir(tmp_path)
    assert save_winner(make_tuning(12, wins=False), "won", "a" * 64) is None
    assert "no configuration is shown to be better than the default" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named_at_once(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").write_text("a file")
    with pytest.raises(UserError, match=r"save: cannot write conf/experiment/won.yaml"):
        require_free("won", "a" * 64)
    require_free(None, "")
