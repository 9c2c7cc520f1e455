"""What a comparison with a single variant lacks: something to compare it with."""

from typing import TYPE_CHECKING

from catdog.comparison.analysis import Analysis
from catdog.config.command_lines import next_command
from catdog.tracking.records import StoredRun, get_run, list_recent_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient

# How many of a study's newest runs are searched for one to compare with.
RECENT_RUNS = 100
# What the learning rate of a suggested variant is multiplied by.
OTHER_RATE = 0.3


def find_partner(client: "MlflowClient", study: str, run_id: str) -> StoredRun | None:
    """Returns the newest finished run of another variant on the same data; None if the study has none."""
    run = get_run(client, run_id)
    others = (
        other
        for other in list_recent_runs(client, study, RECENT_RUNS)
        if other.is_finished and other.data_digest == run.data_digest and not other.tags.is_same_variant(run.tags)
    )
    return next((other for other in others if other.run_id != run_id), None)


def suggest_partners(client: "MlflowClient", analysis: Analysis, uri: str) -> list[str]:
    """Returns commands that compare the only variant of a comparison with another one: of the study, or trained first.

    Args:
        client: a client of the tracking store.
        analysis: of one variant, or of none.
        uri: the tracking address, for the commands.
    """
    if not analysis.variants:
        return []
    record, study = analysis.variants[0].records[0], analysis.comparison.study
    partner = find_partner(client, study, record.run_id)
    found = [next_command("compare", study, uri, f"runs={record.run_id},{partner.run_id}")] if partner else []
    overrides = record.tags.overrides
    if overrides is None:
        return found
    rate = float(record.params.get("trainer.learning_rate", 0.001))
    own = ("study", "tracking.uri", "trainer.learning_rate")
    kept = [item for item in overrides if item.partition("=")[0] not in own]
    seeds = ",".join(map(str, sorted({0, 1, 2, *analysis.variants[0].seeds})))
    varied = f"trainer.learning_rate={rate:g},{OTHER_RATE * rate:g}"
    return [*found, next_command("train", study, uri, "-m", *kept, varied, f"seed={seeds}")]
