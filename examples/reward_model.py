"""Fit a reward model to collected steps, and have it say what each step was worth.

    python examples/reward_model.py runs/reward

The model is tiny and random, so that this takes seconds; a real one: --model.name smollm2-135m-instruct
"""

import sys
from pathlib import Path

from trainers.cli import main as icto
from trainers.records import StepRewards, read_records


def main(folder: str = "runs/reward") -> list[StepRewards]:
    played, rewards = f"{folder}/trajectories.jsonl", f"{folder}/step_rewards.jsonl"
    model = f"{folder}/model"
    for command in (
        ["rollout", "random", "--env-id", "icto_gym.testing:Scripted-v0", "--attempts", "2", "--out", played],
        ["train", "reward", played, "--model.name", "tiny-random", "--epochs", "1", "--out", model],
        ["score", played, "--model", f"{model}/checkpoint", "--source", "learned", "--out", rewards],
    ):
        code = icto(["--quiet", *command])
        if code:
            raise SystemExit(code)
    found = read_records(Path(rewards), StepRewards)
    for item in found[:3]:
        print(item.trajectory_id, [round(value, 3) for value in item.rewards])
    return found


if __name__ == "__main__":
    main(*sys.argv[1:2])
