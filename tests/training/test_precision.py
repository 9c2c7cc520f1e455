"""Precision and devices: the fastest policy that is safe, and why."""

import pytest

from catdog.config.schema import TrainerConfig
from catdog.system.errors import UserError
from catdog.tracking.artifacts import load_epoch_answers
from catdog.training.loop import Fit
from catdog.training.precision import (
    choose_for_cpu,
    choose_for_gpus,
    choose_precision,
    count_threads,
    name_cpu,
    use_policy,
)
from catdog.training.stages import name_differences


def test_a_cpu_gets_bfloat16_only_with_the_instructions() -> None:
    assert choose_for_cpu({"sse2", "avx512_bf16"}).policy == "mixed_bfloat16"
    assert choose_for_cpu({"amx_bf16"}).policy == "mixed_bfloat16"
    assert choose_for_cpu({"sse2", "avx2"}).policy == "float32"
    assert "avx512_bf16" in choose_for_cpu({"avx512_bf16"}).reason


@pytest.mark.parametrize(
    ("capabilities", "policy"),
    [
        ([(7, 0)], "mixed_float16"),
        ([(9, 0)], "mixed_float16"),
        ([(6, 1)], "float32"),
        ([(8, 0), (6, 0)], "float32"),
        ([], "float32"),
    ],
)
def test_a_gpu_gets_float16_from_compute_capability_7(capabilities, policy: str) -> None:
    assert choose_for_gpus(capabilities).policy == policy


def test_float16_is_refused_without_a_gpu_and_other_wishes_are_kept() -> None:
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="mixed_float16 needs a GPU"):
        choose_precision(TrainerConfig(precision="mixed_float16"))
    assert choose_precision(TrainerConfig(precision="mixed_bfloat16")).policy == "mixed_bfloat16"
    assert choose_precision(TrainerConfig()).policy in ("float32", "mixed_bfloat16")


def test_the_policy_does_not_leak() -> None:
    import keras

    before = keras.config.dtype_policy().name
    with use_policy("mixed_bfloat16"):
        assert keras.layers.Dense(1).compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == before


TWO_CPUS = """
import warnings
warnings.simplefilter("ignore")
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import sys, runpy
sys.argv = ["train", *sys.argv[1:]]
runpy.run_module("catdog.train", run_name="__main__")
"""


@pytest.mark.nightly
@pytest.mark.slow
def test_two_devices_train_as_one(tmp_path, cache) -> None:
    """A run mirrored over two logical CPUs counts every image once and learns what one device learns."""
    import mlflow
    from support import PROJECT, run_python, write_images

    # 13 + 12 training images in batches of 8: the last one has a single image for two devices.
    for number, (split, count) in enumerate((("train", 13), ("validation", 7))):
        write_images(tmp_path / "data" / split / "cats", count, seed=number)
        write_images(tmp_path / "data" / split / "dogs", count - 1, seed=number)
    accuracies, losses = {}, {}
    for devices in ("one", "all"):
        done = run_python(
            tmp_path, "-c", TWO_CPUS, "dataset=folder", "dataset.archive=data", "preprocessing.image_size=48",
            "model=cnn", f"trainer.devices={devices}", "trainer.batch_size=8", "trainer.precision=float32",
            "head.dropout=0", "trainer.epochs=3", "optimizer=sgd", "optimizer.momentum=0.0", "optimizer.nesterov=false",
            PYTHONPATH=str(PROJECT), CATDOG_CACHE=str(cache),
        )  # fmt: skip
        assert done.code == 0, done.text
        assert ("mirrored over 2 devices" in done.out) == (devices == "all")
        client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
        experiment = client.get_experiment_by_name("cats_vs_dogs")
        run = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])[0]
        accuracies[devices] = [
            [point.value for point in client.get_metric_history(run.info.run_id, key)]
            for key in ("train/loss", "val/loss")
        ]
        # Each device answers a part of every batch; together they are all images, in order.
        answers = load_epoch_answers(run.info.artifact_uri)
        assert answers is not None
        stored = [point.value for point in client.get_metric_history(run.info.run_id, "val/accuracy")]
        assert answers.right.mean(axis=1) == pytest.approx(stored)
        losses[devices] = answers.losses.astype(float)
    assert losses["all"] == pytest.approx(losses["one"], rel=0.02, abs=2e-3)
    # Not to the last bit: a batch of 9 is 5 + 4, and the mean of two means weighs an image of the four a little more.
    assert accuracies["all"][0] == pytest.approx(accuracies["one"][0], rel=2e-3)
    assert accuracies["all"][1] == pytest.approx(accuracies["one"][1], rel=2e-3)


@pytest.mark.nightly
@pytest.mark.slow
def test_a_frozen_backbone_trains_on_two_devices(tmp_path, cache) -> None:
    from support import PROJECT, TINY, run_python

    done = run_python(
        tmp_path, "-c", TWO_CPUS, "model=drawn_mini", *TINY, "trainer.devices=all", PYTHONPATH=str(PROJECT),
        CATDOG_CACHE=str(cache),
    )  # fmt: skip
    assert done.code == 0, done.text
    assert "mirrored over 2 devices" in done.out


def test_a_resumed_run_names_what_changes_its_last_bits() -> None:
    here = Fit(threads=count_threads(), cpu=name_cpu())
    assert name_differences(here) == []
    # As a checkpoint of an older catdog is read.
    assert name_differences(Fit(threads=count_threads())) == []
    assert name_differences(Fit(threads=count_threads(), cpu="amx_bf16")) == [
        f"the training began on a CPU with amx_bf16 and resumes on one with {name_cpu()}"
    ]
    (words,) = name_differences(Fit(threads=99, cpu=name_cpu()))
    assert words.startswith("the training began with 99 CPU threads and resumes with ")
