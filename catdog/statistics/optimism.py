"""Placeholder."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Correction:
    """Placeholder."""

    found: float
    corrected: float
    low: float
    high: float
    optimism: float


def correct_selection(values: np.ndarray, groups: np.ndarray | None = None) -> Correction:
    """Placeholder."""
    best = float(values.mean(axis=1).max())
    return Correction(best, best, best, best, 0.0)
