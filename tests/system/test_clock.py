"""Where a run's time goes: stages that add up."""

import threading
import time

import pytest

from catdog.system.clock import Clock, describe


def burn(cpu_s: float) -> None:
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        pass


def test_stages_add_up_to_the_process() -> None:
    before = time.process_time()
    clock = Clock("start")
    with clock.stage("data"):
        burn(0.05)
    clock.enter("training")
    burn(0.1)
    spent = clock.spent
    assert list(spent) == ["start", "data", "training"]
    # The process may have spent much before the test.
    assert spent["start"][1] >= before
    assert spent["data"][1] == pytest.approx(0.05, abs=0.03)
    assert spent["training"][1] == pytest.approx(0.1, abs=0.03)
    assert spent["training"][0] >= 0.09
    assert clock.totals[1] == pytest.approx(time.process_time(), abs=0.03)


def test_a_thread_is_charged_to_a_stage_of_its_own() -> None:
    clock = Clock("start")
    clock.enter("training")

    def augment() -> None:
        with clock.threaded("augmentation"):
            burn(0.1)

    thread = threading.Thread(target=augment)
    thread.start()
    thread.join()
    spent = clock.spent
    assert spent["augmentation"] == [0.0, pytest.approx(0.1, abs=0.03)]
    assert spent["training"][1] < 0.05
    assert spent["training"][0] >= 0.09


def test_a_thread_that_works_across_stages_leaves_none_negative() -> None:
    clock = Clock("start")
    clock.enter("training")
    burn(0.1)
    clock.enter("checkpoints")
    clock.charge("augmentation", 0.09)
    spent = clock.spent
    assert min(cpu_s for _, cpu_s in spent.values()) >= 0
    assert spent["training"][1] == pytest.approx(0.01, abs=0.03)
    assert clock.totals[1] == pytest.approx(time.process_time(), abs=0.03)


def test_a_resumed_run_goes_on_with_what_was_spent() -> None:
    clock = Clock("start")
    clock.add_earlier({"training": [10.0, 20.0]})
    clock.enter("training")
    assert clock.spent["training"] == [pytest.approx(10, abs=0.1), pytest.approx(20, abs=0.1)]
    assert clock.totals[0] == pytest.approx(10, abs=0.2)


def test_it_is_said_in_shares() -> None:
    spent = {"start": [1.0, 1.0], "training": [50.0, 90.0], "tracking": [1.0, 1.0], "validation": [4.0, 8.0]}
    assert describe(spent) == "100 s of CPU time: training 90%, validation 8%, other 2%"
