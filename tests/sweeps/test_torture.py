"""A sweep that is killed again and again ends as if nothing had happened: a small torture; `make torture` is the long one."""

import random

import pytest
from torture import SWEEP, Torture, await_end, describe_store, find_differences, find_leftovers

pytestmark = pytest.mark.slow

# Both precisions; a schedule, patience and an optimizer whose state a checkpoint must have; drawn_mini has dropout,
# augmentation and a frozen backbone.
ARGUMENTS = [*SWEEP, "model=drawn_mini", "trainer.precision=float32,mixed_bfloat16", "trainer.schedule=cosine",
             "trainer.warmup_epochs=1", "trainer.patience=2", "optimizer=adamw"]  # fmt: skip
# Those of `make torture` at which most is half done; a run is trained, its checkpoint written, it is delivered, and promoted.
MOMENTS = (
    "catdog.training.loop:FiniteLoss.on_train_batch_end:5",
    "catdog.tracking.checkpoint:_write:2",
    "mlflow.tensorflow:save_model:1",
    "mlflow.tracking.client:MlflowClient.create_model_version:1",
)


@pytest.mark.nightly
def test_a_sweep_killed_again_and_again_equals_an_uninterrupted_one(tmp_path) -> None:
    """The same runs, metrics, weights and predictions bit for bit, the same champion; nothing open, left over or alive."""
    calm = Torture(tmp_path / "calm", tmp_path / "calm-cache", ARGUMENTS)
    tortured = Torture(tmp_path / "tortured", tmp_path / "cache", ARGUMENTS)
    for each in (calm, tortured):
        each.folder.mkdir()
    assert calm.run() == 0, calm.terminal
    for moment in MOMENTS[:2]:
        assert tortured.run_until(moment), (moment, tortured.terminal)
    # The leader alone: its run notices, closes itself, and the next command waits for it.
    killed = tortured.run_for(random.Random(0).uniform(6, 9), leader_alone=True)
    for moment in MOMENTS[2:]:
        assert tortured.run_until(moment), (moment, tortured.terminal)
    assert tortured.run() == 0, tortured.terminal
    await_end(tortured.folder)
    differences = [*find_differences(describe_store(calm.folder), describe_store(tortured.folder))]
    assert not differences, (killed, differences)
    assert not find_leftovers(tortured)
