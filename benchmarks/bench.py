"""Times catdog against the notebook's flow, alternately, on the same images; prints tables in Markdown.

    make bench                  # 20 epochs of the four variants: about 40 minutes on 2 cores
    make bench EPOCHS=2         # a quick look

Each training is a separate process. CPU seconds are user + system time of the whole process; memory is its peak resident size.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from catdog.config.schema import default_cache
from catdog.data.fetch import fetch_archive

VARIANTS = ("cnn", "augmented", "preprocessed", "mobilenet")
# The stages of an epoch. What happens once per run (frozen features, start and end of tracking) is divided among the epochs.
EPOCH_STAGES = ("training", "augmentation", "validation", "checkpoints", "tracking", "frozen features")
BOOKKEEPING = ("tracking", "checkpoints", "figures", "model logging")
HERE = Path(__file__).resolve().parent
# Ends a training at its first step and prints the time until then.
FIRST_STEP = """
import os, runpy, sys, time
import catdog.training.process
imported = time.time()
from catdog.training.loop import FiniteLoss
def report(self, batch, logs=None):
    float(logs["loss"])
    print("first step", time.time() - float(os.environ["STARTED"]), flush=True)
    os._exit(0)
FiniteLoss.on_train_batch_end = report
sys.argv = ["train", *sys.argv[1:]]
runpy.run_module("catdog.train", run_name="__main__")
"""


@dataclass
class Measured:
    """Time, memory and output of a process that has ended."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    out: str
    stages: dict[str, float] = field(default_factory=dict)
    epoch_s: float = 0.0
    accuracies: tuple[float, float] = (0.0, 0.0)


def measure(*command: str, folder: Path, **environment: str) -> Measured:
    """Runs a command in a folder and returns its time, memory and output; its stderr goes to the folder's log."""
    with (folder / "log.txt").open("ab") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **environment},
        )
        out = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command} failed:\n{(folder / 'log.txt').read_text()[-3000:]}{out}")
    return Measured(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, out)


def run_reference(variant: str, images: Path, epochs: int, folder: Path) -> Measured:
    done = measure(
        str(HERE / "notebook.py"), variant, str(images), str(epochs), folder=folder, TF_CPP_MIN_LOG_LEVEL="3"
    )
    result = json.loads(done.out.splitlines()[-1])
    times = result["epoch_cpu_seconds"]
    done.epoch_s = sum(times) / len(times)
    done.accuracies = (result["accuracy"], result["val_accuracy"])
    return done


def run_catdog(variant: str, epochs: int, folder: Path) -> Measured:
    before = set(folder.rglob("time.csv"))
    done = measure("-m", "catdog.train", f"model={variant}", f"trainer.epochs={epochs}", "reuse=never", folder=folder)
    (table,) = set(folder.rglob("time.csv")) - before
    done.stages = pd.read_csv(table).set_index("stage")["cpu_seconds"].to_dict()
    done.epoch_s = sum(done.stages.get(name, 0.0) for name in EPOCH_STAGES) / epochs
    history = pd.read_csv(table.parent / "history.csv").iloc[-1]
    done.accuracies = (history["train/accuracy"], history["val/accuracy"])
    return done


def describe_machine() -> str:
    names = ("tensorflow", "keras", "numpy", "opencv-python-headless", "mlflow")
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    flags = next((line for line in lines if line.startswith("flags")), "")
    bfloat16 = "with" if "avx512_bf16" in flags or "amx_bf16" in flags else "without"
    count = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return f"{count} cores of {model}, {bfloat16} bfloat16; Python {platform.python_version()}, " + ", ".join(
        f"{name} {version(name)}" for name in names
    )


def tabulate(header: list[str], rows: list[list[object]]) -> str:
    def line(cells: list[object]) -> str:
        return "| " + " | ".join(f"{cell:,.1f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |"

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)])


def time_starts(folder: Path) -> list[list[object]]:
    """Returns rows with the waiting times before training begins."""
    rows: list[list[object]] = []
    for name, arguments, code in (
        ("`--help`", ["--help"], 0), ("`--cfg job`", ["--cfg", "job"], 0), ("a config error", ["trainer.epochs=-1"], 2),
    ):  # fmt: skip
        times = []
        for _ in range(3):
            started = time.perf_counter()
            done = subprocess.run([sys.executable, "-m", "catdog.train", *arguments], cwd=folder, capture_output=True)
            assert done.returncode == code
            times.append(time.perf_counter() - started)
        rows.append([name, f"{sorted(times)[1]:.2f} s"])
    imports, steps = [], []
    for number in range(3):
        imports.append(measure("-c", "import catdog, tensorflow, keras", folder=folder).wall_s)
        started = str(time.time())
        out = measure("-c", FIRST_STEP, "model=cnn", f"seed={1000 + number}", folder=folder, STARTED=started).out
        steps.append(float(next(line for line in out.splitlines() if line.startswith("first step")).split()[-1]))
    beyond = sorted(steps)[1] - sorted(imports)[1]
    rows.append(["a later start until the first training step, without TensorFlow's import", f"{beyond:.2f} s"])
    rows.append(["TensorFlow's and Keras' import", f"{sorted(imports)[1]:.2f} s"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    options = parser.parse_args()
    variants = options.variants.split(",")
    archive = os.environ.get(
        "CATDOG_ARCHIVE", "https://storage.googleapis.com/mledu-datasets/cats_and_dogs_filtered.zip"
    )
    images = fetch_archive(archive, Path(default_cache()))
    print(
        f"{describe_machine()}\n\n{options.epochs} epochs; command: `make bench EPOCHS={options.epochs}`\n", flush=True
    )

    pairs: dict[str, tuple[Measured, Measured]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = {"CATDOG_CACHE": str(folder / "cache"), "CATDOG_ARCHIVE": archive,
                       "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlruns/mlflow.db"}  # fmt: skip
        os.environ.update(environment)
        for variant in variants:
            pairs[variant] = (
                run_reference(variant, images, options.epochs, folder), run_catdog(variant, options.epochs, folder)
            )  # fmt: skip
            print(f"{variant}: " + ", ".join(f"{run.cpu_s:.0f} CPU s" for run in pairs[variant]), file=sys.stderr)
        starts = time_starts(folder)

    rows: list[list[object]] = []
    for variant, (reference, ours) in pairs.items():
        rows.append([
            variant, reference.cpu_s, ours.cpu_s, f"**{reference.cpu_s / ours.cpu_s:.2f}**", reference.epoch_s, ours.epoch_s,
            f"**{reference.epoch_s / ours.epoch_s:.2f}**", reference.wall_s, ours.wall_s, f"{reference.peak_mb:,.0f}",
            f"{ours.peak_mb:,.0f}", *(f"{train:.3f} / {val:.3f}" for train, val in (reference.accuracies, ours.accuracies)),
        ])  # fmt: skip
    cpu, wall = (
        [sum(getattr(pair[i], name) for pair in pairs.values()) for i in (0, 1)] for name in ("cpu_s", "wall_s")
    )
    peak = [max(pair[i].peak_mb for pair in pairs.values()) for i in (0, 1)]
    rows.append(
        ["**study**", *cpu, f"**{cpu[0] / cpu[1]:.2f}**", "", "", "", *wall, *(f"{mb:,.0f}" for mb in peak), "", ""]
    )
    header = ["variant", "CPU s, notebook", "catdog", "ratio", "an epoch's CPU s, notebook", "catdog", "ratio", "wall s, notebook",
              "catdog", "peak MB, notebook", "catdog", "last epoch's train / val, notebook", "catdog"]  # fmt: skip
    print(tabulate(header, rows))

    names = list(dict.fromkeys(name for _, ours in pairs.values() for name in ours.stages))
    totals: dict[str, float] = defaultdict(float)
    rows = []
    for name in [*names, "end of process"]:
        cells: list[object] = [name]
        for _, ours in pairs.values():
            known = sum(ours.stages.values())
            seconds = ours.stages.get(name, 0.0) if name != "end of process" else ours.cpu_s - known
            totals[name] += seconds
            cells.append(seconds)
        rows.append([*cells, totals[name], f"{totals[name] / cpu[1]:.1%}"])
    print("\nWhere catdog's CPU seconds go:\n\n" + tabulate(["stage", *pairs, "all", "share"], rows))
    share = sum(totals[name] for name in BOOKKEEPING) / cpu[1]
    print(f"\n{', '.join(BOOKKEEPING)} together: {share:.1%} of the study.\n")
    print(tabulate(["wait", "time"], starts))


if __name__ == "__main__":
    main()
