"""What can be measured of an image without knowing what it shows: its size, brightness, contrast, sharpness, saturation."""

from pathlib import Path

import cv2
import numpy as np

from catdog.data.image_sizes import read_size

# Each with its name in tables and its unit. The first two are of the file, the others of the image as the model gets it.
TRAITS = {
    "shorter_side": ("shorter side", "pixels"),
    "aspect_ratio": ("aspect ratio", "width / height"),
    "brightness": ("brightness", "mean grey, 0 to 255"),
    "contrast": ("contrast", "standard deviation of grey"),
    "sharpness": ("sharpness", "variance of the Laplacian"),
    "saturation": ("colour saturation", "mean, 0 to 255"),
}


def measure_traits(path: Path, image: np.ndarray) -> dict[str, float]:
    """Returns the value of each of TRAITS; those of the file are NaN if its header cannot be read.

    Args:
        path: the image's file.
        image: its pixels at the size that the model takes, the same for all images that are compared: uint8 (H, W, 3) in [0, 255].

    Source: Pertuz, Puig and Garcia (2013), "Analysis of focus measure operators for shape-from-focus", Pattern Recognition
    46:1415-1432, for the variance of the Laplacian. Saturation is that of HSV.
    """
    width, height = read_size(path)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return {
        "shorter_side": min(width, height) if width else np.nan,
        "aspect_ratio": width / height if height else np.nan,
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "sharpness": float(cv2.Laplacian(grey, cv2.CV_32F).var()),
        "saturation": float(cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1].mean()),
    }
