"""The command `serve`: answers photos over HTTP. `python -m catdog.serve --help` explains it."""

import logging
import os
import socket
import threading
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from catdog import cli
from catdog.config.commands import ServeConfig
from catdog.config.schema import load_config
from catdog.system import interrupts
from catdog.system.errors import UserError
from catdog.system.terminal import console, show_next, status_shown

if TYPE_CHECKING:
    from catdog.deployment.prediction import TrainedModel

log = logging.getLogger(__name__)

USAGE = """Answers photos over HTTP with a study's champion, and has a page to try it. A new champion is taken over while it runs.

  python -m catdog.serve                                  http://127.0.0.1:8000
  python -m catdog.serve study=flowers port=8080
  curl -F photos=@PHOTO.jpg http://127.0.0.1:8000/predict
  CATDOG_TOKEN=SECRET python -m catdog.serve              for others, who must send the token, behind a server with TLS

docs/serve.md has the rest: other ways to send photos, limits, metrics, containers."""

LOCAL = ("127.0.0.1", "localhost", "::1")
TOKEN = "CATDOG_TOKEN"
# How long requests may take to end after SIGTERM.
GRACE_S = 30
KEEP_ALIVE_S = 10
# A client that reads none of its answer for so long is cut off.
SEND_MS = 30_000
# Connections, beside those that the queue can be full of; more get status 503.
SPARE_CONNECTIONS = 100


def serve(composed: DictConfig) -> None:
    """Listens until Ctrl-C or SIGTERM; requests that have begun are answered."""
    config = load_config(composed, ServeConfig)
    listening = _listen(config.host, config.port)
    interrupts.listen(once=True)
    try:
        _serve(config, listening)
    except KeyboardInterrupt:
        console.print("stopped", highlight=False)
    finally:
        listening.close()


def _serve(config: ServeConfig, listening: socket.socket) -> None:
    token = config.token or os.environ.get(TOKEN) or None
    if token and not all("!" <= letter <= "~" for letter in token):
        raise UserError(f"token: clients can send only printable ASCII without spaces; choose another {TOKEN}.")
    try:
        # Uvicorn and FastAPI start without it.
        import python_multipart  # noqa: F401
        import uvicorn

        from catdog.deployment.serving.app import build_app
        from catdog.deployment.serving.body import BodyReader
        from catdog.deployment.serving.server import PartingServer
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        raise UserError(f"catdog.serve needs {package}: pip install 'catdog[serve]'.") from None
    from catdog.deployment.serving.service import PhotoService
    from catdog.study import Study
    from catdog.system.cpus import count_cpus

    study = Study.choose(config.study, config.model, tracking_uri=config.tracking.uri)

    def find() -> "TrainedModel":
        return study.model(config.model)

    with status_shown("loading the model"):
        # Twice as many as cores: TensorFlow's threads wait for each other, and decoding fills the gaps.
        service = PhotoService(find, config.queue, 2 * count_cpus(), config.watch_s)
    reader = BodyReader(int(config.max_body_mb * 1e6), config.max_photos)
    parting = threading.Event()
    app = build_app(service, reader, token, local=config.host in LOCAL and token is None, parting=parting)
    # It says that it has started; so does the line below.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # Clients get a sentence about a malformed form; it is nothing for this log.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    server = PartingServer(uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S, lifespan="off", limit_concurrency=config.queue + SPARE_CONNECTIONS,
    ), parting)  # fmt: skip
    # Whoever reads the address below may ask at once.
    listening.listen(128)
    host, port = listening.getsockname()[:2]
    address = _address(host, port)
    console.print(f"serving {service.served.model.words} at {address}; Ctrl-C stops it", highlight=False)
    if config.host not in LOCAL and token is None:
        log.warning(
            "everyone who reaches this machine can use the server; %s=SECRET in the environment asks for a token", TOKEN
        )
    permission = "-H 'Authorization: Bearer TOKEN' " if token else ""
    show_next(f"curl {permission}-F photos=@PHOTO.jpg {address}/predict", f"open {address} in a browser")
    try:
        server.run(sockets=[listening])
    finally:
        service.close()


def _listen(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound, before a model is loaded for nothing."""
    opened = None
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        opened = socket.socket(family)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SEND_MS)
        opened.bind(place)
    except OSError as error:
        if opened:
            opened.close()
        raise UserError(
            f"port: {host}:{port} cannot be listened on: {error.strerror}. Name another with port=, or 0."
        ) from error
    return opened


def _address(host: str, port: int) -> str:
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


if __name__ == "__main__":
    cli.run_app("serve", serve, usage=USAGE)
