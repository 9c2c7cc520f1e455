"""Inspects data before training: broken files, duplicates, wrong labels, and leaks."""
