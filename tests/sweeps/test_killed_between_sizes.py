"""A run with all ingredients on, killed while image sizes change, ends as if nothing had happened."""

import pytest
from torture import SWEEP, Torture, await_end, describe_store, find_differences, find_leftovers

pytestmark = pytest.mark.slow

# Epochs of 3 steps; the third begins with larger images.
INGREDIENTS = [
    *SWEEP, "model=augmented", "augmentation=trivial", "augmentation.mix.mixup=0.2", "augmentation.mix.cutmix=1", "trainer.ema=0.9",
    "trainer.average_flips=true", "loss.label_smoothing=0.1", "optimizer=adamw", "trainer.schedule=cosine", "trainer.epochs=4",
    "trainer.sizes={0: 24, 0.5: 1}", "head.pooling=global_average", "head.units=0",
]  # fmt: skip
SIZE_CHANGE = (
    # The first step on larger images; after a start from the checkpoint before it, a validation with averaged weights.
    "catdog.training.loop:FiniteLoss.on_train_batch_end:7",
    "catdog.training.averaging:WeightAverage.on_test_begin:1",
)


@pytest.mark.nightly
def test_with_all_ingredients_a_run_killed_while_sizes_change_equals_an_uninterrupted_one(tmp_path) -> None:
    calm = Torture(tmp_path / "calm", tmp_path / "cache", INGREDIENTS)
    tortured = Torture(tmp_path / "tortured", tmp_path / "cache", INGREDIENTS)
    for each in (calm, tortured):
        each.folder.mkdir()
    assert calm.run() == 0, calm.terminal
    for moment in SIZE_CHANGE:
        assert tortured.run_until(moment), (moment, tortured.terminal)
    assert tortured.run() == 0, tortured.terminal
    await_end(tortured.folder)
    assert not [*find_differences(describe_store(calm.folder), describe_store(tortured.folder))]
    assert not find_leftovers(tortured)
