"""Makes a small run folder with everything the report reads, by the real stages where they are cheap."""

from __future__ import annotations

import json
import random
from pathlib import Path

from icto_gym.files import write_json, write_text
from icto_gym.trajectory import Step, Trajectory
from trainers.evaluation.metrics import metrics_to_json, summarize
from trainers.feedback import RecordedStepRewards, RuleJudge, judge_all, score_all
from trainers.pairing import PairingConfig, build_pairs
from trainers.records import write_records

COLOURS = ("red", "blue", "green", "grey")
PAGE = "\n".join(
    f"[Item {n}] Runner model {n}, breathable mesh, rubber sole, sizes 6 to 12 — ${20 + n}.99" for n in range(9)
)


def episode(task: int, policy: str, *, attempt: int, style: str, split: str) -> Trajectory:
    """A shopping trip: ``right`` buys the right thing, ``wrong`` another, ``loop`` goes back and forth."""
    colour = COLOURS[task % 4]
    goal = f"I need {colour} running shoes in size {task % 5 + 7}, and I'd pay at most ${30 + task}."
    seen, moves = f"{goal}\n[Search]", []

    def do(thought: str, action: str, after: str, reward: float = 0.0, valid: bool = True) -> None:
        nonlocal seen
        moves.append(Step(seen, f"Thought: {thought}\nAction: {action}", thought, action, reward, valid))
        seen = after

    do(f"I look for {colour} running shoes.", f"search[{colour} running shoes]", f"[Back to Search]\n{PAGE}")
    if style == "loop":
        for _ in range(5):
            do("Perhaps the next page.", "click[next page]", "You cannot do that.", valid=False)
    else:
        item = 3 if style == "right" else 5
        do(
            f"Item {item} is ${20 + item}.99, within the budget.",
            f"click[item {item}]",
            f"Runner model {item}\n[Buy Now]",
        )
        if style == "right":
            do(f"The task asks for {colour}.", f"click[{colour}]", f"You have chosen {colour}.")
            do("All constraints hold.", "click[buy now]", "Thank you for shopping with us!", 1.0)
        else:
            do("It looks fine to me.", "click[buy now]", "Thank you for shopping with us!", 0.4)
    score = sum(step.reward for step in moves)
    task_id = f"toy/{split}/{task:04d}"
    return Trajectory(
        trajectory_id=f"{task_id}@{policy}#{attempt}", env_id="icto/Toy-v0", task_id=task_id, system_prompt="Shop.",
        instruction=goal, steps=tuple(moves), final_observation=seen, score=score, success=score >= 1,
        terminated=style != "loop", truncated=style == "loop", policy=policy, seed=attempt,
    )  # fmt: skip


def play(policy: str, split: str, tasks: int, odds: tuple[float, float], attempts: int = 1) -> list[Trajectory]:
    """Episodes with the odds of being right and of being wrong; the rest are loops."""
    played = []
    for task in range(tasks):
        for attempt in range(attempts):
            draw = random.Random(f"{policy} {split} {task} {attempt}").random()
            style = "right" if draw < odds[0] else "wrong" if draw < sum(odds) else "loop"
            played.append(episode(task, policy, attempt=attempt, style=style, split=split))
    return played


def write_evaluation(run: Path, label: str, split: str, played: list[Trajectory]) -> None:
    """What an evaluation leaves in a run folder."""
    folder = run / "evaluation" / label / split
    write_records(folder / "trajectories.jsonl", played)
    record = {
        "label": label, "policy": label, "env_id": "icto/Toy-v0", "env_kwargs": {}, "split": split,
        "manifest_digest": "0123456789abcdef" * 4, "n_tasks": len(played), "decoding": {"temperature": 0.0},
        "metrics": metrics_to_json(summarize(played)),
    }  # fmt: skip
    write_json(folder / "metrics.json", record)


def write_iteration(run: Path, number: int, explored: list[Trajectory], expert: list[Trajectory]) -> None:
    """What an iteration leaves: episodes, verdicts, step rewards, pairs, diagnostics of training."""
    folder = run / f"iteration-{number:02d}"
    verdicts, rewards = judge_all(RuleJudge(), explored), score_all(RecordedStepRewards(), [*explored, *expert])
    result = build_pairs(explored, verdicts, rewards, PairingConfig(), expert=expert)
    for name, items in (
        ("trajectories", explored),
        ("verdicts", verdicts),
        ("step_rewards", rewards),
        ("pairs", result.pairs),
    ):
        write_records(folder / f"{name}.jsonl", items)
    write_json(
        folder / "metrics.json", {"iteration": number, "pairs": {"pairs": len(result.pairs), "counts": result.counts}}
    )
    probes = [{"step": step, "dev/success_rate": 0.4 + 0.01 * step - 0.0004 * step * step} for step in (0, 8, 16, 24)]
    write_text(folder / "dpo" / "probes.jsonl", "".join(json.dumps(line) + "\n" for line in probes))


def training_lines(stage: str, steps: int, *, contrast: bool) -> list[dict[str, object]]:
    """Lines of ``metrics.jsonl`` of one training."""
    lines: list[dict[str, object]] = []
    for step in range(1, steps + 1):
        line: dict[str, object] = {"stage": stage, "step": step, "train/loss": 0.2 + 1.4 / (1 + step)}
        if contrast:
            line |= {"train/chosen_logp_change": 0.02 * step, "train/rejected_logp_change": -0.11 * step}
        lines.append(line)
    if contrast:
        lines[-1] |= {"pairs/chosen_logp_change": 0.41, "pairs/rejected_logp_change": -2.63}
    return lines


def make_run(folder: Path, *, tasks: int = 24, iterations: int = 2) -> Path:
    """A whole run with ``iterations`` rounds."""
    odds = {"base": (0.0, 0.1), "sft": (0.4, 0.3), "icto-1": (0.5, 0.3), "icto-2": (0.6, 0.3)}
    for label in ("base", "sft", *(f"icto-{n + 1}" for n in range(iterations))):
        write_evaluation(folder, label, "test", play(label, "test", tasks, odds[label]))
        write_evaluation(folder, label, "dev", play(label, "dev", tasks, odds[label]))
    expert = [episode(task, "expert", attempt=0, style="right", split="train") for task in range(tasks)]
    write_records(folder / "demonstrations.jsonl", expert)
    lines = training_lines("sft", 40, contrast=False)
    for number in range(1, iterations + 1):
        explored = play(f"explore-{number}", "train", tasks, (0.4, 0.4), attempts=3)
        write_iteration(folder, number, explored, expert)
        lines += training_lines(f"iteration-{number:02d}/dpo", 24, contrast=True)
    write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write_text(folder / "config.yaml", "method: icto\nmodel:\n  name: smollm2-135m-instruct\niterations: 2\n")
    for number, (stage, seconds) in enumerate([("sft", 212.4), ("iteration-01/trajectories", 95.0)]):
        record = {
            "stage": stage,
            "seconds": seconds,
            "cpu_seconds": 1.8 * seconds,
            "finished": f"2026-01-0{number + 1}",
        }
        write_json(folder / "stages" / f"{stage.replace('/', '.')}.json", record)
    return folder
