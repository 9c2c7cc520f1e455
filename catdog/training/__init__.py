"""One run: prepare, build, fit, finish; the model and what trains it."""
