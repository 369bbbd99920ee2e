"""What the tests of ScienceWorld share."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import icto_gym  # noqa: F401  (registers)

ENV_ID = "icto/ScienceWorld-v0"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = str(Path(__file__).parent)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.scienceworld)


@pytest.fixture(scope="session", autouse=True)
def _package() -> None:
    if importlib.util.find_spec("scienceworld") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("The package scienceworld is missing; CI must play the real one.")
        pytest.skip("needs the scienceworld package: pip install 'icto-gym[scienceworld]'")


@pytest.fixture
def recording(request: pytest.FixtureRequest, scienceworld_recordings: Path) -> dict[str, Any]:
    """One recording of the package, by its name as an indirect parameter."""
    with gzip.open(scienceworld_recordings / f"{request.param}.json.gz", "rt", encoding="utf-8") as handle:
        return json.load(handle)


@pytest.fixture
def env() -> Iterator[gym.Env[str, str]]:
    made = gym.make(ENV_ID)
    yield made
    made.close()


@pytest.fixture
def new_env() -> Iterator[Callable[..., gym.Env[str, str]]]:
    """`gymnasium.make` whose environments are closed in the end, whatever the test did."""
    made: list[gym.Env[str, str]] = []

    def make(**arguments: Any) -> gym.Env[str, str]:
        made.append(gym.make(ENV_ID, **arguments))
        return made[-1]

    yield make
    for env in made:
        env.close()
