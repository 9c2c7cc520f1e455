"""The names of the metrics by which runs can be compared, and their checks. What they measure is in `catdog.statistics.metrics`."""

import re

from catdog.config.suggestions import suggest
from catdog.system.errors import UserError

ACCURACY, LOG_LOSS = "accuracy", "log_loss"
METRICS = (ACCURACY, "balanced_accuracy", LOG_LOSS, "brier", "auc", "f1", "top_5")
# `cost:FILE` is a matrix of costs, `f1:CLASS` the F1 of one class.
COST, F1 = "cost:", "f1:"
# Your own: `module:function`.
OWN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
# What Keras and scikit-learn call some of them.
KERAS_NAMES = {
    "acc": ACCURACY, "accuracy_score": ACCURACY, "binary_accuracy": ACCURACY, "categorical_accuracy": ACCURACY,
    "loss": LOG_LOSS, "crossentropy": LOG_LOSS, "cross_entropy": LOG_LOSS, "roc_auc": "auc", "top_5_accuracy": "top_5",
}  # fmt: skip
FORMS = f"{', '.join(METRICS)}, f1:CLASS, cost:FILE, or your own as module:function"
# For the help of options.
HELP = f"one of {FORMS}"


def is_own(name: str) -> bool:
    """Whether a metric's name is `module:function`."""
    return name not in METRICS and not name.startswith((COST, F1))


def require_metric(key: str, name: str) -> None:
    """Raises a UserError unless a metric may have this name; whether its file or function exists is checked when it is loaded."""
    if name in METRICS or any(name.startswith(form) and name != form for form in (COST, F1)):
        return
    if is_own(name) and OWN.fullmatch(name):
        return
    _refuse(key, name, FORMS)


def require_keep_metric(key: str, name: str) -> None:
    """Raises a UserError unless the epoch that is kept can be chosen by the metric of this name."""
    if name not in METRICS:
        _refuse(key, name, f"one of {', '.join(METRICS)}")


def _refuse(key: str, name: str, allowed: str) -> None:
    near = KERAS_NAMES.get(str(name).removeprefix("val_").lower()) or suggest(str(name), METRICS)
    hint = f" Did you mean {near}?" if near else ""
    raise UserError(f"{key}: must be {allowed}, received {name!r}.{hint}")


def require_margin(key: str, margin: float | None, metric: str) -> None:
    """Raises a UserError unless the margin is possible for a metric: of shares less than 1; of your own function not left out."""
    if margin is None:
        if is_own(metric):
            raise UserError(
                f"{key}: must be given with metric={metric}, because nothing is known about the size of its values. It is the "
                "difference that you do not care about, such as margin=0.02."
            )
        return
    if (metric in METRICS and metric != LOG_LOSS) or metric.startswith(F1):
        if not 0 < margin < 1:
            raise UserError(f"{key}: must be more than 0 and less than 1, received {margin!r}.")
    elif not 0 < margin < float("inf"):
        raise UserError(f"{key}: must be more than 0, received {margin!r}.")
