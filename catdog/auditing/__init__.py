"""Looking at data before training on it: what is broken, doubled, mislabelled, or leaks."""
