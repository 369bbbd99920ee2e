"""Recorded games as files, and what needs the alfworld package."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def need_alfworld() -> None:
    """Skip where the package is missing; fail where ``CI=true`` and it is missing."""
    try:
        import alfworld  # noqa: F401
        import textworld  # noqa: F401
    except ImportError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must play beside TextWorld: {error}")
        pytest.skip(f"needs the extra 'alfworld': {error}")


@pytest.fixture(scope="session")
def original_rules() -> tuple[str, str]:
    """Domain and grammar of the installed alfworld."""
    need_alfworld()
    from icto_gym.envs.alfworld.textworld import original_rules

    return original_rules()


@pytest.fixture(scope="session")
def recorded_games(alfworld_recordings: Path) -> list[dict[str, Any]]:
    """All recorded games, parsed."""
    games = []
    for path in sorted((alfworld_recordings / "games").glob("*.json.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as handle:
            games.append(json.load(handle))
    return games


@pytest.fixture(scope="session")
def write_game(tmp_path_factory: pytest.TempPathFactory, original_rules: tuple[str, str]) -> Callable[..., Path]:
    """Writes a recorded game as ``game.tw-pddl`` and gives its path; keywords replace its parts."""
    domain, grammar = original_rules

    def write(game: dict[str, Any], folder: Path | None = None, **parts: Any) -> Path:
        folder = folder or tmp_path_factory.mktemp("game")
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "pddl_domain": domain,
            "grammar": grammar.replace("UNKNOWN GOAL", game["task"]),
            "pddl_problem": game["pddl_problem"],
            "solvable": True,
            "walkthrough": None,
            **parts,
        }
        path = folder / "game.tw-pddl"
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return write
