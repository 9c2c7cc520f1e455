"""The Python API: a study, and what can be done with it. The commands are thin shells around it."""

from typing import TYPE_CHECKING

from catdog.config.schema import DEFAULT_STUDY, DEFAULT_URI, TrackingConfig, load_tracking, require_study

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Study:
    """A question and the runs that answer it: one MLflow experiment.

    A study of another name or another store is another object; several in one process do not disturb each other. Nothing
    is read or written before a method is called.

    Args:
        name: the study's, as `study=` on the command line.
        tracking_uri: address of the MLflow store, `sqlite:///PATH/mlflow.db` or `http://HOST:PORT`; None: that of the environment
            variable MLFLOW_TRACKING_URI, or `sqlite:///mlruns/mlflow.db`.

    Raises:
        UserError: the name is empty or has a slash in it.
    """

    def __init__(self, name: str = DEFAULT_STUDY, *, tracking_uri: str | None = None) -> None:
        require_study(name)
        self.name = name
        self._tracking = load_tracking(tracking_uri or DEFAULT_URI)

    def __repr__(self) -> str:
        return f"Study({self.name!r}, tracking_uri={self._tracking.uri!r})"

    @property
    def tracking(self) -> TrackingConfig:
        """The tracking section of the config: the store's address, the folder for artifacts, the outbox."""
        return self._tracking

    def _connect(self) -> "MlflowClient":
        """Returns a client of the store, which must exist."""
        from catdog import tracking

        return tracking.connect(self._tracking, create=False)

    # Training -------------------------------------------------------------------------------------------------------------

    # Results --------------------------------------------------------------------------------------------------------------

    # Runs of other tools --------------------------------------------------------------------------------------------------
