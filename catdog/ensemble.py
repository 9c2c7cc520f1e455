"""The command `ensemble`: makes one model of the seeds of a variant. `python -m catdog.ensemble --help` explains it."""

import shlex
import sys

from omegaconf import DictConfig

from catdog import cli
from catdog.config.command_lines import next_command
from catdog.config.commands import EnsembleConfig
from catdog.config.schema import DEFAULT_STUDY, load_config
from catdog.system.terminal import console, show_next

USAGE = """Makes one model of the finished seeds of a variant: it answers with the mean of their probabilities. It is judged by
stored answers first, then built, checked, recorded in the study, and registered; on enough evidence it becomes the champion.

  python -m catdog.ensemble                     the variant with the highest mean val accuracy
  python -m catdog.ensemble study=quickstart variant=cnn
  python -m catdog.ensemble runs=RUN_ID,RUN_ID
  python -m catdog.ensemble plan_only=true      judge it, and build nothing"""


def ensemble(composed: DictConfig) -> None:
    """Judges the ensemble, shows that, builds it, and says what to do next."""
    config = load_config(composed, EnsembleConfig)
    from catdog.study import Study

    # With JSON, stdout must contain nothing but the result.
    console.stderr = config.format == "json"
    uri = config.tracking.uri
    if config.study is None and config.runs:
        study = Study.of_run(config.runs[0], tracking_uri=uri, key="runs")
    else:
        study = Study(config.study or DEFAULT_STUDY, tracking_uri=uri)
    study.tracking.outbox, study.tracking.wait_s = config.tracking.outbox, config.tracking.wait_s
    plan = study.plan_ensemble(variant=config.variant, runs=config.runs)
    for line in plan.describe():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    members = ",".join(run.run_id for run in plan.members)
    if config.plan_only:
        steps = [next_command("ensemble", study.name, uri, f"runs={members}")]
        found = plan.to_dict()
    else:
        built = study.ensemble(
            plan, promote=config.promote, archive=config.dataset.archive, cache=config.dataset.cache,
            batch_size=config.batch_size, command=shlex.join(["python", "-m", "catdog.ensemble", *sys.argv[1:]]),
        )  # fmt: skip
        if built.rounding is not None:
            words = f"built as run {built.run_id}; its answers are the mean of its members' but for rounding, {built.rounding:.1g}"
            console.print(words, highlight=False, markup=False, soft_wrap=True)
        steps = [
            next_command("compare", study.name, uri, f"runs={built.run_id},{members}"),
            next_command("predict", study.name, uri, "PHOTO.jpg", f"model={built.run_id}"),
        ]
        found = built.to_dict()
    if config.format == "json":
        cli.show_json("ensemble", {"study": study.name, **found, "next": steps})
        return
    show_next(*steps)


if __name__ == "__main__":
    cli.run_app("ensemble", ensemble, usage=USAGE)
