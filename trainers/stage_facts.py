"""What a stage's record says of what it made: counts, and tokens read and written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from icto_gym.files import read_json
from icto_gym.trajectory import Trajectory
from trainers.diagnostics import TOKENS, read_lines, tokens_of
from trainers.evaluation.evaluate import COST
from trainers.feedback import StepRewarder
from trainers.pairing import PairingResult
from trainers.policies.base import LIMITS
from trainers.records import StepRewards, Verdict, steps_at_limit
from trainers.runs import Run


def stage_name(run: Run, out: Path) -> str:
    """``iteration-01/pairs.jsonl`` -> ``iteration-01/pairs``."""
    name = run.name_of(out.with_suffix("") if out.suffix == ".jsonl" else out)
    return out.name if name == "." else name


def play_facts(trajectories: list[Trajectory]) -> dict[str, Any]:
    """Counts and means that say how play went; episodes with a limit met count under its name (see `Usage`)."""
    steps = [step for trajectory in trajectories for step in trajectory.steps]
    episodes = max(len(trajectories), 1)
    return {
        "episodes": len(trajectories),
        "successes": sum(trajectory.success for trajectory in trajectories),
        "broken": sum(trajectory.error is not None for trajectory in trajectories),
        **{limit: sum(bool(steps_at_limit(item, limit)) for item in trajectories) for limit in LIMITS},
        "average_reward": round(sum(trajectory.score for trajectory in trajectories) / episodes, 6),
        "steps": len(steps),
        "invalid_action_share": round(sum(not step.valid for step in steps) / max(len(steps), 1), 6),
        **tokens_of(trajectories),
    }


def evaluation_facts(episodes: Sequence[Trajectory], known: Sequence[Trajectory]) -> dict[str, int]:
    """How many episodes, those that were known before, and tokens read and written for the others."""
    before = {item.trajectory_id for item in known}
    tokens = tokens_of(item for item in episodes if item.trajectory_id not in before)
    return {"episodes": len(episodes), **({"taken_over": len(before)} if before else {}), **tokens}


def verdict_facts(verdicts: list[Verdict]) -> dict[str, Any]:
    """How many were accepted, why the others were not (the rule's name, the part before the colon), and the tokens of a
    judge that counts them."""
    reasons = Counter(verdict.reason.partition(":")[0] for verdict in verdicts if not verdict.accepted)
    tokens = {name: sum(getattr(verdict, name) for verdict in verdicts) for name in TOKENS}
    return {
        "trajectories": len(verdicts),
        "accepted": sum(verdict.accepted for verdict in verdicts),
        "rejected": dict(sorted(reasons.items())),
        **(tokens if any(tokens.values()) else {}),
    }


def pairing_facts(result: PairingResult) -> dict[str, Any]:
    """How many pairs there are, what fell out why, and what they teach."""
    teaches = result.balance._asdict() if result.balance else {}
    one_sided = [word._asdict() for word in teaches.pop("one_sided_words", [])]
    return {"pairs": len(result.pairs), "counts": result.counts, "balance": teaches, "one_sided_words": one_sided}


def scoring_facts(rewarder: StepRewarder, found: Sequence[StepRewards]) -> dict[str, int]:
    """What was scored, and the tokens that a rewarder with a model read for it."""
    read = getattr(rewarder, "tokens_read", None)
    counts = {"trajectories": len(found), "steps": sum(len(item.rewards) for item in found)}
    return counts if read is None else {**counts, "scoring_tokens": int(read)}


def probe_facts(out: Path) -> dict[str, int]:
    """Read and written by the probes of a training; empty where nothing was probed."""
    probes = read_lines(out / "probes.jsonl")
    read = sum(value for probe in probes for name, value in probe.items() if name.startswith(COST))
    return {"probe_tokens": int(read)} if probes else {}


def training_facts(run: Run, out: Path) -> dict[str, Any]:
    """What went in (samples used, truncated, dropped, held out), tokens read in training and in its probes, the step
    whose weights were kept and what their probe measured, what was measured at the last step (of other weights, where
    an earlier probe was better), and why training stopped early if it did."""
    lines = [line for line in run.metrics() if line.get("stage") == stage_name(run, out)]
    tokens = sum(int(line.get("train/tokens", 0)) for line in lines)
    measured = ("holdout/", "held_out/", "final/")
    held = {key: value for line in lines[-1:] for key, value in line.items() if key.startswith(measured)}
    record = read_json(out / "checkpoint" / "checkpoint.json")
    names = {"step": "kept_step", "probe": "kept_probe", "stopped_early": "stopped_early"}
    result = {shown: record[key] for key, shown in names.items() if key in record}
    return {**record.get("data", {}), "trained_tokens": tokens, **probe_facts(out), **held, **result}
