"""Measures one run on few and on many images of mixed sizes: memory, and CPU time per image.

    python benchmarks/many_images.py [COUNT]      # 100,000: about 10 GB of disk and half an hour on 2 cores

Drawing the images takes ten minutes of that.
"""

import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
from bench import describe_machine, measure, tabulate

from catdog.data.synthetic import write_drawn_images

FEW, FEW_EPOCHS = 3000, 8
PART = 3000
EPOCH_STAGES = ["training", "augmentation", "validation", "checkpoints"]


def draw(folder: Path, count: int) -> None:
    """Draws `count` images of mixed sizes, all different, into train and validation folders of two classes."""
    parts = [min(PART, count - start) for start in range(0, count, PART)]
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        list(processes.map(draw_part, [folder] * len(parts), range(count, count + len(parts)), parts))


def draw_part(folder: Path, seed: int, count: int) -> None:
    """Draws one part of the images, from its own seed."""
    own = folder.with_name(f"part {seed}")
    write_drawn_images(own, seed=seed, train_per_class=count // 3, validation_per_class=count // 6)
    for path in own.rglob("*.jpg"):
        target = folder / path.relative_to(own).parent / f"{seed}-{path.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)


def main(count: int = 100_000) -> None:
    print(f"{describe_machine()}; command: `python benchmarks/many_images.py {count}`\n", flush=True)
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["CATDOG_CACHE"] = str(folder / "cache")
        for images, epochs in ((FEW, FEW_EPOCHS), (count, 1)):
            draw(folder / f"images-{images}", images)
            command = ("-m", "catdog.train", "model=augmented", "dataset=folder", f"dataset.archive=images-{images}",
                       f"trainer.epochs={epochs}", f"study={images}")  # fmt: skip
            without, plan = "dataset.near_duplicates=ignore", "hydra.launcher.plan_only=true"
            decoding = measure(*command, without, folder=folder)
            (table,) = (folder / "mlruns").rglob("time.csv")
            first = pd.read_csv(table).set_index("stage")
            (folder / "mlruns").rename(folder / f"mlruns-{images}")
            planned = measure(*command, without, plan, folder=folder)
            searched = measure(*command, plan, folder=folder)
            again = measure(*command, plan, folder=folder)
            epoch_s = first["cpu_seconds"].reindex(EPOCH_STAGES).sum() / epochs
            spent = first.loc["data", "cpu_seconds"], searched.cpu_s - planned.cpu_s, epoch_s
            rows.append([
                f"{images:,}", *(f"{seconds / images * 1e3:.3f}" for seconds in (*spent, sum(spent))),
                f"{searched.wall_s - planned.wall_s:.0f}", f"{again.wall_s:.1f}",
                f"{max(decoding.peak_mb, searched.peak_mb):,.0f}",
            ])  # fmt: skip
    print(tabulate(["images", "hash, decode, resize: CPU ms an image", "near-duplicates", "an epoch", "all three",
                    "near-duplicates: wall s", "a plan, later: wall s", "peak MB"], rows))  # fmt: skip


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
