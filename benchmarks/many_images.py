"""Measures what many images cost: the first start, later ones, after a file was added or changed, and an epoch.

    python benchmarks/many_images.py [COUNT] [FOLDER]      # 10,000 or more; 100,000 of 64 x 64: 0.4 GB, 10 minutes

The images are smooth random colours, all different. In FOLDER they are kept, and used again.
"""

import os
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from bench import EPOCH_STAGES, describe_machine, measure, tabulate

PART, SIZE = 1000, 64


def draw(folder: Path, count: int) -> None:
    """Draws images of two classes, in train and validation folders, PART in each folder."""
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        list(processes.map(draw_part, [folder] * (count // PART), range(count // PART)))


def draw_part(folder: Path, number: int) -> None:
    own = folder / ("train" if number % 5 else "validation") / "ab"[number // 5 % 2] / f"{number:04d}"
    if own.exists():
        return
    stage = own.with_name(f"{number:04d}.partial")
    stage.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 256, (PART, 5, 5, 3), dtype=np.uint8)
    for place, each in enumerate(noise):
        image = cv2.resize(each, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(stage / f"{place:04d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 80])
    stage.rename(own)


def main(count: int = 100_000, place: str = "") -> None:
    print(f"{describe_machine()}; command: `python benchmarks/many_images.py {count}`\n", flush=True)
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = Path(place or folder / "images").resolve()
        draw(images, count)
        os.environ["CATDOG_CACHE"] = str(folder / "cache")
        command = ("-m", "catdog.train", "model=cnn", "dataset=folder", f"dataset.archive={images}", f"study={count}",
                   "preprocessing.image_size=32", "trainer.epochs=1")  # fmt: skip

        def add(what: str, *more: str) -> None:
            done = measure(*command, *more, folder=folder)
            append(what, done.wall_s, done.cpu_s, f"{done.peak_mb:,.0f}")

        def append(what: str, wall_s: float, cpu_s: float, peak: str) -> None:
            rows.append([what, f"{wall_s:,.0f}", f"{cpu_s:,.0f}", f"{cpu_s / count * 1e3:.3f}", peak])
            print(rows[-1], file=sys.stderr, flush=True)

        plan = "hydra.launcher.plan_only=true"
        without = "dataset.near_duplicates=ignore"
        add("first start, without the search for copies", plan, without)
        add("later start, without the search", plan, without)
        add("first start with the search", plan)
        add("later start", plan)
        new = images / "train/a/new.jpg"
        for change in ("added", "changed"):
            pixels = np.random.default_rng(count + len(change)).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            cv2.imwrite(str(new), pixels)
            add(f"after a file was {change}", plan)
        new.unlink()
        old = images / "train/a/0001/0001.jpg"
        kept = shutil.move(old, folder / "kept.jpg")
        add("after a file was removed", plan)
        shutil.move(kept, old)
        add("a run of one epoch at 32 x 32")
        (table,) = (folder / "mlruns").rglob("time.csv")
        stages = pd.read_csv(table).set_index("stage")
        append("of it: images decoded, resized and stored", *stages.loc["data"], "")
        append("of it: the epoch", *stages.reindex(EPOCH_STAGES).sum(), "")
    print(tabulate(["what", "wall s", "CPU s", "CPU ms an image", "peak MB"], rows))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:3])
