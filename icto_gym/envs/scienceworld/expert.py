"""The simulator's own solutions ("gold paths"): made once, kept on disk, explained sub-goal by sub-goal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from icto_gym.envs.scienceworld.pool import the_pool
from icto_gym.envs.scienceworld.simulator import Simulator
from icto_gym.envs.scienceworld.tasks import JAR_SHA256, task_parts
from icto_gym.errors import BackendError, DataError
from icto_gym.files import cache_dir, read_json, write_json

FORMAT = 1


class SubGoal(NamedTuple):
    """One row of the simulator's table of sub-goals."""

    text: str
    done: bool
    required: bool
    """In the sequence that must be met; else one of the optional ones that earn points on the way."""


def read_progress(table: str) -> list[SubGoal]:
    """Parse the simulator's table: rows of number, ``true`` or ``false``, class and text, between tabs."""
    rows, required = [], True
    for line in table.split("\n"):
        if line.startswith("Unordered"):
            required = False
        cells = line.split("\t")
        if len(cells) == 4 and cells[1] in ("true", "false"):
            rows.append(SubGoal(cells[3].strip(), cells[1] == "true", required))
    return rows


@dataclass(frozen=True, slots=True)
class GoldPath:
    """A demonstrated solution of one task."""

    actions: tuple[str, ...]
    """Up to the one that ends the episode."""
    goals: tuple[str, ...]
    """For each action the sub-goal that the path meets next; ``""`` where none is left."""
    points: int
    """What playing it gives, -100 to 100."""


def gold_path(task_id: str, simplification: str, java: str, timeout: float) -> GoldPath:
    """The gold path of a task, from the cache or made in a simulator of its own (1.5 to 3 s)."""
    return _remembered(task_id, simplification, java, timeout)


@lru_cache(maxsize=4096)
def _remembered(task_id: str, simplification: str, java: str, timeout: float) -> GoldPath:
    file = _cache_file(task_id, simplification)
    kept = _read(file)
    if kept is None:
        kept = _make(task_id, simplification, java, timeout)
        write_json(file, {"format": FORMAT, **asdict(kept)})
    return kept


def _cache_file(task_id: str, simplification: str) -> Path:
    name, variation = task_parts(task_id)
    folder = cache_dir("scienceworld-gold") / JAR_SHA256[:12] / (simplification.replace(",", "+") or "none")
    return folder / name / f"{variation}.json"


def _read(file: Path) -> GoldPath | None:
    """A cached path; None if there is none or it is not whole (it is made again, not complained about)."""
    try:
        record: Any = read_json(file)
        if record["format"] != FORMAT or len(record["actions"]) != len(record["goals"]):
            return None
        return GoldPath(tuple(record["actions"]), tuple(record["goals"]), int(record["points"]))
    except (OSError, DataError, KeyError, TypeError, ValueError):
        return None


def _make(task_id: str, simplification: str, java: str, timeout: float) -> GoldPath:
    lease = the_pool().lease(java, timeout)
    try:
        planned = lease.simulator.gold_path(*task_parts(task_id), simplification)
        return _played(lease.simulator, planned, task_id, simplification)
    except BackendError as error:
        lease.discard(error)
        raise
    finally:
        lease.close()


def _played(simulator: Simulator, planned: list[str], task_id: str, simplification: str) -> GoldPath:
    """Play the path: it is cut where the episode ends, and each step learns which sub-goal it leads to."""
    simulator.load(*task_parts(task_id), simplification)
    tables = [read_progress(simulator.progress())]
    actions: list[str] = []
    for action in planned:
        simulator.step(action)
        actions.append(action)
        tables.append(read_progress(simulator.progress()))
        if simulator.completed() or simulator.score() < 0:
            break
    return GoldPath(tuple(actions), tuple(_next_goals(tables)), simulator.score())


def _next_goals(tables: list[list[SubGoal]]) -> list[str]:
    """For each step the first sub-goal that it or a later step meets; required ones first."""
    goals, upcoming = [""] * (len(tables) - 1), ""
    for step in reversed(range(len(goals))):
        pairs = zip(tables[step], tables[step + 1], strict=True)
        met = [now for before, now in pairs if now.done and not before.done and now.text]
        if met:
            upcoming = next((goal for goal in met if goal.required), met[0]).text
        goals[step] = upcoming
    return goals


_DOING = {
    "go": "going", "teleport": "teleporting", "open": "opening", "close": "closing", "pick": "picking",
    "put": "putting", "move": "moving", "pour": "pouring", "dunk": "dunking", "mix": "mixing",
    "focus": "focusing", "activate": "activating", "deactivate": "deactivating", "use": "using",
    "examine": "examining", "look": "looking", "read": "reading", "connect": "connecting",
    "disconnect": "disconnecting", "eat": "eating", "flush": "flushing",
}  # fmt: skip
_TO_DO = (
    "be",
    "have",
    "focus",
    "move",
    "activate",
    "deactivate",
    "ignite",
    "heat",
    "cool",
    "open",
    "read",
    "use",
    "pick",
)


def rationale(action: str, goal: str) -> str:
    """Why the expert does ``action`` now: one sentence that names the sub-goal it serves."""
    aim = _aim(goal)
    verb, _, rest = action.partition(" ")
    if action.strip().isdigit():
        return f"{aim} Several actions fit, and number {action.strip()} is the one I mean."
    if verb in ("wait", "wait1"):
        return f"{aim} That takes time, so I wait."
    if verb == "inventory":
        return f"{aim} I check what I carry."
    return f"{aim} {_DOING.get(verb, 'doing ' + verb).capitalize()} {rest}".rstrip() + " is the next step."


def _aim(goal: str) -> str:
    if not goal:
        return "The goal is near."
    first, _, rest = goal.partition(" ")
    if first.lower() in _TO_DO:
        return f"I still have to {first.lower()} {rest}.".replace(" .", ".")
    return f"What is still missing: {goal}."
