"""Measures what a start costs on many files: the first, a later one, and one after a file was added; and the search for copies.

    python benchmarks/many_files.py [COUNT] [FOLDER]      # 100,000 images of 64 x 64, 0.4 GB: 5 minutes on 2 cores

The images are smooth random colours, all different. In FOLDER they are kept, and used again.
"""

import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from bench import describe_machine, measure, tabulate

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
    print(f"{describe_machine()}; command: `python benchmarks/many_files.py {count}`\n", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = Path(place or folder / "images").resolve()
        draw(images, count)
        os.environ["CATDOG_CACHE"] = str(folder / "cache")
        command = ("-m", "catdog.train", "model=cnn", "dataset=folder", f"dataset.archive={images}", f"study={count}",
                   "hydra.launcher.plan_only=true")  # fmt: skip
        rows = []

        def add(what: str, *more: str) -> None:
            done = measure(*command, *more, folder=folder)
            rows.append([what, f"{done.wall_s:.0f}", f"{done.cpu_s:.0f}", f"{done.peak_mb:,.0f}"])
            print(rows[-1], file=sys.stderr, flush=True)

        without = "dataset.near_duplicates=ignore"
        add("first start, without the search for copies", without)
        add("later start, without the search", without)
        add("first start with the search")
        add("later start with the search")
        new = images / "train/a/new.jpg"
        cv2.imwrite(str(new), np.random.default_rng(count).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
        add("after a file was added")
        new.unlink()
    print(tabulate(["what", "wall s", "CPU s", "peak MB"], rows))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:3])
