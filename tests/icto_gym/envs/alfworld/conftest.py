"""Recorded games as files, and what needs the alfworld package."""

from __future__ import annotations

import gzip
import json
import os
import re
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


_HELP_ACTION = """(:action help
    :parameters (?a - agent)
    :precondition
        ()
    :effect
        (and
            (checked ?a)
        )
)
"""


def published(domain: str, grammar: str, name: str) -> tuple[str, str]:
    """Domain and grammar of games published until 2024 (``"0.2"``), those patched (``"2.1.2"``), or today's."""
    if name == "0.4":
        return domain, grammar
    old_domain = domain.replace(f"{_HELP_ACTION}\n", "")
    start = grammar.index("\naction help {")
    help_text = re.search(r'"rhs": "(\\nAvailable.*?)"\n', grammar[start:], re.DOTALL)
    assert help_text
    old = grammar[:start]
    if name == "0.2":
        for new, before in (
            ("You arrive at {r.name}.", "You arrive at {lend.name}."),
            ("move {o} to {r}", "put {o} in/on {r}"),
            ("You move the {o.name} to the {r.name}.", "You put the {o.name} in/on the {r.name}."),
        ):
            old = old.replace(new, before)
        return old_domain, old
    before, after = old_domain.rsplit(")", 1)
    feedback = help_text[1].replace("\\n", "\n")
    return f"{before}{_HELP_ACTION}){after}", (
        f'{old}\naction help {{\n    template :: "help";\n    feedback :: "{feedback}";\n}}\n'
    )


@pytest.fixture(scope="session")
def published_rules(original_rules: tuple[str, str]) -> dict[str, tuple[str, str]]:
    """Domain and grammar by the name of the rules: ``"0.2"``, ``"2.1.2"`` and ``"0.4"``."""
    return {name: published(*original_rules, name) for name in ("0.2", "2.1.2", "0.4")}
