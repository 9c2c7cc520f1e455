"""The command `restore`: restores what was deleted. `python -m catdog.restore --help` explains it."""

from omegaconf import DictConfig

from catdog import cli
from catdog.config.command_lines import next_command
from catdog.config.commands import RestoreConfig
from catdog.config.schema import load_config
from catdog.system.errors import UserError
from catdog.system.terminal import console, show_next

USAGE = """Restores a run, a sweep with its runs, a study or a champion that was deleted, by `catdog.delete` or on MLflow's pages.

  python -m catdog.restore run=RUN_ID
  python -m catdog.restore sweep=RUN_ID
  python -m catdog.restore study=NAME
  python -m catdog.restore champion=true study=NAME"""


def restore(composed: DictConfig) -> None:
    """Restores what is named, says what came back, and what to do next."""
    config = load_config(composed, RestoreConfig)
    if not (config.run or config.sweep or config.study):
        raise UserError("name what to restore: run=RUN_ID, sweep=RUN_ID, study=NAME, or champion=true study=NAME.")
    from catdog.study import Study

    uri = config.tracking.uri
    if config.run:
        study = Study.of_run(config.run, tracking_uri=uri, key="run")
        restored = study.restore_run(config.run)
    elif config.sweep:
        study = Study.of_run(config.sweep, tracking_uri=uri, key="sweep")
        restored = study.restore_sweep(config.sweep)
    else:
        study = Study(str(config.study), tracking_uri=uri)
        restored = [f"{study.restore_champion().words}, the champion"] if config.champion else study.restore()
    for words in restored:
        console.print(f"restored: {words}", highlight=False, markup=False, soft_wrap=True)
    show_next(next_command("evaluate" if config.champion else "compare", study.name, uri))


if __name__ == "__main__":
    cli.run_app("restore", restore, usage=USAGE)
