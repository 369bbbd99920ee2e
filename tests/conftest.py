"""Shared fixtures: where the recordings are, and what must not be missing in CI."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# Where the suite was started with interrupts ignored (in the background, say), programs that it starts would too.
signal.signal(signal.SIGINT, signal.default_int_handler)

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
