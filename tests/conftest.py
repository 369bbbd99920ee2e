"""Shared fixtures: where the recordings are, and what must not be missing in CI."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path

import pytest

# Where the suite was started with interrupts ignored (in the background, say), programs that it starts would too.
signal.signal(signal.SIGINT, signal.default_int_handler)

METHODS = Path(__file__).resolve().parents[1] / "benchmarks" / "methods.py"
SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared_folder(name: str) -> Path:
    """Return ``../shared/<name>``; skip where it is absent, fail where ``CI=true`` and it is absent."""
    folder = SHARED / name
    if not folder.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"../shared/{name} is missing; CI must replay the recordings.")
        pytest.skip(f"../shared/{name} is not here: recordings of the original are not part of the package.")
    return folder


@pytest.fixture(scope="session")
def webshop_recordings() -> Path:
    return shared_folder("fixtures/webshop")


@pytest.fixture(scope="session")
def scienceworld_recordings() -> Path:
    return shared_folder("fixtures/scienceworld")


@pytest.fixture(scope="session")
def alfworld_recordings() -> Path:
    return shared_folder("fixtures/alfworld")


@pytest.fixture(scope="module")
def benchmark():
    """The comparison of methods, loaded as the script that it is."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.syspath_prepend(METHODS.parent)
    spec = importlib.util.spec_from_file_location("methods_benchmark", METHODS)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    monkeypatch.undo()
