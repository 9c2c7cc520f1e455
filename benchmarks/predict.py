"""Measures images per second: decoding alone, the model alone, and `predict` with output=, which does both; and its memory.

    python benchmarks/predict.py [COUNT] [MODEL]      # 4,000 images, model=cnn: a few minutes on 2 cores

Decoding and a model on the same CPUs share them, so the most that predict could reach is 1 / (1 / decoding + 1 / model); with a
model on a GPU it is the slower of the two. The three are measured one after the other, several times, and each ratio is that
of one such round: other work on the machine disturbs it less. CPU time hardly depends on such work, but does not show whether the
two overlap.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from bench import describe_machine, measure, tabulate
from PIL import Image

REPEATS, BATCH_SIZE = 7, 32
# Of a photo as phones and data sets have them.
WIDTH, HEIGHT = 500, 375
FEW = 320


def write_photo(path: Path) -> None:
    """Writes a JPEG with shapes and noise: about as many bytes as a photo of its size."""
    rng = np.random.default_rng(int(path.stem))
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
        (WIDTH, HEIGHT), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(small).astype(np.int16) + rng.integers(-12, 13, (HEIGHT, WIDTH, 3))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=88)


def time_work(work: Callable[[], int]) -> tuple[float, float]:
    """Returns images per second and CPU milliseconds per image of some work, which returns its images."""
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    count = work()
    return count / (time.perf_counter() - start_s), 1000 * (time.process_time() - start_cpu_s) / count


def main(count: int = 4000, model_name: str = "cnn") -> None:
    print(f"{describe_machine()}; command: `python benchmarks/predict.py {count} {model_name}`\n", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["CATDOG_CACHE"] = str(folder / "cache")
        photos = folder / "photos"
        photos.mkdir()
        files = [photos / f"{number:07d}.jpg" for number in range(count)]
        with ProcessPoolExecutor(os.cpu_count()) as processes:
            list(processes.map(write_photo, files, chunksize=50))
        measure("-m", "catdog.train", f"model={model_name}", "dataset=synthetic", "trainer.epochs=1", folder=folder)
        from catdog import Study
        from catdog.data.decoding import decode_ahead

        model = Study(tracking_uri=f"sqlite:///{folder}/mlruns/mlflow.db").model()
        size, loaded = model.image_size, model.loaded
        batch = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE, size, size, 3), dtype=np.uint8)
        # The first step of a shape compiles.
        loaded.predict_on_batch(batch)
        (few := files[:FEW]).sort()
        model.save_answers(few, folder / "first.csv", BATCH_SIZE)
        before = psutil.Process().memory_info().rss

        def decode() -> int:
            return sum(len(each) for each in decode_ahead(files, size, size, BATCH_SIZE))

        def step() -> int:
            for _ in range(count // BATCH_SIZE):
                loaded.predict_on_batch(batch)
            return count // BATCH_SIZE * BATCH_SIZE

        def predict() -> int:
            output = folder / "answers.csv"
            output.unlink(missing_ok=True)
            return model.save_answers(photos, output, BATCH_SIZE).files

        rounds = np.array([[time_work(work) for work in (decode, step, predict)] for _ in range(REPEATS)])
        grown = psutil.Process().memory_info().rss - before
        (decoding, forward, both), cpu_ms = rounds[..., 0].T, rounds[..., 1].T
        shared = 1 / (1 / decoding + 1 / forward)
        rows = [
            ["decoding alone, images/s", _show(decoding, 0)],
            ["the model alone, images/s", _show(forward, 0)],
            ["predict, images/s", _show(both, 0)],
            ["predict / what the same CPUs allow for both", _show(both / shared, 2)],
            ["predict / the slower of the two", _show(both / np.minimum(decoding, forward), 2)],
            ["CPU ms per image: decoding, the model, predict", "; ".join(_show(one, 2) for one in cpu_ms)],
            ["CPU time of decoding and the model / of predict", _show((cpu_ms[0] + cpu_ms[1]) / cpu_ms[2], 2)],
            [f"memory grown after {FEW} images, MB", f"{grown / 1e6:,.0f}"],
        ]
        print(tabulate(["what", f"median of {REPEATS} rounds (lowest to highest)"], rows))


def _show(values: np.ndarray, digits: int) -> str:
    median, low, high = (f"{value:,.{digits}f}" for value in (np.median(values), values.min(), values.max()))
    return f"{median} ({low} to {high})"


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:3])
