"""What makes two runs the same, and two runs seeds of one variant."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from support import compose_config

from catdog.config.digest import hash_config
from catdog.system.errors import UserError
from catdog.tracking.identity import describe_runtime_change, identify, list_training_modules
from catdog.tracking.tags import DATA_DIGEST, DEVICE, PRECISION, VARIANT_DIGEST, Tags, gather
from catdog.training import precision
from catdog.training.precision import (
    choose_for_cpu,
    choose_for_gpus,
    choose_precision,
    find_gpus,
    may_have_gpu,
    plan_precision,
    read_cpu_flags,
)

CPU = {"precision": "float32", "device": "cpu"}


def refuse() -> list[tuple[int, ...]]:
    raise AssertionError("TensorFlow was asked")


def test_an_identity_is_config_data_code_libraries_and_runtime() -> None:
    config = compose_config("model=cnn")
    same = identify(config, "d", CPU)
    assert identify(compose_config("model=cnn", "study=other"), "d", CPU) == same
    others = (
        identify(compose_config("model=cnn", "seed=1"), "d", CPU),
        identify(config, "e", CPU),
        identify(config, "d", CPU | {"precision": "mixed_bfloat16"}),
        identify(config, "d", CPU | {"device": "gpu"}),
        replace(same, code="0" * 64),
        replace(same, libraries={"tensorflow": "0"}),
    )
    digests = {same.digest, *(other.digest for other in others)}
    assert len(digests) == 1 + len(others)
    # What explains does not count.
    assert replace(same, files={}).digest == same.digest
    assert (same.tags[PRECISION], same.tags[DEVICE]) == ("float32", "cpu")
    assert same.files.keys() >= {"catdog/training/model.py", "catdog/training/loop.py"}
    assert "catdog.training.model" in list_training_modules()
    assert "catdog.training.run_logging" not in list_training_modules()


def test_a_user_s_code_and_libraries_belong_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "my_layers.py"
    mine.write_text(
        "import keras\nimport yaml\nfrom omegaconf import OmegaConf\n\nclass Blur(keras.layers.Layer):\n    RADIUS = 1\n"
    )
    config = compose_config("model=cnn")
    config.augmentation.layers["blur"] = {"layer": "my_layers:Blur"}
    before = identify(config, "d", CPU)
    assert before.sources == {"my_layers.py": mine.read_text()}
    # By the names of the distributions, not of the modules.
    assert {"pyyaml", "omegaconf", "keras", "tensorflow"} <= before.libraries.keys()
    mine.write_text(mine.read_text().replace("RADIUS = 1", "RADIUS = 22"))
    after = identify(config, "d", CPU)
    assert after.digest != before.digest
    assert [name for name, digest in after.files.items() if before.files[name] != digest] == ["my_layers.py"]


def test_precision_counts_as_what_it_became_not_as_it_was_asked_for() -> None:
    digests = {
        hash_config(compose_config(f"trainer.precision={word}"), with_seed=True)
        for word in ("auto", "float32", "mixed_bfloat16", "mixed_float16")
    }
    assert len(digests) == 1


def test_seeds_of_one_variant_share_a_key() -> None:
    config = compose_config("model=cnn")
    tags = identify(config, "d", CPU).tags | {VARIANT_DIGEST: hash_config(config, with_seed=False)}
    tags = Tags(tags)
    seeded = Tags(identify(compose_config("model=cnn", "seed=1"), "d", CPU).tags)
    assert Tags(seeded | {VARIANT_DIGEST: tags[VARIANT_DIGEST]}).variant_key() == Tags(tags).variant_key()
    for tag in (VARIANT_DIGEST, "catdog.code_digest", "catdog.libraries", PRECISION, DEVICE):
        assert Tags(tags | {tag: "another"}).variant_key() != Tags(tags).variant_key()
    runtime = (PRECISION, DEVICE)
    assert Tags(tags | {PRECISION: "another"}).variant_key(without=runtime) == Tags(tags).variant_key(without=runtime)
    # Data is asked for beside it.
    assert Tags(tags | {"catdog.data_digest": "another"}).variant_key() == Tags(tags).variant_key()


def test_old_runs_without_tags_have_a_key_of_what_they_have() -> None:
    assert Tags({}).variant_key() == Tags({PRECISION: "float32"}).variant_key() == ""
    assert Tags({VARIANT_DIGEST: "1" * 64}).variant_key() == "1" * 64
    old = {VARIANT_DIGEST: "1" * 64, "catdog.code_digest": "2" * 64}
    assert Tags(old).variant_key() == Tags(dict(old)).variant_key() != Tags(old | {DEVICE: "cpu"}).variant_key()


def test_digests_are_one_tag_and_read_like_the_single_tags_of_older_runs() -> None:
    identity = identify(compose_config("model=cnn"), "d", CPU)
    written = identity.tags
    assert written.keys() == {"catdog.identity", "catdog.details", PRECISION, DEVICE}
    older = {
        "catdog.config_digest": identity.config, "catdog.data_digest": "d", "catdog.code_digest": identity.code,
        "catdog.libraries": json.dumps(identity.libraries), "catdog.code_files": json.dumps(identity.files),
    }  # fmt: skip
    read = Tags(written)
    assert {key: read[key] for key in older} == older
    assert (read.code_files, read.libraries) == (identity.files, identity.libraries)
    both = {VARIANT_DIGEST: "v"}
    runtime = {PRECISION: written[PRECISION], DEVICE: written[DEVICE]}
    assert Tags(older | runtime | both).is_same_variant(Tags(written | both))


def test_a_tag_that_is_too_long_stays_on_its_own() -> None:
    tags = {"catdog.code_digest": "c" * 64, "catdog.code_files": json.dumps({"file": "f" * 7950})}
    written = gather(tags)
    assert max(len(value) for value in written.values()) <= 8000
    assert Tags(written).items() >= tags.items()
    assert json.loads(written["catdog.details"]).keys() == {"catdog.code_digest"}


def test_seeds_are_of_one_variant_and_the_same_data() -> None:
    run = Tags({VARIANT_DIGEST: "v", DATA_DIGEST: "d"})
    assert run.is_same_variant(Tags(run))
    assert not run.is_same_variant(Tags(run | {DATA_DIGEST: "e"}))
    assert not run.is_same_variant(Tags(run | {VARIANT_DIGEST: "w"}))
    assert not Tags({DATA_DIGEST: "d"}).is_same_variant(Tags({DATA_DIGEST: "d"}))


def test_a_change_of_the_runtime_in_words() -> None:
    before = {"precision": "float32", "device": "cpu"}
    assert describe_runtime_change(before, before) == ""
    assert describe_runtime_change({}, before) == ""
    now = {"precision": "mixed_float16", "device": "gpu"}
    assert describe_runtime_change(before, now) == "precision float32 -> mixed_float16, device cpu -> gpu"


# What precision and device will be, before TensorFlow is there.


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine's folder of device files, without those of a GPU."""
    for name in ("null", "dri"):
        (tmp_path / name).touch()
    monkeypatch.setattr(precision, "DEVICES", tmp_path)
    monkeypatch.setattr(precision, "_asked", {})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def test_a_machine_without_a_gpu_needs_no_tensorflow(machine: Path) -> None:
    assert not may_have_gpu()
    assert plan_precision(compose_config().trainer, ask=refuse) == choose_for_cpu(read_cpu_flags())
    explicit = plan_precision(compose_config("trainer.precision=mixed_bfloat16").trainer, ask=refuse)
    assert explicit.runtime == {"precision": "mixed_bfloat16", "device": "cpu"}
    with pytest.raises(UserError, match="mixed_float16 needs a GPU"):
        plan_precision(compose_config("trainer.precision=mixed_float16").trainer, ask=refuse)


@pytest.mark.parametrize("file", ["nvidiactl", "nvidia0", "kfd", "dxg"])
def test_where_there_may_be_a_gpu_tensorflow_is_asked_once(machine: Path, file: str, monkeypatch) -> None:
    (machine / file).touch()
    asked = []

    def ask() -> list[tuple[int, ...]]:
        asked.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
        return [(8, 0)]

    for _ in range(2):
        found = plan_precision(compose_config().trainer, ask=ask)
        assert found.runtime == choose_for_gpus([(8, 0)]).runtime == {"precision": "mixed_float16", "device": "gpu"}
    assert asked == [None]
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert find_gpus(refuse) == []
    # A driver, and no GPU that TensorFlow can use.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert plan_precision(compose_config().trainer, ask=list).device == "cpu"


def test_a_sweep_asks_tensorflow_in_another_process(machine: Path) -> None:
    """It starts the real server; on a machine without a GPU it answers that there is none."""
    from catdog.sweeps.check import plan_runtimes
    from catdog.training.precision import read_capabilities

    (machine / "nvidia0").touch()
    (found,) = plan_runtimes([("cnn", compose_config())])
    assert found["device"] == ("gpu" if read_capabilities() else "cpu")


def test_a_training_does_what_was_planned_or_says_why_not() -> None:
    config = compose_config().trainer
    found = choose_precision(config)
    assert choose_precision(config, found.runtime) == found
    # On GPUs of several kinds, one run of a sweep would choose another precision than the others.
    other = {"float32": "mixed_bfloat16"}.get(found.policy, "float32")
    assert choose_precision(config, found.runtime | {"precision": other}).policy == other
    elsewhere = {"cpu": "gpu", "gpu": "cpu"}[found.device]
    with pytest.raises(UserError, match=rf"planned for a {elsewhere.upper()}, but .*CUDA_VISIBLE_DEVICES=-1"):
        choose_precision(config, found.runtime | {"device": elsewhere})
