"""Inspects data before training: broken files, duplicates, suspect labels, and leaks."""
