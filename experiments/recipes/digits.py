"""Writes scikit-learn's handwritten digits as a folder of images: python experiments/recipes/digits.py FOLDER

1,797 images of 8 x 8 pixels in ten classes, as PNGs of their own size; scikit-learn comes with MLflow.

Source: Alpaydin and Kaynak (1998), "Optical recognition of handwritten digits", UCI Machine Learning Repository.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

HIGHEST = 16


def write_digits(folder: Path) -> int:
    """Writes one PNG for each digit, below a folder for its class; returns how many."""
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        # Black on white, as on paper.
        pixels = 255 - np.round(image / HIGHEST * 255).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{number:04d}.png")
    return len(digits.images)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python experiments/recipes/digits.py FOLDER")
    sys.stdout.write(f"{write_digits(Path(sys.argv[1]))} images in {sys.argv[1]}\n")
