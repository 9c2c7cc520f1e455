"""Measures what it costs to keep training images as pixels or as JPEGs; prints a table in Markdown.

    python benchmarks/stored_images.py FOLDER      # of photos: a minute for 2,000 on 2 cores

FOLDER holds photos in any depth. An epoch reads all images in random order, in batches of 32.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench import describe_machine, tabulate

from catdog.data.cache import load_images
from catdog.data.images import is_image_file

BATCH = 32
SIZES = (160, 224)


def read_epoch(images: object, count: int) -> float:
    """Returns the CPU seconds of an epoch."""
    order = np.random.default_rng(0).permutation(count)
    began = time.process_time()
    for start in range(0, count, BATCH):
        images[order[start : start + BATCH]]
    return time.process_time() - began


def main(folder: str) -> None:
    files = sorted(path for path in Path(folder).rglob("*") if is_image_file(path))
    names, rows = [str(file) for file in files], []
    print(f"{describe_machine()}; {len(files):,} photos; command: `python benchmarks/stored_images.py FOLDER`\n")
    with tempfile.TemporaryDirectory() as cache:
        for size in SIZES:
            pixels = None
            for as_jpeg in (False, True):
                began = time.process_time()
                images = load_images(files, names, height=size, width=size, cache=Path(cache), as_jpeg=as_jpeg).images
                once = time.process_time() - began
                epoch = read_epoch(images, len(files))
                stored = sum(
                    path.stat().st_size
                    for path in Path(cache).rglob("images.*")
                    if (path.suffix == ".jpegs") == as_jpeg
                )
                difference = 0.0
                if pixels is not None:
                    few = np.random.default_rng(1).permutation(len(files))[:500]
                    difference = float(np.abs(images[few].astype(int) - pixels[few]).mean())
                pixels = images
                rows.append([
                    f"{size} x {size}", "JPEGs" if as_jpeg else "pixels", f"{1e3 * once / len(files):.2f}",
                    f"{1e3 * epoch / len(files):.3f}", f"{stored / len(files) / 1e3:.1f}", f"{difference:.2f}",
                ])  # fmt: skip
            for path in Path(cache).rglob("images.*"):
                path.unlink()
    print(tabulate(
        ["size", "kept as", "CPU ms an image, once", "CPU ms an image, each epoch", "KB an image", "mean difference, of 255"], rows
    ))  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
