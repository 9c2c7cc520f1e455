"""The command `delete`: deletes a run, a sweep or a study, or forgets a champion. `python -m catdog.delete --help` explains it."""

import sys
from collections.abc import Callable

from omegaconf import DictConfig

from catdog import cli
from catdog.config.command_lines import next_command, quote
from catdog.config.commands import DeleteConfig
from catdog.config.schema import DEFAULT_STUDY, load_config
from catdog.system.errors import EXIT_USER_ERROR, UserError
from catdog.system.terminal import ask, can_ask, console

USAGE = """Deletes a run, a sweep with its runs, or a whole study; or forgets a champion. It shows what hangs on it and asks first.
What is deleted can be restored with `catdog.restore` until `catdog.clean` removes it for good.

  python -m catdog.delete run=RUN_ID
  python -m catdog.delete sweep=RUN_ID
  python -m catdog.delete study=NAME
  python -m catdog.delete champion=true study=NAME
  python -m catdog.delete run=RUN_ID yes=true   without a question, for scripts"""


def delete(composed: DictConfig) -> None:
    """Shows what would be deleted, asks, deletes it, and says how to restore it."""
    config = load_config(composed, DeleteConfig)
    named = _name_target(config)
    from catdog.study import Study

    if config.run or config.sweep:
        key = "run" if config.run else "sweep"
        study = Study.of_run(str(config.run or config.sweep), tracking_uri=config.tracking.uri, key=key)
    else:
        study = Study(str(config.study), tracking_uri=config.tracking.uri)
    study.tracking.outbox = config.tracking.outbox
    carry_out: Callable[[], object]
    if config.champion:
        champion = study.champion()
        lines = [
            f"the champion of the study {study.name!r}, {champion.words}: the alias is removed, the version stays registered"
        ]
        carry_out = study.forget_champion
    else:
        deletion = study.plan_deletion(run=config.run, sweep=config.sweep)
        lines, carry_out = deletion.describe(), deletion.carry_out
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if not config.yes:
        if not can_ask():
            again = next_command("delete", DEFAULT_STUDY, config.tracking.uri, *named, "yes=true")
            raise UserError(f"nothing was deleted, because there is no terminal to ask in. To delete this: {again}")
        if not ask("Delete this?"):
            console.print("Nothing was deleted.")
            sys.exit(EXIT_USER_ERROR)
    carry_out()
    undo = next_command("restore", DEFAULT_STUDY, config.tracking.uri, *named)
    console.print(f"Deleted. To undo it: {undo}", highlight=False, markup=False, soft_wrap=True)


def _name_target(config: DeleteConfig) -> list[str]:
    """Returns the arguments that name what is meant.

    Raises:
        UserError: nothing is named.
    """
    if config.run or config.sweep:
        return [f"run={config.run}" if config.run else f"sweep={config.sweep}"]
    if config.study:
        return [*(["champion=true"] if config.champion else []), f"study={quote(config.study)}"]
    raise UserError("name what to delete: run=RUN_ID, sweep=RUN_ID, study=NAME, or champion=true study=NAME.")


if __name__ == "__main__":
    cli.run_app("delete", delete, usage=USAGE)
