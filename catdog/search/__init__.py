"""Which runs to train next: seeds until a comparison is decided, and settings until a search has found good ones."""
