"""The check before a sweep: its progress."""

import logging
import multiprocessing

import pytest

from catdog.data import progress
from catdog.sweeps import check


def test_a_log_file_gets_the_progress_now_and_then(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    """Also while nothing is checked yet, because TensorFlow is being loaded."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    monkeypatch.setattr(progress, "_LOG_EVERY_S", 0.0)
    monkeypatch.setattr(check, "REPORT_EVERY_S", 0.01)
    real = receiver.poll

    class Slow:
        polls = 0

        def poll(self, timeout_s: float) -> bool:
            self.polls += 1
            if self.polls == 2:
                check.SendingHandler(sender).emit(logging.makeLogRecord({"msg": "careful", "levelno": logging.WARNING}))
                for message in (("checked", 1), ("checked", 1), ("result", (None, ["0", "1"]))):
                    sender.send(message)
            return real(timeout_s)

        recv = staticmethod(receiver.recv)

    with caplog.at_level("INFO"):
        assert check._receive_checks(Slow(), 16) == (None, ["0", "1"])  # type: ignore[arg-type]
    assert [record.getMessage() for record in caplog.records] == [
        "checking: 0 of 16 runs (0%)",
        "careful",
        "checking: 1 of 16 runs (6%)",
        "checking: 2 of 16 runs (12%)",
    ]
