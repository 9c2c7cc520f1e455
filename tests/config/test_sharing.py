"""A sweep's jobs, composed quickly, are what Hydra composes."""

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError

from catdog.config.composition import compose_sweep, explained, open_hydra
from catdog.config.sharing import share_composition
from catdog.system.errors import UserError

JOBS = [
    ["model=cnn", "seed=0"],
    ["model=cnn", "seed=1"],
    ["model=augmented", "seed=0", "trainer.epochs=3"],
    ["model=augmented", "seed=1", "augmentation=none"],
    ["model=cnn", "seed=2", "+trainer.callbacks={mine: {_target_: x.y}}"],
    ["model=cnn", "seed=0", "optimizer=adamw", "optimizer.weight_decay=0.01"],
    ["model=mobilenet", "preprocessing.image_size=${head.units}", "without=everything"],
    ["seed=0", "model=cnn"],
]


@pytest.mark.parametrize(
    "base", [[], ["experiment=quickstart"], ["dataset=synthetic", "study=pets", "trainer.epochs=7"]]
)
def test_jobs_are_what_hydra_composes(base) -> None:
    with open_hydra() as loader, explained():
        master = loader.load_configuration("config", base, run_mode=RunMode.MULTIRUN)
        expected = [loader.load_sweep_config(master, [*base, *job]) for job in JOBS]
        shared = share_composition(loader)
        for _ in range(2):
            checked = [loader.load_sweep_config(master, [*base, *job]) for job in JOBS]
            taken = [shared.take(master, [*base, *job]) for job in JOBS]
            for config, once, twice in zip(expected, checked, taken, strict=True):
                assert OmegaConf.to_container(once) == OmegaConf.to_container(config)
                assert OmegaConf.to_container(twice) == OmegaConf.to_container(config)
                assert OmegaConf.to_yaml(twice) == OmegaConf.to_yaml(config)


def test_a_change_to_one_job_reaches_no_other() -> None:
    with open_hydra() as loader:
        master = loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)
        shared = share_composition(loader)
        first = shared.take(master, ["seed=0"])
        first.trainer.epochs = 1234
        assert shared.take(master, ["seed=1"]).trainer.epochs != 1234
        assert shared.take(master, ["seed=0"]).trainer.epochs != 1234
        with pytest.raises(ConfigAttributeError):
            first.trainer.nosuch = 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=cnn,nosuch", "seed=0"], "model=nosuch: no such option"),
        (["seed=0,1", "trainer.nosuch=1,2"], "trainer.nosuch: no such key"),
        (["seed=0,x"], "seed: must be"),
        (["model=cnn", "trainer.epochs=1,0"], "trainer.epochs: must be"),
    ],
)
def test_mistakes_are_found_in_any_job(words, message) -> None:
    with pytest.raises(UserError) as caught:
        compose_sweep(words)
    assert message in str(caught.value)
