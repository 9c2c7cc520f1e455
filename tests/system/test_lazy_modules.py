"""Modules that are executed at their first use."""

import inspect
import sys
import threading
from pathlib import Path

import pytest

from catdog.system.lazy_modules import LazyModule, postponed

CODE = """
import {name}_log
import time
{name}_log.executed.append("{name}")
time.sleep(0.2)
from {name} import part
value = 3
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch, request) -> str:
    """The name of a package that notes when it is executed, and can be imported."""
    name = f"lazy_{request.node.name}".replace("[", "_").replace("]", "")
    (tmp_path / name).mkdir()
    (tmp_path / f"{name}_log.py").write_text("executed = []")
    (tmp_path / name / "__init__.py").write_text(CODE.format(name=name))
    (tmp_path / name / "part.py").write_text("inner = 1")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def executed(name: str) -> list[str]:
    return __import__(f"{name}_log").executed


def test_it_is_executed_once_by_the_first_use_in_any_thread(package) -> None:
    with postponed({package}):
        module = __import__(package)
    assert type(module) is LazyModule
    assert not executed(package)
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(module.value)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [3] * 8
    assert executed(package) == [package]
    assert type(module) is not LazyModule
    assert module.part.inner == 1


def test_looking_at_all_modules_executes_none(package) -> None:
    with postponed({package}):
        module = __import__(package)
    assert module.__file__.endswith("__init__.py")
    assert not hasattr(module, "__warningregistry__")
    inspect.getmodule(inspect.currentframe())
    assert all(hasattr(each, "__name__") for each in list(sys.modules.values()) if inspect.ismodule(each))
    assert not executed(package)


def test_names_and_all_names_can_be_imported_from_it(package) -> None:
    with postponed({package}):
        __import__(package)
    names: dict[str, object] = {}
    exec(f"from {package} import *", names)
    assert names["value"] == 3
    with pytest.raises(ImportError, match="cannot import name 'other'"):
        exec(f"from {package} import other")


def test_an_exception_is_raised_again(package, tmp_path) -> None:
    (tmp_path / package / "__init__.py").write_text("1 / 0")
    with postponed({package}):
        module = __import__(package)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            module.value  # noqa: B018
