"""What an iteration did, in one file: the numbers that reveal a collapse before the test set does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from icto_gym.files import read_json
from icto_gym.trajectory import Trajectory
from trainers.runs import Run, superseded

SIDES = ("positive", "negative")
"""RLCD's instructions, by the folders that hold the episodes played under them."""
STAGES = {
    "explored": "trajectories", **{f"explored_{side}": f"{side}/trajectories" for side in SIDES},
    "retried": "with-retries", "answered": "contrasts", "judged": "verdicts", "pairs": "pairs",
    "imitated": "successes", "marked": "marked", "continued": "continuations", "step_rewards": "step_rewards",
}  # fmt: skip
"""What an iteration's facts are called, and the stage that records them."""
TOKENS = ("prompt_tokens", "response_tokens")
"""What stages record of the reading and writing of a policy, or of a judge that is a language model."""
SAMPLED = ("sampled", "final")
"""Where PPO's log holds them: at the first step of each iteration, and at the last step for answers of the result."""
COSTS = (*TOKENS, "trained_tokens", "probe_tokens", "scoring_tokens")
"""What stages record of their cost, in tokens: read and written by policies in play and in sampling (PPO samples within
its training) and by a judge that is a language model (booked as play, where its stage stands), read in training, read
and written by probes of a training, and read only to be scored: by the reference of a contrast, once, or by a reward
model."""


def tokens_of(trajectories: Iterable[Trajectory]) -> dict[str, int]:
    """Read and written by the policy that played, by its own count."""
    counts = [trajectory.extra or {} for trajectory in trajectories]
    return {name: sum(int(count.get(name) or 0) for count in counts) for name in TOKENS}


def iteration_facts(run: Run, iteration: int, evaluations: Iterable[Path]) -> dict[str, Any]:
    """Collect what the stages of an iteration recorded; stages that did not take part are absent.

    Keys: ``iteration``; those of `STAGES` (counts and reasons of drops); ``training`` (first and last optimiser step,
    dev success while training, and what the trainer measured before and after), of several trainings of the policy that
    of the last; ``imitation``, the same of one that contrast began with; ``reward_model``; ``evaluation`` (by split).
    """
    here = run.iteration(iteration)
    facts: dict[str, Any] = {"iteration": iteration}
    old = superseded(run.folder)
    for key, stage in STAGES.items():
        record = run.stage_record(f"{here.name}/{stage}")
        if record and record["stage"] not in old:
            facts[key] = record["facts"]
    facts |= _trainings(run, here, old)
    facts["evaluation"] = {path.parent.name: read_json(path)["metrics"] for path in evaluations}
    return facts


def _trainings(run: Run, here: Path, old: set[str]) -> dict[str, Any]:
    """By ``reward_model``, ``training`` (the policy's last one) and ``imitation`` (one before that)."""
    facts: dict[str, Any] = {}
    for stage in ("reward", "sft", "dpo", "ppo"):  # contrast comes after imitation
        found = {} if run.name_of(here / stage) in old else training_facts(run, here / stage)
        if found and "training" in facts:
            facts["imitation"] = facts.pop("training")
        if found:
            facts["reward_model" if stage == "reward" else "training"] = found
    return facts


def training_facts(run: Run, out: Path) -> dict[str, Any]:
    """How a training went: its first and last logged step, its probes, and what its stage's record says (what went in,
    was cut, dropped or held out, and which step's weights were kept)."""
    lines = [line for line in run.metrics() if line.get("stage") == run.name_of(out)]
    if not lines:
        return {}
    facts: dict[str, Any] = {"steps": lines[-1]["step"], "first": _numbers(lines[0]), "last": _numbers(lines[-1])}
    probes = read_lines(out / "probes.jsonl")
    if probes:
        facts["probes"] = probes
    record = run.stage_record(run.name_of(out))
    return {**facts, **(record["facts"] if record else {})}


def budget(run: Run) -> dict[str, Any]:
    """What a run spent: tokens and seconds by stage, and their sums for play, training and evaluation.

    Tokens are counted once however often a run was interrupted; seconds are those of all its sessions, of one that was
    killed to within `trainers.stage_clock.EVERY`.
    ``prompt_tokens`` counts a conversation again at every turn, although a policy with a cache reads only what is new.
    """
    stages = {}
    old = superseded(run.folder)
    for path in sorted(run.path("stages").glob("*.json")):
        record = read_json(path)
        if "facts" in record and record["stage"] not in old:
            costs = {name: int(record["facts"].get(name) or 0) for name in COSTS}
            seconds = {name: record.get(name, 0.0) for name in ("seconds", "cpu_seconds")}
            stages[record["stage"]] = {**costs, **seconds}
    sums: dict[str, dict[str, float]] = {}
    for name, costs in stages.items():
        kind = "evaluation" if name.startswith("evaluation/") else "training" if costs["trained_tokens"] else "play"
        total = sums.setdefault(kind, {})
        for key, value in costs.items():
            total[key] = round(total.get(key, 0) + value, 2)
    return {"stages": stages, "sums": sums}


def read_lines(path: Path) -> list[Any]:
    """The whole lines of a JSON lines file; none if it is not there."""
    import json

    if not path.exists():
        return []
    return [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
    ]


def _numbers(line: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != "stage" and not key.endswith("seconds")}
