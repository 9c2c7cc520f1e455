"""Answers images with an exported file, in a process of its own into which neither catdog nor Keras can be imported.

It is a program, not a module to import: python -P scorer.py READER SIDE ANSWERS MODULE,... with the pixels of each image, uint8
(SIDE, SIDE, 3), one after the other on stdin. It writes to the file ANSWERS: probabilities, float32 (N, classes), and milliseconds,
float64 (N,). READER is the script beside the exported file; the modules are those that must not be imported.
"""

import runpy
import sys
import time

import numpy as np


def score(reader: str, side: int, answers: str) -> None:
    """Answers each image on its own, and writes the answers and the times."""
    answer = runpy.run_path(reader)["load"]()
    # The first call may still compile something.
    answer(np.zeros((side, side, 3), np.uint8))
    probabilities, milliseconds = [], []
    while pixels := sys.stdin.buffer.read(side * side * 3):
        image = np.frombuffer(pixels, np.uint8).reshape(side, side, 3)
        start = time.perf_counter()
        probabilities.append(answer(image))
        milliseconds.append(1000 * (time.perf_counter() - start))
    np.savez(answers, probabilities=np.stack(probabilities), milliseconds=np.array(milliseconds))


if __name__ == "__main__":
    for module in sys.argv[4].split(","):
        sys.modules[module] = None  # type: ignore[assignment]
    score(sys.argv[1], int(sys.argv[2]), sys.argv[3])
