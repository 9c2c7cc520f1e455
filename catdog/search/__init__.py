"""Which runs to train next: seeds until a comparison is decided."""
