"""The optimizer that the config describes: a Keras class or a custom one, with weight decay on kernels only."""

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import keras

from catdog.config.schema import OptimizerConfig
from catdog.system.errors import UserError
from catdog.system.own_objects import explain
from catdog.training.own_code import call, load_class, quote_error

# Options that are set elsewhere, and options with which the kept weights would differ from the validated ones.
ELSEWHERE = {
    "learning_rate": "Use trainer.learning_rate.",
    "name": "It has no use here.",
    "use_ema": "The weights would change after the last validation. Average them in a callback: trainer.callbacks.",
}
# Muon's names for the moving averages of the AdamW part, which trains all other variables.
MUON_NAMES = {"beta_1": "adam_beta_1", "beta_2": "adam_beta_2"}


def build_optimizer(config: OptimizerConfig, learning_rate: Any, variables: Sequence[Any]) -> Any:
    """Returns the optimizer, not built yet.

    Biases and the scales and offsets of norms get no weight decay: shrinking them only limits the model.

    Args:
        config: the config's section `optimizer`.
        learning_rate: a number, or a Keras schedule.
        variables: the trainable variables.

    Raises:
        UserError: there is no such class, or it does not take the arguments.

    Source: for weight decay, He et al. (2019), "Bag of tricks for image classification with convolutional neural networks",
    CVPR, section 3.1.
    """
    key = "optimizer.algorithm"
    kind = load_class(key, config.algorithm, keras.optimizers, keras.optimizers.Optimizer)
    arguments = _list_arguments(config, kind)
    _require_accepted(config, kind, arguments)
    if ":" in config.algorithm:
        arguments = {"learning_rate": learning_rate, **arguments}
        optimizer = call(key, config.algorithm, kind, {}, arguments, "optimizer.options")
    else:
        try:
            optimizer = kind(learning_rate=learning_rate, **arguments)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"optimizer: {config.algorithm} does not take {arguments}: {quote_error(error)}."
            ) from error
    if optimizer.weight_decay:
        optimizer.exclude_from_weight_decay(var_list=list_undecayed(variables))
    return optimizer


def scale_rate(optimizer: Any, variables: Sequence[Any], factor: float, *, from_step: int = 0) -> None:
    """Multiplies the learning rate of some variables, and with it their weight decay; before `from_step` they do not change at all.

    Keras has one learning rate for all variables, so two methods of this optimizer are replaced: the update of a variable, and the
    weight decay. Scaled gradients would not do the same: Adam divides them by their size.

    Args:
        optimizer: of Keras, not wrapped.
        variables: those with another rate.
        factor: of the learning rate, 0 or more.
        from_step: the number of steps without a change.

    Source: Howard and Ruder (2018), "Universal language model fine-tuning for text classification", section 3.2: discriminative
    fine-tuning and gradual unfreezing.
    """
    scaled = {optimizer._var_key(variable) for variable in variables}
    update_step, apply_weight_decay = optimizer.update_step, optimizer._apply_weight_decay

    def rate() -> Any:
        return factor * keras.ops.cast(optimizer.iterations >= from_step, "float32") if from_step else factor

    def update(gradient: Any, variable: Any, learning_rate: Any) -> None:
        if optimizer._var_key(variable) in scaled:
            learning_rate = learning_rate * rate()
        update_step(gradient, variable, learning_rate)

    def decay(variables: Sequence[Any]) -> None:
        whole = optimizer.weight_decay
        if not whole:
            return
        apply_weight_decay([variable for variable in variables if optimizer._var_key(variable) not in scaled])
        optimizer.weight_decay = whole * rate()
        apply_weight_decay([variable for variable in variables if optimizer._var_key(variable) in scaled])
        optimizer.weight_decay = whole

    optimizer.update_step, optimizer._apply_weight_decay = update, decay


def list_undecayed(variables: Sequence[Any]) -> list[Any]:
    """Returns the variables without weight decay: biases, and the scales and offsets of norms."""
    return [v for v in variables if len(v.shape) < 2 or v.name in ("bias", "gamma", "beta")]


def check_optimizer(config: OptimizerConfig) -> None:
    """Raises UserError unless the optimizer can be built and takes a step."""
    variable = keras.Variable([[1.0, 2.0], [3.0, 4.0]], name="kernel")
    optimizer = build_optimizer(config, 0.001, [variable])
    with explain("optimizer.algorithm", config.algorithm, "taking a step"):
        optimizer.build([variable])
        optimizer.apply([keras.ops.ones((2, 2))], [variable])


def _list_arguments(config: OptimizerConfig, kind: type) -> dict[str, Any]:
    for name, advice in ELSEWHERE.items():
        if name in config.options:
            raise UserError(f"optimizer.options.{name}: cannot be set here. {advice}")
    own_keys = {field.name: field.name for field in dataclasses.fields(config)} | dict.fromkeys(
        ("beta_1", "beta_2"), "betas"
    )
    for name in config.options:
        if name in own_keys:
            raise UserError(f"optimizer.options.{name}: cannot be set here. Use optimizer.{own_keys[name]}.")
    settings = {key: value for key, value in config.settings.items() if key not in ("algorithm", "options", "betas")}
    if config.betas is not None:
        settings |= dict(zip(("beta_1", "beta_2"), config.betas, strict=True))
    if issubclass(kind, getattr(keras.optimizers, "Muon", ())):
        settings = {MUON_NAMES.get(name, name): value for name, value in settings.items()}
        if config.weight_decay is not None:
            settings["adam_weight_decay"] = config.weight_decay
    return settings | config.options


def _require_accepted(config: OptimizerConfig, kind: type, arguments: dict[str, Any]) -> None:
    parameters = inspect.signature(kind).parameters
    if ":" in config.algorithm and any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        # The class passes other arguments on to Keras, which checks them.
        return
    known = [name for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD and name not in ELSEWHERE]
    for name in arguments:
        if name not in known:
            key = f"optimizer.options.{name}" if name in config.options else f"optimizer.{name}"
            raise UserError(f"{key}: {config.algorithm} takes no such argument. It takes {', '.join(known)}.")
