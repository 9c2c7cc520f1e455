"""Entry: one composed config -> one tracked run. `python -m catdog.train --help` explains it."""

from catdog import cli

USAGE = """Trains an image classifier, or with -m a sweep of them, and tracks every run in MLflow.

  python -m catdog.train model=mobilenet
  python -m catdog.train -m model=cnn,augmented,preprocessed,mobilenet
  python -m catdog.train -m model=cnn seed=0,1,2 trainer.epochs=3
  python -m catdog.train dataset=folder dataset.archive=path/to/images study=flowers"""


if __name__ == "__main__":
    from catdog.sweeps.single import run_single

    cli.run_app("config", run_single, usage=USAGE, sweeps=True)
