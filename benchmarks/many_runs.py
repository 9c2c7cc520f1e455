"""Times the plan and the comparison in a study of many stored runs.

    python benchmarks/many_runs.py [RUNS]      # 1,000

A tiny sweep is really trained. Its runs are then copied, row by row and file by file, until there are RUNS of them. The copies
belong to the same sweep, and differ in seed or learning rate, and in identity.
"""

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

TINY = ("dataset=synthetic", "dataset.drawing.train_per_class=24", "dataset.drawing.validation_per_class=500",
        "preprocessing.image_size=48", "trainer.epochs=20")  # fmt: skip
TABLES = ("metrics", "latest_metrics", "params", "tags")


def call(folder: Path, *arguments: str) -> float:
    """Runs a catdog command and returns its wall seconds."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{arguments} failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - started


def copy_runs(folder: Path, count: int, key: str = "seed") -> None:
    """Copies the sweep's runs until there are `count` of them, each with another value of `key`."""
    store = sqlite3.connect(folder / "mlruns" / "mlflow.db")
    columns = {table: [row[1] for row in store.execute(f"pragma table_info({table})")] for table in ("runs", *TABLES)}
    unique = {"catdog.identity", "catdog.key"}
    unique |= set() if key == "seed" else {"catdog.variant_digest"}
    run_ids = [row[0] for row in store.execute("select run_uuid from tags where key = 'catdog.kind' and value = 'run'")]
    for number in range(len(run_ids), count):
        old, new = run_ids[number % len(run_ids)], uuid.uuid4().hex
        value = str(100 + number) if key == "seed" else f"{0.001 + number / 1e6:.6f}"

        def adapt(
            table: str, row: tuple, old: str = old, new: str = new, number: int = number, value: str = value
        ) -> list:
            values = dict(zip(columns[table], row, strict=True))
            values["run_uuid"] = new
            if table == "runs":
                values["name"] += f" {key}={value}"
                values["artifact_uri"] = values["artifact_uri"].replace(old, new)
            own = values.get("key", "")
            if table == "tags" and own.startswith("catdog.member."):
                _, name, variant = json.loads(values["value"])
                full = f"{name} {key}={value}"
                values["value"] = json.dumps([number, full, variant if key == "seed" else full])
            if table == "tags" and own == "catdog.details":
                values["value"] = json.dumps(
                    {**json.loads(values["value"]), "catdog.config_digest": uuid.uuid4().hex * 2}
                )
            if table == "tags" and own in unique:
                values["value"] = uuid.uuid4().hex * 2
            if table == "params" and own == key:
                values["value"] = value
            return list(values.values())

        for table in ("runs", *TABLES):
            rows = store.execute(f"select * from {table} where run_uuid = ?", (old,)).fetchall()
            marks = ", ".join("?" * len(columns[table]))
            store.executemany(f"insert into {table} values ({marks})", [adapt(table, row) for row in rows])
        (source,) = store.execute("select artifact_uri from runs where run_uuid = ?", (old,)).fetchone()
        path = Path(source.removeprefix("file://"))
        shutil.copytree(path, str(path).replace(old, new))
    store.commit()
    store.close()


def main(count: int = 1000) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "seeds"
        folder.mkdir()
        sweep = ("catdog.train", "-m", "model=cnn,augmented,preprocessed,drawn_mini", *TINY)
        call(folder, *sweep)
        print(f"compare, 4 runs in a study of 4: {call(folder, 'catdog.compare'):.1f} s", flush=True)
        print(
            f"plan of 4 runs in a study of 4: {call(folder, *sweep, 'hydra.launcher.plan_only=true'):.1f} s", flush=True
        )
        store = sqlite3.connect(folder / "mlruns" / "mlflow.db")
        four = [
            row[0] for row in store.execute("select run_uuid from tags where key = 'catdog.kind' and value = 'run'")
        ]
        store.close()
        copy_runs(folder, count)
        fresh = (*sweep, "trainer.learning_rate=0.002", "hydra.launcher.plan_only=true")
        known = (*sweep, "hydra.launcher.plan_only=true")
        print(f"plan of 4 known runs in a study of {count:,}: {call(folder, *known):.1f} s", flush=True)
        print(f"plan of 4 new runs in a study of {count:,}: {call(folder, *fresh):.1f} s", flush=True)
        few = call(folder, "catdog.compare", f"runs=[{','.join(four)}]")
        print(f"compare of 4 runs in a study of {count:,}: {few:.1f} s", flush=True)
        compare_all(folder, f"{count:,} runs, {count // 4:,} seeds of 4 variants")
        folder = Path(temporary) / "variants"
        folder.mkdir()
        call(folder, *sweep)
        copy_runs(folder, count, "trainer.learning_rate")
        compare_all(folder, f"{count:,} runs, 1 seed of {count:,} variants")


def compare_all(folder: Path, words: str) -> None:
    """Compares the sweep twice; the first comparison also computes and stores Grad-CAM."""
    first, later = (call(folder, "catdog.compare") for _ in range(2))
    print(f"compare of {words}: {first:.1f} s the first time, {later:.1f} s later", flush=True)
    page = max((folder / "comparisons").glob("*/comparison.html"), key=lambda path: path.stat().st_mtime)
    print(f"its page: {page.stat().st_size / 2**20:.1f} MB", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
