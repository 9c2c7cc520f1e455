"""Tortures a sweep or a search: kills it again and again, types the same command, compares what is left with an uninterrupted one.

`make torture` runs it; tests/sweep/test_torture.py runs a small one. Kills come at named moments, by a hook in the processes of
the sweep (`sitecustomize` in a folder on PYTHONPATH), and at random ones, to the whole process group or its leader alone.
"""

import argparse
import atexit
import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import mlflow
import numpy as np
import pandas as pd
import psutil
from support import OURS, PROJECT

# What is measured with a clock, and what names a process or a moment.
TIMED = ("epoch_seconds", "images_per_second", "run_seconds", "run_cpu_seconds", "model_ms_per_image",
         "model_ms_per_image_without_flip")  # fmt: skip
OWN_TAGS = ("catdog.key", "catdog.owner", "catdog.sign_of_life", "catdog.sweep", "catdog.model_uri", "mlflow.parentRunId",
            "catdog.command", "catdog.retries", "catdog.search_seconds", "catdog.search_best",
            "catdog.search_winner", "mlflow.user", "mlflow.source.git.commit", "mlflow.note.content",
            "mlflow.source.name")  # fmt: skip
STUDY = "tortured"
SWEEP = ("-m", "dataset=synthetic", "dataset.drawing.train_per_class=24", "dataset.drawing.validation_per_class=20",
         "preprocessing.image_size=48", "trainer.batch_size=16", "trainer.epochs=4", f"study={STUDY}",
         "tracking.wait_s=20")  # fmt: skip
SEARCH = ("model=cnn", *SWEEP[1:], "trainer.learning_rate=tag(log,interval(1e-4,1e-2))", "head.units=16,32", "min_epochs=1",
          "factor=2", "top=1", "seeds=0")  # fmt: skip
# module:function:which call of it, in any one process; the process group is killed at that moment.
MOMENTS = (
    "catdog.data.images:decode_image:20",
    "catdog.training.model:build_model:1",
    "mlflow.tracking.client:MlflowClient.create_run:1",
    "catdog.tracking.outbox:Entry.claim:1",
    "catdog.tracking.outbox:Entry.append:2",
    "catdog.tracking.outbox:Entry.append:5",
    "mlflow.tracking.client:MlflowClient.log_inputs:1",
    "catdog.training.loop:FiniteLoss.on_train_batch_end:4",
    "catdog.tracking.checkpoint:_write:1",
    "catdog.tracking.checkpoint:_write:2",
    "catdog.tracking.checkpoint:_remove_superseded:1",
    "mlflow.tracking.client:MlflowClient.log_batch:2",
    "catdog.tracking.outbox:Entry.save_state:3",
    "catdog.plots:plot_gap:1",
    "mlflow.tensorflow:save_model:1",
    "mlflow.tracking.client:MlflowClient.create_logged_model:1",
    "mlflow.tracking.client:MlflowClient.log_model_artifacts:1",
    "mlflow.tracking.client:MlflowClient.finalize_logged_model:1",
    "mlflow.tracking.client:MlflowClient.set_terminated:1",
    "catdog.tracking.outbox:Entry.remove:1",
    "catdog.registry.champion:_register:1",
    "mlflow.tracking.client:MlflowClient.create_model_version:1",
    "mlflow.tracking.client:MlflowClient.set_registered_model_alias:1",
)
# What a search does not do.
NOT_IN_SEARCHES = ("champion", "model_version", "registered_model", "Entry.remove")
HOOK = """
import importlib.abc, importlib.util, os, signal, sys
MOMENT = os.environ.get("TORTURE")
if MOMENT:
    module_name, path, nth = MOMENT.split(":")
    def arm(module):
        holder = module
        *outer, name = path.split(".")
        for part in outer:
            holder = getattr(holder, part)
        real, calls = getattr(holder, name), [0]
        def deadly(*args, **kwargs):
            calls[0] += 1
            if calls[0] == int(nth):
                open(os.environ["TORTURE_MARK"], "w").close()
                os.killpg(int(os.environ.get("TORTURE_GROUP") or os.getpgid(0)), signal.SIGKILL)
            return real(*args, **kwargs)
        setattr(holder, name, deadly)
    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name != module_name:
                return None
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            sys.meta_path.insert(0, self)
            load = spec.loader.exec_module
            def exec_module(module):
                load(module)
                arm(module)
            spec.loader.exec_module = exec_module
            return spec
    sys.meta_path.insert(0, Finder())
"""


def make_temporary() -> Path:
    """Returns an empty folder with a short path, which goes when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="tor", dir="/tmp"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@dataclass
class Torture:
    """One folder in which a sweep is run, killed and run again.

    Attributes:
        folder: where the command is typed.
        cache: CATDOG_CACHE.
        arguments: the command line after `python -m catdog.train`, or another command.
        command: the command.
    """

    folder: Path
    cache: Path
    arguments: list[str]
    command: str = "train"
    # Its own, and short: multiprocessing's sockets lie below it.
    temporary: Path = field(default_factory=make_temporary)

    def start(self, moment: str = "") -> subprocess.Popen[bytes]:
        """Starts the command in a process group of its own, to be killed at a moment, if one is given."""
        hooks = self.folder / "hooks"
        hooks.mkdir(parents=True, exist_ok=True)
        (hooks / "sitecustomize.py").write_text(HOOK)
        env = {key: value for key, value in os.environ.items() if key not in OURS}
        env |= {"CATDOG_CACHE": str(self.cache), "PYTHONPATH": f"{hooks}:{PROJECT}",
                "TMPDIR": str(self.temporary)}  # fmt: skip
        if moment:
            env |= {"TORTURE": moment, "TORTURE_MARK": str(self.mark)}
        with (self.folder / "terminal.txt").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", f"catdog.{self.command}", *self.arguments], cwd=self.folder, env=env, stdout=output,
                stderr=output, start_new_session=True,
            )  # fmt: skip

    @property
    def mark(self) -> Path:
        """A file that is there once the hook has struck."""
        return self.folder / "struck"

    def run(self, timeout_s: float = 600) -> int:
        """Runs the command to its end and returns its exit code."""
        process = self.start()
        try:
            return process.wait(timeout_s)
        finally:
            kill_group(process)

    def run_until(self, moment: str, timeout_s: float = 600) -> bool:
        """Runs the command, killed at a named moment; returns whether that moment came."""
        self.mark.unlink(missing_ok=True)
        process = self.start(moment)
        process.wait(timeout_s)
        struck = self.mark.exists()
        self.mark.unlink(missing_ok=True)
        return struck

    def run_for(self, seconds: float, leader_alone: bool) -> bool:
        """Runs the command and kills it after some seconds; returns whether it was still running."""
        process = self.start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return False
        if leader_alone:
            process.kill()
        else:
            kill_group(process)
        process.wait()
        return True

    @property
    def terminal(self) -> str:
        """All that the command has printed so far."""
        return (self.folder / "terminal.txt").read_text(errors="replace")


def kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def connect(folder: Path) -> mlflow.MlflowClient:
    uri = f"sqlite:///{folder}/mlruns/mlflow.db"
    mlflow.set_tracking_uri(uri)
    return mlflow.MlflowClient(uri, registry_uri=uri)


def describe_store(folder: Path, study: str = STUDY) -> dict[str, Any]:
    """Returns all that a study's runs and registered models hold, but for times, ids and processes."""
    return describe_study(connect(folder), study)


def describe_study(client: mlflow.MlflowClient, study: str) -> dict[str, Any]:
    """Returns the same of any store; it must be MLflow's current one."""
    experiment = client.get_experiment_by_name(study)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    kinds: dict[str, list[Any]] = {"sweep": [], "run": []}
    for run in sorted(runs, key=lambda run: run.info.run_name):
        kinds[run.data.tags["catdog.kind"]].append(_describe_run(client, run))
    names = {run.info.run_id: run.info.run_name for run in runs}
    registry = {
        model.name: {
            "versions": sorted((names[version.run_id], version.tags["catdog.val_accuracy"])
                               for version in client.search_model_versions(f"name='{model.name}'")),
            "champion": names[client.get_model_version_by_alias(model.name, "champion").run_id],
        }
        for model in client.search_registered_models()
        if model.name == study
    }  # fmt: skip
    return {**kinds, "registry": registry}


def _describe_run(client: mlflow.MlflowClient, run: Any) -> dict[str, Any]:
    run_id = run.info.run_id
    tags = {k: v for k, v in run.data.tags.items() if k not in OWN_TAGS and not k.startswith("catdog.member.")}
    metrics = {}
    for key in run.data.metrics:
        points = [(point.step, point.value) for point in client.get_metric_history(run_id, key)]
        # Of a clock's metrics only the steps can be the same.
        metrics[key] = [step for step, _ in points] if key in TIMED else points
    artifacts = {}
    root = _fetch(run.info.artifact_uri)
    for file in sorted(root.rglob("*")):
        name = file.relative_to(root).as_posix()
        # There is a log for each process that worked on it.
        if not file.is_file() or name.startswith("log/"):
            continue
        if name == "history.csv":
            artifacts[name] = pd.read_csv(file).drop(columns=list(TIMED[:2])).to_csv()
        elif name.endswith("trials.csv"):
            artifacts[name] = pd.read_csv(file).drop(columns=["seconds", "run_id"]).to_csv()
        elif name != "time.csv" and file.suffix in (".csv", ".yaml"):
            # Where the cache is, is no part of a run.
            lines = file.read_text().splitlines()
            artifacts[name] = "\n".join(line for line in lines if not line.startswith("  cache: "))
        else:
            artifacts[name] = ""
    weights = _read_weights(run) if "catdog.model_uri" in run.data.tags else None
    models = len(run.outputs.model_outputs) if run.outputs else 0
    inputs = sorted((i.dataset.name, i.dataset.digest) for i in run.inputs.dataset_inputs) if run.inputs else []
    params = {key: value for key, value in run.data.params.items() if key != "dataset.cache"}
    return {"name": run.info.run_name, "status": run.info.status, "tags": tags, "params": params,
            "metrics": metrics, "artifacts": artifacts, "weights": weights, "models": models, "inputs": inputs}  # fmt: skip


def _fetch(uri: str) -> Path:
    """Returns a folder with the artifacts at an address."""
    place = Path(uri.removeprefix("file://"))
    if place.is_absolute():
        return place
    fetched = tempfile.mkdtemp(prefix="artifacts")
    atexit.register(shutil.rmtree, fetched, ignore_errors=True)
    # A sweep's run has none.
    return Path(
        mlflow.artifacts.download_artifacts(uri, dst_path=fetched) if mlflow.artifacts.list_artifacts(uri) else fetched
    )


def _read_weights(run: Any) -> dict[str, bytes]:
    """Returns the kept model's weights, bit for bit, by name."""
    model = mlflow.MlflowClient().get_logged_model(run.data.tags["catdog.model_uri"].removeprefix("models:/"))
    archive = _fetch(model.artifact_location) / "data" / "model.keras"
    found: dict[str, bytes] = {}
    with zipfile.ZipFile(archive) as opened:
        content = opened.read("model.weights.h5")
    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: np.asarray(item).tobytes()}) if isinstance(item, h5py.Dataset) else None
            )
        )
    # Where random layers had got to is no part of what the model answers.
    return {name: value for name, value in found.items() if "seed_generator" not in name}


def find_differences(expected: Any, found: Any, where: str = "") -> Iterator[str]:
    """Yields in words where two descriptions differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted({*expected, *found}, key=str):
            if key not in expected or key not in found:
                yield f"{where}/{key}: {'missing' if key not in found else 'too much'}"
            else:
                yield from find_differences(expected[key], found[key], f"{where}/{key}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, pair in enumerate(zip(expected, found, strict=True)):
            yield from find_differences(*pair, f"{where}[{number}]")
    elif expected != found:
        yield f"{where}: {str(expected)[:200]} became {str(found)[:200]}"


def find_leftovers(torture: Torture, *, paused: bool = False) -> list[str]:
    """Returns what should not be there when all is done: open runs, outbox entries, temporary files, processes.

    Args:
        torture: where.
        paused: whether entries of runs may stay: those of paused trials hold their checkpoints.
    """
    folder = torture.folder
    entries = (folder / "mlruns" / "outbox").glob("*")
    left = [f"entry {path.name}" for path in entries if not (paused and path.name.startswith("run-"))]
    left += [str(path) for root in (folder / "mlruns", torture.cache) for path in root.rglob("*.partial*")]
    left += [str(path) for path in torture.temporary.iterdir()]
    client = connect(folder)
    for experiment in client.search_experiments():
        runs = client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'")
        left += [f"RUNNING {run.info.run_name}" for run in runs]
    return left + find_processes(folder)


def find_processes(folder: Path) -> list[str]:
    """Returns the processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"process {process.pid} {' '.join(process.cmdline())[:100]}")
    return found


def find_wrong_trials(folder: Path, trials: int, study: str = STUDY) -> Iterator[str]:
    """Yields what is wrong with the trials of a finished search, whatever order they were trained in.

    Each has one run, with every epoch once, no two have the same settings, and all but the paused ones were trained to the end.
    """
    client = connect(folder)
    experiment = client.get_experiment_by_name(study)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    searches = [run for run in runs if "catdog.search" in run.data.tags]
    if len(searches) != 1 or searches[0].info.status != "FINISHED":
        yield f"{len(searches)} searches, {[run.info.status for run in searches]}"
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    names = sorted(run.info.run_name for run in children)
    if names != sorted(f"trial {number}" for number in range(trials)):
        yield f"runs: {names}"
    settings = [json.loads(searches[0].data.tags[f"catdog.trial.{number}"])["settings"] for number in range(trials)]
    if len({json.dumps(each, sort_keys=True) for each in settings}) < trials:
        yield f"trials with the same settings: {settings}"
    for run in children:
        number = int(run.info.run_name.removeprefix("trial "))
        typed = {key: run.data.params[key] for key in settings[number]}
        if any(float(value) != float(settings[number][key]) for key, value in typed.items()):
            yield f"{run.info.run_name}: recorded {settings[number]}, trained {typed}"
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "val/accuracy")]
        if steps != list(range(1, len(steps) + 1)):
            yield f"{run.info.run_name}: epochs {steps}"
        if run.info.status != ("FINISHED" if len(steps) == int(run.data.params["trainer.epochs"]) else "SCHEDULED"):
            yield f"{run.info.run_name}: {run.info.status} after {len(steps)} epochs"


def await_end(folder: Path, timeout_s: float = 60) -> None:
    """Waits for the processes of a killed leader to notice."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and find_processes(folder):
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="kills at random moments, besides those at named ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", default="cnn,augmented,drawn_mini")
    parser.add_argument("--trials", type=int, default=0, help="torture a search of so many trials instead of a sweep")
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="train so many at once; the order of a search's trials then depends on the clock",
    )
    parser.add_argument("overrides", nargs="*", help="further overrides of the sweep")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    command = "tune" if options.trials else "train"
    arguments = [*SEARCH, f"trials={options.trials}"] if options.trials else [*SWEEP, f"model={options.models}"]
    arguments += [f"hydra.launcher.n_jobs={options.jobs}", *options.overrides]
    in_order = command == "train" or options.jobs == 1
    with tempfile.TemporaryDirectory(prefix="torture") as name:
        root = Path(name)
        calm = Torture(root / "calm", root / "calm-cache", arguments, command)
        (root / "calm").mkdir()
        (root / "tortured").mkdir()
        started = time.monotonic()
        assert calm.run() == 0, calm.terminal
        duration_s = time.monotonic() - started
        print(f"uninterrupted: {duration_s:.1f} s", flush=True)
        tortured = Torture(root / "tortured", root / "cache", arguments, command)
        moments = [
            moment for moment in MOMENTS if command == "train" or not any(word in moment for word in NOT_IN_SEARCHES)
        ]
        struck = killed = ended = 0
        while moments:
            moment = moments.pop(0)
            hit = tortured.run_until(moment)
            struck += hit
            print(f"{'killed' if hit else 'never came'}: {moment}", flush=True)
        was_running = False
        while killed < options.kills:
            if not was_running:
                # Nothing is left to kill once all is finished: begin again, in a folder of its own.
                tortured.folder = root / f"tortured-{killed:02d}"
                tortured.folder.mkdir(exist_ok=True)
            seconds = rng.uniform(0.3, duration_s)
            alone = rng.random() < 0.5
            was_running = tortured.run_for(seconds, alone)
            killed += was_running
            ended += not was_running
            print(
                f"{'killed' if was_running else 'ended'} after {seconds:.1f} s{', the leader alone' if alone else ''}",
                flush=True,
            )
        expected = describe_store(calm.folder) if in_order else None
        bad = 0
        folders = [folder for folder in sorted(root.glob("tortured*")) if folder.is_dir()]
        for folder in folders:
            tortured.folder = folder
            code = tortured.run()
            differences = [
                *(
                    find_differences(expected, describe_store(folder))
                    if expected
                    else find_wrong_trials(folder, options.trials)
                ),
                *find_leftovers(tortured, paused=command == "tune"),
            ]
            bad += bool(differences) or code != 0
            print(f"{folder.name}: exit code {code}, {len(differences)} differences", *differences[:20], sep="\n  ")
        print(f"{struck} of {len(MOMENTS)} named moments struck, {killed} random kills, {ended} runs ended before theirs; "
              f"{len(folders) - bad} of {len(folders)} stores "
              f"{'equal the uninterrupted one' if expected else 'have every trial once'}; "
              f"{time.monotonic() - started:.0f} s")  # fmt: skip
        sys.exit(bad > 0)


if __name__ == "__main__":
    main()
