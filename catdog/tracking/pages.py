"""What MLflow's own pages show of a study: saved views of its runs with columns and charts, a description, and their address.

MLflow keeps the views under "Views", above the list of runs, as tags of the experiment. The format of such a tag is that of the
pages themselves (MLflow 3.17): other versions ignore what they do not know.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from catdog.tracking.metric_names import BEST_EPOCH, BEST_VAL_ACCURACY, FAIR_VAL_ACCURACY, FORMER_NAMES
from catdog.tracking.tags import EXPERIMENT_KIND, KIND, METRIC_NAMES, NAMES_MIXED, NAMES_NEW, NOTE, SWEEP, VARIANT, VIEW

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

# The view that a study opens with, and its tag.
RUNS_VIEW = "catdog-runs"
VARIANTS_VIEW = "catdog-variants"
# The pages sort views by this date and show it nowhere. A constant makes equal views equal tags.
CREATED_MS = 1_700_000_000_000
BEST = f"metrics.`{BEST_VAL_ACCURACY}`"
# Shown in this order, with widths in pixels. The last value of a curve is that of the last epoch.
COLUMNS = {
    BEST: 150, f"metrics.`{FAIR_VAL_ACCURACY}`": 140, f"metrics.`{BEST_EPOCH}`": 95, "metrics.`val/accuracy`": 110,
    "metrics.`train/accuracy`": 120, "metrics.`gap/accuracy`": 115,
}  # fmt: skip
RUN_NAME, CREATED, DURATION = "attributes.`Run Name`", "runDateAndNestInfo", "duration"
# The first groups of charts, and the curves in each.
CHARTS = {
    "Accuracy": ("val/accuracy", "train/accuracy", "gap/accuracy"),
    "Loss": ("val/loss", "train/loss"),
}
# Groups that the pages make of single numbers, one bar a run: folded, below the curves.
FOLDED = ("Model metrics", "System metrics")
# More of them in a study with runs that have metrics under their former names. Without such runs, the pages show them as empty.
FORMER_FOLDED = ("best", "final", "kept", "model", "train")


def study_tags(study: str, names: str = NAMES_NEW) -> dict[str, str]:
    """Returns the tags of a study's MLflow experiment: its kind, its views and its description.

    Args:
        study: its name.
        names: NAMES_MIXED: it has runs that have metrics under their former names; NAMES_NEW: it has none.
    """
    folded = FOLDED + (FORMER_FOLDED if names == NAMES_MIXED else ())
    return {
        # Versions of MLflow that ask for it otherwise treat the study as one about language models, and hide its charts.
        EXPERIMENT_KIND: "custom_model_development",
        VIEW + RUNS_VIEW: _build_view("Runs", None, folded),
        VIEW + VARIANTS_VIEW: _build_view("Variants, mean of seeds", VARIANT, folded),
        NOTE: _describe_study(study),
        METRIC_NAMES: names,
    }


def is_older(experiment: "Experiment") -> bool:
    """Returns whether a study's views are of an older catdog, with other metric names."""
    return METRIC_NAMES not in experiment.tags


def complete_study(client: "MlflowClient", experiment_id: str) -> None:
    """Gives a study of an older catdog the views and the description, and its runs the metrics that the views show.

    What a user wrote as description stays.

    Args:
        client: of the tracking store.
        experiment_id: the study's.
    """
    experiment = client.get_experiment(experiment_id)
    names = experiment.tags.get(METRIC_NAMES)
    if names is None:
        names = NAMES_MIXED if _copy_former_metrics(client, experiment_id) else NAMES_NEW
    # The tag METRIC_NAMES comes last: what is interrupted is done again.
    for key, value in study_tags(experiment.name, names).items():
        present = experiment.tags.get(key)
        if present != value and (present is None or key.startswith(VIEW)):
            client.set_experiment_tag(experiment_id, key, value)


def _copy_former_metrics(client: "MlflowClient", experiment_id: str) -> bool:
    """Adds the metrics of the list of runs, under today's names, to runs that have them under their former names.

    Returns:
        Whether there are such runs.
    """
    from mlflow.entities import Metric

    shown = {former: name for former, name in FORMER_NAMES.items() if f"metrics.`{name}`" in COLUMNS}
    former_best = next(former for former, name in FORMER_NAMES.items() if name == BEST_VAL_ACCURACY)
    token, any_run = None, False
    while True:
        found = client.search_runs([experiment_id], f"metrics.`{former_best}` >= 0", page_token=token)
        any_run |= bool(found)
        for run in found:
            # With time and step, MLflow treats a metric that is logged again as the same.
            points = [point for point in run.data._metric_objs if point.key in shown]
            added = [Metric(shown[point.key], point.value, point.timestamp, point.step) for point in points]
            client.log_batch(run.info.run_id, metrics=added)
        token = found.token
        if not token:
            return any_run


def study_address(server: str, experiment_id: str) -> str:
    """Returns the address of a study's runs on MLflow's pages, as a list with their accuracy.

    Args:
        server: the address of an MLflow server.
        experiment_id: the study's.
    """
    # Without the workflow, MLflow 3.17 opens every study as one about language models, whatever its kind.
    query = {"viewStateShareKey": RUNS_VIEW, "workflowType": "machine_learning"}
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{urlencode(query)}"


def _build_view(name: str, group_tag: str | None, folded: Sequence[str]) -> str:
    """Returns the tag of a view: the runs and ensembles of a study, best first, without the sweeps that they belong to.

    Args:
        name: what the menu calls it.
        group_tag: runs with the same value of this tag are shown as one, with the mean of their metrics; None: each run.
        folded: the groups of charts below the curves.
    """
    charts = [_build_chart(metric, section) for section, metrics in CHARTS.items() for metric in metrics]
    grouping = {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": group_tag}]}
    state: Mapping[str, Any] = {
        "searchFilter": f"tags.`{KIND}` != '{SWEEP}'",
        # Any order but that by date shows runs that a sweep would otherwise hide until it is unfolded.
        "orderByKey": BEST, "orderByAsc": False, "startTime": "ALL", "lifecycleFilter": "Active", "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [*COLUMNS],
        "columnOrder": [RUN_NAME, *COLUMNS, DURATION, CREATED],
        "columnWidths": {RUN_NAME: 220, **COLUMNS, DURATION: 90, CREATED: 150},
        "runsHidden": [], "runsHiddenMode": "FIRST_20_RUNS", "groupBy": grouping if group_tag else None,
        "useGroupedValuesInCharts": True,
        "compareRunCharts": charts,
        "compareRunSections": [
            *(_build_section(section, display=True) for section in CHARTS),
            *(_build_section(section, display=False) for section in folded),
        ],
        # Otherwise the pages sort the groups by name.
        "isAccordionReordered": True, "hideEmptyCharts": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }  # fmt: skip
    # Compressed as the pages do it: some versions of MLflow allow a tag 5,000 characters.
    packed = "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    return json.dumps({"name": name, "createdAt": CREATED_MS, "updatedAt": CREATED_MS, "state": packed})


def _build_section(name: str, *, display: bool) -> dict[str, Any]:
    return {
        "uuid": name, "name": name, "display": display, "isReordered": False, "deleted": False, "isGenerated": False,
        "columns": 2,
    }  # fmt: skip


def _build_chart(metric: str, section: str) -> dict[str, Any]:
    """Returns a chart with one curve a run, by epoch."""
    return {
        "uuid": metric, "type": "LINE", "metricSectionId": section, "metricKey": metric, "displayName": metric,
        "deleted": False, "isGenerated": False, "runsCountToCompare": 20, "lineSmoothness": 0, "scaleType": "linear",
        "xAxisScaleType": "linear", "xAxisKey": "step", "selectedXAxisMetricKey": "", "yAxisKey": "metric",
        "yAxisExpressions": [], "range": {}, "ignoreOutliers": False, "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }  # fmt: skip


def _describe_study(study: str) -> str:
    """Returns the description of a study, in Markdown."""
    return (
        f"A study trained with catdog. *Views* has its runs with their accuracy and curves. The verdicts: "
        f"`python -m catdog.compare study={study}`."
    )
