"""Times one run on few and on many drawn images of mixed sizes: memory, and cost per image.

python benchmarks/many_images.py [COUNT]      # 100,000: about 12 GB of disk and a quarter of an hour on 2 cores
"""

import os
import sys
import tempfile
from pathlib import Path

import pandas as pd
from bench import describe_machine, measure, tabulate

FEW, FEW_EPOCHS = 3000, 8
EPOCH_STAGES = ["training", "augmentation", "validation", "checkpoints"]


def main(count: int = 100_000) -> None:
    print(f"{describe_machine()}; command: `python benchmarks/many_images.py {count}`\n", flush=True)
    rows: list[list[object]] = []
    for images, epochs in ((FEW, FEW_EPOCHS), (count, 1)):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            os.environ["CATDOG_CACHE"] = str(folder / "cache")
            train, held_out = images * 2 // 3 // 2, images // 3 // 2
            drawn = ("dataset=synthetic", f"dataset.drawing.train_per_class={train}",
                     f"dataset.drawing.validation_per_class={held_out}")  # fmt: skip
            command = ("-m", "catdog.train", "model=augmented", *drawn, f"trainer.epochs={epochs}")
            # Draws them: what a user's camera has done before.
            measure(*command, "hydra.launcher.plan_only=true", folder=folder)
            decoding, again = (measure(*command, f"seed={seed}", folder=folder) for seed in (0, 1))
            tables = sorted(folder.rglob("time.csv"), key=lambda path: path.stat().st_mtime)
            first, second = (pd.read_csv(table).set_index("stage") for table in tables)
            epoch_s = second["cpu_seconds"].reindex(EPOCH_STAGES).sum() / epochs
            rows.append([
                f"{images:,}", f"{first.loc['data', 'cpu_seconds'] / images * 1e3:.3f}",
                f"{second.loc['data', 'cpu_seconds'] / images * 1e3:.3f}", f"{epoch_s / images * 1e3:.3f}",
                f"{decoding.peak_mb:,.0f}", f"{again.peak_mb:,.0f}", f"{second.loc['data', 'wall_seconds']:.1f}",
            ])  # fmt: skip
    print(tabulate(["images", "first time: hash and decode, CPU ms an image", "later: hash and check", "an epoch",
                    "peak MB, first time", "later", "wall s until images are ready, later"], rows))  # fmt: skip


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
