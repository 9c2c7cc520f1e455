"""Checks of custom code, the optimizer and the loss, made before training."""

import keras

from catdog.config.schema import Config, find_references
from catdog.training.callbacks import build_callbacks
from catdog.training.losses import check_loss
from catdog.training.model import build_kept_model
from catdog.training.optimizers import check_optimizer
from catdog.training.own_models import check_saving, require_logits


def check_own_code(config: Config, model: keras.Model, classes: int, policy: str) -> None:
    """Raises UserError unless optimizer, loss and callbacks can be built, and a custom model can be saved and loaded again.

    Args:
        config: the run's config.
        model: the model that `catdog.training.model.build_model` returned.
        classes: number of classes.
        policy: Keras dtype policy that the model was built with.
    """
    check_optimizer(config.optimizer)
    check_loss(config.loss, classes, mixed=config.augmentation.mix.is_on)
    build_callbacks(config.trainer)
    own = {key: name for key, name in find_references(config).items() if key.startswith(("model.", "backbone."))}
    if own:
        key, reference = next(iter(own.items()))
        if config.model.builder:
            require_logits(model, reference)
        check_saving(build_kept_model(config, model, policy), key, reference)
