"""Loads the metric that a name stands for: a cost matrix from its file, a function from its module."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from catdog.config.metrics import COST, F1, require_metric
from catdog.config.schema import Config
from catdog.config.suggestions import suggest_path
from catdog.statistics.metrics import NAMED, Metric, build_class_f1, build_cost, build_own
from catdog.system.errors import UserError
from catdog.system.own_objects import describe_type, load_object

_FORM = (
    "Its first line has the class names; then there is a line for each true class, in this order, with the cost of each "
    "prediction."
)


def load_metric(name: str, key: str = "metric") -> Metric:
    """Returns the metric of this name.

    Args:
        name: accuracy, log_loss and so on; cost:FILE, f1:CLASS or module:function.
        key: the config key that names it, for messages.

    Raises:
        UserError: there is no such metric, file or function, or the file is no cost matrix.
    """
    require_metric(key, name)
    if name in NAMED:
        return NAMED[name]
    if name.startswith(F1):
        return build_class_f1(name, name.removeprefix(F1))
    if name.startswith(COST):
        classes, costs = _read_costs(key, Path(name.removeprefix(COST)).expanduser())
        return build_cost(name, costs, classes)
    function = load_object(key, name)
    if not callable(function):
        raise UserError(f"{key}: {name} must be a function, but is {describe_type(function)}.")
    return build_own(name, function)


def require_possible_metrics(config: Config, class_names: Sequence[str]) -> None:
    """Raises a UserError unless a run's classes allow the metrics that its config names, and these exist."""
    load_metric(config.trainer.keep_metric).require_classes("trainer.keep_metric", tuple(class_names))
    if config.promote.enabled:
        load_metric(config.promote.metric, "promote.metric").require_classes("promote.metric", tuple(class_names))


def _read_costs(key: str, path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the classes and the costs, float64 (C, C), of a CSV file: the classes as header, then a row for each true class.

    A first column with the names of the true classes may be there; then the rows may be in any order.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        near = suggest_path(path)
        hint = f" Did you mean {near}?" if near and not path.exists() else ""
        reason = "there is no such file" if not path.exists() else f"it cannot be read ({error})"
        raise UserError(f"{key}: {path}: {reason}.{hint} It is a cost matrix as CSV. {_FORM}") from error
    if len(rows) < 2:
        raise UserError(f"{key}: {path} has no rows of costs. {_FORM}")
    head, body = rows[0], rows[1:]
    named = not _is_number(body[0][0])
    classes = tuple(head[1:] if named and len(body[0]) == len(head) else head)
    if len(set(classes)) != len(classes):
        raise UserError(f"{key}: {path} names a class twice: {', '.join(classes)}. {_FORM}")
    if named:
        body = _sort_rows(key, path, body, classes)
    if len(body) != len(classes) or any(len(row) != len(classes) for row in body):
        raise UserError(
            f"{key}: {path} must have {len(classes)} rows of {len(classes)} costs for the classes {', '.join(classes)}, received "
            f"{len(body)} rows of {', '.join(sorted({str(len(row)) for row in body}))}. {_FORM}"
        )
    try:
        costs = np.array(body, dtype=float)
    except ValueError as error:
        raise UserError(f"{key}: {path} must have numbers as costs: {error}. {_FORM}") from error
    if not np.isfinite(costs).all():
        raise UserError(f"{key}: {path} must have finite numbers as costs. {_FORM}")
    return classes, costs


def _sort_rows(key: str, path: Path, body: Sequence[list[str]], classes: tuple[str, ...]) -> list[list[str]]:
    """Returns the rows without their names, in the order of the classes."""
    by_name = {row[0]: row[1:] for row in body}
    if sorted(by_name) != sorted(classes) or len(body) != len(by_name):
        raise UserError(
            f"{key}: {path}: the rows must be named as the columns, {', '.join(classes)}, received "
            f"{', '.join(row[0] for row in body)}. {_FORM}"
        )
    return [by_name[name] for name in classes]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
