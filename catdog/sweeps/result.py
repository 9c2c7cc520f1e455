"""What the Python API returns for a sweep."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from catdog.system.wording import plural

if TYPE_CHECKING:
    from catdog.sweeps.launch import SweepResult

# A table that is shown of itself, as in a notebook, has no more rows.
MOST_ROWS = 20


@dataclass(frozen=True)
class Sweep:
    """A sweep that has been trained.

    Attributes:
        result: the full result.
    """

    result: "SweepResult"

    @property
    def sweep_id(self) -> str:
        """Run id of the sweep in MLflow."""
        return self.result.sweep_id

    @property
    def run_ids(self) -> list[str]:
        """Run ids of the runs that finished."""
        return [outcome.run_id for outcome in self.result.outcomes]

    @property
    def is_complete(self) -> bool:
        """Whether all of its runs have finished."""
        return self.result.is_complete

    @property
    def errors(self) -> dict[str, str]:
        """The error messages, by the name of the run; empty if there are none."""
        return {job.name: job.error for job in self.result.jobs if job.error}

    @property
    def outcomes(self) -> pd.DataFrame:
        """A table with one row per run.

        Columns run (its name), outcome (finished, reused, interrupted, busy, failed, not started), run_id, seed, train_accuracy and
        val_accuracy of the last epoch, best_val_accuracy, best_epoch, seconds, error; NaN and None if there is no result.
        """
        rows = []
        for job in self.result.jobs:
            found = job.outcome
            rows.append(
                {
                    "run": job.name,
                    "outcome": job.describe_state(),
                    "run_id": found.run_id if found else None,
                    "seed": job.config.seed,
                    "train_accuracy": found.last_train_accuracy if found else float("nan"),
                    "val_accuracy": found.last_val_accuracy if found else float("nan"),
                    "best_val_accuracy": found.best_val_accuracy if found else float("nan"),
                    "best_epoch": found.best_epoch if found else None,
                    "seconds": found.seconds if found else float("nan"),
                    "error": job.error or None,
                }
            )
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        jobs = self.result.jobs
        if len(jobs) == 1:
            row = self.outcomes.iloc[0]
            accuracy = "" if pd.isna(row["val_accuracy"]) else f", val accuracy {row['val_accuracy']:.3f}"
            run_id = f", run_id={row['run_id']!r}" if row["run_id"] else ""
            return f"Sweep({row['run']}: {row['outcome']}{accuracy}{run_id})"
        head = f"Sweep({len(self.run_ids)} of {plural(len(jobs), 'run')} finished, sweep_id={self.sweep_id!r})"
        return "\n".join(
            [head, self._small.to_string(index=False, float_format="{:.3f}".format, na_rep=""), *self._rest]
        )

    def _repr_html_(self) -> str:
        table = self._small.to_html(index=False, border=0, float_format="{:.3f}".format, na_rep="")
        return "\n".join([table, *(f"<p>{words}</p>" for words in self._rest)])

    @property
    def _small(self) -> pd.DataFrame:
        """What is shown of `outcomes`: the first rows, and errors only where there are some."""
        shown = ["run", "outcome", "val_accuracy", "best_val_accuracy", *(["error"] if self.errors else [])]
        rows = self.outcomes[shown].head(MOST_ROWS)
        return rows.fillna({"error": ""}) if self.errors else rows

    @property
    def _rest(self) -> list[str]:
        left = len(self.result.jobs) - MOST_ROWS
        return [f"and {plural(left, 'more run')}: see outcomes"] if left > 0 else []
