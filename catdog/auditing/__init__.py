"""Inspects data before training: broken files, duplicates, suspect labels, leaks; and new photos before a model is used on them."""
