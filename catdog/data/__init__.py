"""Data sets: their sources, splits, decoded cache, duplicates, and predictions for their images."""
