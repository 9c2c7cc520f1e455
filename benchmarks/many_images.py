"""Times one run on few and on many images of mixed sizes: memory, and cost per image.

    python benchmarks/many_images.py [COUNT]      # 100,000: about 12 GB of disk and a quarter of an hour on 2 cores

The images are 3,000 drawn ones, each in as many files as are wanted; the files differ in bytes behind the picture's end.
"""

import os
import sys
import tempfile
from pathlib import Path

import pandas as pd
from bench import describe_machine, measure, tabulate

FEW, FEW_EPOCHS = 3000, 8
EPOCH_STAGES = ["training", "augmentation", "validation", "checkpoints"]


def multiply(drawn: Path, folder: Path, count: int) -> None:
    """Writes `count` files below a folder, in the classes and splits of the drawn ones."""
    files = sorted(drawn.rglob("*.jpg"))
    for number in range(count):
        source = files[number % len(files)]
        target = folder / source.parent.relative_to(drawn) / f"{number:06d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes() + number.to_bytes(4, "little"))


def main(count: int = 100_000) -> None:
    print(f"{describe_machine()}; command: `python benchmarks/many_images.py {count}`\n", flush=True)
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["CATDOG_CACHE"] = str(folder / "cache")
        measure("-m", "catdog.train", "model=cnn", "dataset=synthetic", "dataset.drawing.train_per_class=1000",
                "dataset.drawing.validation_per_class=500", "hydra.launcher.plan_only=true", folder=folder)  # fmt: skip
        (drawn,) = (folder / "cache" / "drawn").glob("*/")
        for images, epochs in ((FEW, FEW_EPOCHS), (count, 1)):
            multiply(drawn, folder / f"images-{images}", images)
            command = ("-m", "catdog.train", "model=augmented", "dataset=folder", f"dataset.archive=images-{images}",
                       f"trainer.epochs={epochs}", f"study={images}")  # fmt: skip
            before = set(folder.rglob("time.csv"))
            decoding = measure(*command, folder=folder)
            (table,) = set(folder.rglob("time.csv")) - before
            first = pd.read_csv(table).set_index("stage")
            again = measure(*command, "hydra.launcher.plan_only=true", folder=folder)
            epoch_s = first["cpu_seconds"].reindex(EPOCH_STAGES).sum() / epochs
            rows.append([
                f"{images:,}", f"{first.loc['data', 'cpu_seconds'] / images * 1e3:.3f}", f"{epoch_s / images * 1e3:.3f}",
                f"{decoding.peak_mb:,.0f}", f"{again.wall_s:.1f}",
            ])  # fmt: skip
    print(tabulate(["images", "hash, decode, resize: CPU ms an image", "an epoch: CPU ms an image", "peak MB",
                    "a plan, later: wall s"], rows))  # fmt: skip


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
