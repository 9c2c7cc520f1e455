"""The command `ui`: shows a study's runs on MLflow's own pages. `python -m catdog.ui --help` explains it."""

import contextlib
import os
import signal
import sys
import webbrowser

from omegaconf import DictConfig
from rich.text import Text

from catdog import cli
from catdog.config.commands import UiConfig
from catdog.config.schema import load_config
from catdog.system import interrupts
from catdog.system.errors import UserError
from catdog.system.terminal import console, status_shown

USAGE = """Shows a study's runs on MLflow's pages, in the browser: a list with their accuracy, and their curves side by side.

  python -m catdog.ui                           the study trained last
  python -m catdog.ui study=quickstart
  python -m catdog.ui port=5001 open=false
  python -m catdog.ui tracking.uri=http://HOST:PORT     a tracking server: opens its pages, starts nothing"""


def ui(composed: DictConfig) -> None:
    """Starts MLflow's server on the store, opens the browser at the study's runs, and stops the server at Ctrl-C."""
    config = load_config(composed, UiConfig)
    # Imported here so that --help and config errors are fast.
    from catdog import tracking
    from catdog.tracking.pages import complete_study, study_address
    from catdog.tracking.records import find_newest_study, find_study
    from catdog.tracking.server import serve

    # The first Ctrl-C, or SIGTERM, stops the server; later ones must not interrupt that.
    interrupts.listen(once=True)
    if hasattr(signal, "SIGHUP"):
        # The server must not outlive a terminal that is closed.
        signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
    try:
        client = tracking.connect(config.tracking, create=False)
        study = config.study or find_newest_study(client)
        experiment_id = find_study(client, study)
        # A store that cannot be written can be shown all the same, without the views.
        with contextlib.suppress(Exception):
            complete_study(client, experiment_id)
        if config.tracking.uri.startswith("http"):
            _show(study, study_address(config.tracking.uri, experiment_id), config.open)
            return
        with contextlib.ExitStack() as stack:
            with status_shown("starting MLflow's server"):
                server, process = stack.enter_context(serve(config.tracking, config.host, config.port))
            _show(study, study_address(server, experiment_id), config.open)
            console.print("Ctrl-C stops it.", highlight=False)
            process.wait()
            raise UserError("MLflow's server ended by itself. Start it again with the same command.")
    except KeyboardInterrupt:
        console.print("stopped", highlight=False)


def _show(study: str, address: str, open: bool) -> None:
    """Prints the address, and opens it in the browser if there is one."""
    console.print(Text.assemble(f"{study}: ", (address, "cyan")), soft_wrap=True)
    graphical = sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"} & os.environ.keys()
    if open and graphical:
        with contextlib.suppress(webbrowser.Error):
            webbrowser.open(address)


if __name__ == "__main__":
    cli.run_app("ui", ui, usage=USAGE)
