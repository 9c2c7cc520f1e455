"""`catdog COMMAND ...` and `python -m catdog COMMAND ...`: short for `python -m catdog.COMMAND ...`; alone, a list of commands."""

import runpy
import sys
from pathlib import Path

from catdog.config.suggestions import ask, suggest
from catdog.system.errors import EXIT_USER_ERROR
from catdog.system.terminal import console, show_error

COMMANDS = {
    "train": "train a model, or with -m a sweep of them",
    "compare": "put the runs of a sweep side by side",
    "decide": "train seeds until it is clear which variant is better",
    "tune": "search for good settings, and check that they are better",
    "status": "show who trains which run right now, on which host",
    "audit": "search a data set, or an input pipeline, for leaks and odd images; check new photos",
    "evaluate": "evaluate the champion on the test split",
    "ensemble": "make one model of the finished seeds of a variant",
    "predict": "say what is in pictures",
    "serve": "answer photos over HTTP, with a page to try the model",
    "export": "write a model as LiteRT, ONNX or SavedModel, and score the files again",
    "card": "write what is on record about a model as one HTML page",
    "ui": "show the runs of a study on MLflow's pages, in the browser",
    "delete": "delete a run, a sweep or a study, or forget the champion",
    "restore": "restore what was deleted",
    "clean": "remove for good what was deleted long ago, and old files of the cache",
    "deliver": "deliver the records that a tracking server did not accept during training",
}


def main() -> None:
    """Runs the command that the first argument names."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("--help", "-h"):
        lines = [f"python -m catdog.{name:12} {meaning}" for name, meaning in COMMANDS.items()]
        console.print(
            "\n".join([*lines, "", "Each has a --help. `catdog COMMAND` is short for `python -m catdog.COMMAND`."]),
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
        return
    if command not in COMMANDS:
        hint = ask([suggest(command, COMMANDS)])
        show_error(f"{command!r}: no such command.{hint} Commands: {', '.join(COMMANDS)}.")
        sys.exit(EXIT_USER_ERROR)
    # As with `python -m`: modules in the current folder can be imported, and sys.argv holds only the command's arguments.
    sys.path[0] = str(Path.cwd())
    del sys.argv[1]
    runpy.run_module(f"catdog.{command}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
