"""A sweep that is killed again and again ends as if nothing had happened: a small torture; `make torture` is the long one."""

import random

import pytest
from torture import SWEEP, Torture, await_end, describe_store, find_differences, find_leftovers

pytestmark = pytest.mark.slow

# Both precisions; a schedule, patience and an optimizer whose state a checkpoint must have; dropout, augmentation and
# the frozen backbone of drawn_mini.
ARGUMENTS = [*SWEEP, "model=augmented,drawn_mini", "trainer.schedule=cosine", "trainer.warmup_epochs=1", "trainer.patience=2",
             "trainer.optimizer=adamw"]  # fmt: skip
MOMENTS = {
    "float32": ("catdog.data.images:decode_image:20", "catdog.fit:FiniteLoss.on_train_batch_end:5",
                "catdog.checkpoint:_write:2", "mlflow.tensorflow:save_model:1",
                "mlflow.tracking.client:MlflowClient.create_model_version:1"),
    "mixed_bfloat16": ("mlflow.tracking.client:MlflowClient.create_run:1", "catdog.checkpoint:_remove_superseded:1",
                       "catdog.track.spool:Entry.save_state:5", "catdog.plots:plot_gap:1",
                       "mlflow.tracking.client:MlflowClient.log_model_artifacts:1"),
}  # fmt: skip


@pytest.mark.parametrize("precision", MOMENTS)
def test_a_sweep_killed_again_and_again_equals_an_uninterrupted_one(tmp_path, precision: str) -> None:
    """The same runs, metrics, weights and predictions bit for bit, the same champion; nothing open, left over or alive."""
    arguments = [*ARGUMENTS, f"trainer.precision={precision}"]
    calm = Torture(tmp_path / "calm", tmp_path / "calm-cache", arguments)
    tortured = Torture(tmp_path / "tortured", tmp_path / "cache", arguments)
    for each in (calm, tortured):
        each.folder.mkdir()
    assert calm.run() == 0, calm.terminal
    for moment in MOMENTS[precision]:
        assert tortured.run_until(moment), (moment, tortured.terminal)
    # The leader alone: its run notices, closes itself, and the next command waits for it.
    killed = tortured.run_for(random.Random(precision).uniform(3, 8), leader_alone=True)
    assert tortured.run() == 0, tortured.terminal
    await_end(tortured.folder)
    differences = [*find_differences(describe_store(calm.folder), describe_store(tortured.folder))]
    assert not differences, (killed, differences)
    assert not find_leftovers(tortured)
