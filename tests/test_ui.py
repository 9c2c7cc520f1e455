"""The command `ui`, and what MLflow's pages then show in a real browser."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import psutil
import pytest
from support import OURS, PROJECT, run_catdog

from catdog.config.schema import TrackingConfig
from catdog.plots.style import PALETTE
from catdog.tracking import TrackedRun, connect, open_study
from catdog.tracking.metric_names import (
    BEST_EPOCH,
    BEST_VAL_ACCURACY,
    CLEAN_TRAIN_ACCURACY,
    FINAL,
    KEPT_EPOCH,
    PARAMETERS,
)
from catdog.tracking.pages import complete_study, study_tags
from catdog.tracking.run import member_tags_of

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
VARIANTS = ["cnn", "augmented", "preprocessed", "mobilenet"]
METRICS = ["best_val_accuracy", "best_epoch", "val/accuracy", "train/accuracy", "gap/accuracy"]


@dataclass
class Ui:
    """A running `python -m catdog.ui`, and the address that it printed."""

    process: subprocess.Popen
    address: str

    @property
    def server(self) -> str:
        return self.address.partition("/#")[0]

    def stop(self) -> tuple[int, str]:
        """Presses Ctrl-C; returns the exit code and what was printed after the address."""
        self.process.send_signal(signal.SIGINT)
        rest = self.process.communicate(timeout=30)[0]
        return self.process.returncode, rest


@contextlib.contextmanager
def shown(folder: Path, *arguments: str) -> Iterator[Ui]:
    env = {
        key: value for key, value in os.environ.items() if key not in (*OURS, "DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "catdog.ui", *arguments], cwd=folder, env=env | {"PYTHONPATH": str(PROJECT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + process.stdout.read()
        yield Ui(process, found[0])
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a study: a sweep of four runs with what the pages show of them, written without training."""
    folder = tmp_path_factory.mktemp("ui")
    config = TrackingConfig(f"sqlite:///{folder}/mlruns/mlflow.db", str(folder / "mlruns" / "artifacts"))
    client = connect(config)
    experiment_id = open_study(client, "cats_vs_dogs", config)
    sweep_id = client.create_run(experiment_id, run_name="sweep of 4", tags={"catdog.kind": "sweep"}).info.run_id
    for number, variant in enumerate(VARIANTS):
        # What a training logs before and after its epochs.
        once = {
            PARAMETERS: 1000,
            BEST_VAL_ACCURACY: 0.56 + 0.1 * number,
            BEST_EPOCH: 3,
            KEPT_EPOCH: 3,
            CLEAN_TRAIN_ACCURACY: 0.9,
        }
        once |= dict.fromkeys(FINAL.values(), 0.5)
        tags = {"catdog.kind": "run", "catdog.variant": variant, "mlflow.parentRunId": sweep_id}
        tags |= member_tags_of(sweep_id, number, variant, variant, number)
        run = TrackedRun(client, client.create_run(experiment_id, run_name=variant, tags=tags).info.run_id)
        for epoch in (1, 2, 3):
            accuracy = 0.5 + 0.1 * number + 0.02 * epoch
            run.log_metrics({"val/accuracy": accuracy, "train/accuracy": accuracy, "gap/accuracy": 0.0}, step=epoch)
        run.log_metrics(once)
        client.set_terminated(run.run_id)
    client.set_terminated(sweep_id)
    return folder


@pytest.fixture(scope="module")
def ui(folder) -> Iterator[Ui]:
    with shown(folder) as found:
        yield found


@pytest.fixture
def page(ui) -> Iterator:
    if BROWSER is None:
        pytest.skip("needs Chromium or Chrome")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1400, "height": 900}, reduced_motion="reduce")
        opened = context.new_page()
        opened.set_default_timeout(30_000)
        yield opened
        browser.close()


def curves(chart) -> set[str]:
    """Returns the colors of the curves in a chart, once it has one for each variant; MLflow draws each twice."""
    lines = chart.locator(".scatterlayer .trace .js-line")
    lines.nth(2 * len(VARIANTS) - 1).wait_for(state="attached")
    return set(lines.evaluate_all("lines => lines.map(line => getComputedStyle(line).stroke)"))


def rgb(color: str) -> str:
    return "rgb({}, {}, {})".format(*(int(color[start : start + 2], 16) for start in (1, 3, 5)))


def test_a_list_with_accuracy_then_four_curves_side_by_side(page, ui) -> None:
    page.goto(ui.address)
    page.get_by_test_id("sort-header-best_val_accuracy").wait_for()
    # The first click: in a browser new to it, MLflow opens its Assistant beside whatever comes first.
    page.get_by_role("button", name="Close").first.click()
    page.get_by_test_id("sort-header-gap/accuracy").wait_for()
    headers = page.locator("[data-testid^='sort-header-']").evaluate_all(
        "all => all.map(each => [each.getBoundingClientRect().x, each.innerText]).sort((a, b) => a[0] - b[0])"
    )
    # There is room for more columns once the Assistant is gone.
    assert [name for _, name in headers][:7] == ["Run Name", "Created", *METRICS]
    names = [name for name in page.locator(".ag-row a").all_inner_texts() if name]
    assert names == VARIANTS[::-1], "the runs, best first, without the sweep that they belong to"
    # The second.
    page.locator("label", has=page.locator("input[value=CHART]")).click()
    charts = page.get_by_test_id("experiment-view-compare-runs-card")
    charts.nth(1).wait_for()
    assert [charts.nth(number).inner_text().split("\n")[0] for number in (0, 1)] == ["val/accuracy", "train/accuracy"]
    assert curves(charts.first) == {rgb(color) for color in PALETTE[: len(VARIANTS)]}


def test_the_page_of_a_run_begins_with_its_curves(page, ui, folder) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("cats_vs_dogs")
    assert experiment
    (run,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'mobilenet'")
    page.goto(f"{ui.server}/#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}/model-metrics")
    sections = page.get_by_test_id("experiment-view-compare-runs-section-header")
    sections.nth(3).wait_for()
    assert [name.split("\n")[0] for name in sections.all_inner_texts()] == ["gap", "train", "val", "Model metrics"]
    chart = page.get_by_test_id("experiment-view-compare-runs-card").first
    chart.locator(".scatterlayer .trace .js-line").first.wait_for(state="attached")


def test_views_are_in_the_menu_of_a_study_opened_otherwise(page, ui) -> None:
    experiment = re.search(r"experiments/(\d+)", ui.address)
    assert experiment
    page.goto(f"{ui.server}/#/experiments/{experiment[1]}/runs")
    page.get_by_test_id("saved-views-trigger").click()
    page.get_by_text("Variants, mean of seeds").click()
    page.get_by_text("Group: mobilenet").wait_for()


def test_a_server_is_not_started_but_opened(ui, folder, cache) -> None:
    done = run_catdog(folder, cache, "ui", f"tracking.uri={ui.server}", "study=cats_vs_dogs")
    assert (done.code, done.err) == (0, "")
    assert done.out.split() == ["cats_vs_dogs:", ui.address]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("study=nosuch", "study: no study 'nosuch' in this tracking store; studies: cats_vs_dogs."),
        ("tracking.uri=sqlite:///no/mlflow.db", "there is no tracking database no/mlflow.db"),
        ("tracking.uri=http://127.0.0.1:9", "no MLflow server answers at 'http://127.0.0.1:9'"),
        ("host=256.1.1.1", "host: '256.1.1.1' is no address of this machine"),
        ("host=192.0.2.1", "host: '192.0.2.1' is no address of this machine"),
        ("port=0", "port: must be 1 to 65535, or null, received 0"),
    ],
)
def test_mistakes(folder, cache, argument, expected) -> None:
    done = run_catdog(folder, cache, "ui", argument)
    assert done.code == 2
    assert expected in done.err
    assert "Traceback" not in done.text


def test_a_port_in_use(ui, folder, cache) -> None:
    port = ui.server.rpartition(":")[2]
    done = run_catdog(folder, cache, "ui", f"port={port}")
    assert done.code == 2
    assert (
        f"port: cannot listen on 127.0.0.1:{port} (Address already in use). Leave out port= for a free one" in done.err
    )


def test_nothing_has_been_trained(tmp_path, catdog) -> None:
    mlflow.MlflowClient(f"sqlite:///{tmp_path}/empty.db").search_experiments()
    done = catdog("ui", "tracking.uri=sqlite:///empty.db")
    assert done.code == 2
    assert "study: this tracking store has no run. Train first" in done.err


def test_a_study_of_an_older_catdog_gets_the_views_and_keeps_its_description(folder) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("cats_vs_dogs")
    expected = study_tags("cats_vs_dogs")
    assert experiment.tags.items() >= expected.items()
    assert max(len(value) for value in expected.values()) < 5000, "what some versions of MLflow allow"
    for key in expected:
        client.delete_experiment_tag(experiment.experiment_id, key)
    client.set_experiment_tag(experiment.experiment_id, "mlflow.note.content", "mine")
    complete_study(client, experiment.experiment_id)
    assert client.get_experiment(experiment.experiment_id).tags == expected | {"mlflow.note.content": "mine"}
    client.set_experiment_tag(experiment.experiment_id, "mlflow.note.content", expected["mlflow.note.content"])


# Last: it stops the server that the tests above share.
def test_ctrl_c_leaves_nothing_behind(ui) -> None:
    children = psutil.Process(ui.process.pid).children(recursive=True)
    assert len(children) >= 2, "MLflow's command, and the server that it starts"
    # The address comes first; Ctrl-C right after it would be as good, but then this line would not come.
    assert ui.process.stdout.readline() == "Ctrl-C stops it.\n"
    assert ui.stop() == (0, "stopped\n")
    assert not any(child.is_running() for child in children)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", int(ui.server.rpartition(":")[2])))
