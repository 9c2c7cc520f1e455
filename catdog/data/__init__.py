"""The data stage: sources, splits, decoded cache, input stream."""
