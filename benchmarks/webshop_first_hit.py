"""What careless and careful shopping pays on the built-in goals: the first hit without options, and the expert.

    python benchmarks/webshop_first_hit.py [--json benchmarks/results/webshop_first_hit.json]

The first-hit buyer searches for the whole instruction, opens the first product and buys it. A third buyer, who also
clicks every option value of that product that the instruction names, shows how much of the loss is forgotten options.
"""

from __future__ import annotations

import argparse
from collections import Counter
from statistics import mean
from typing import Any

import gymnasium as gym

import icto_gym
from icto_gym.files import write_json

SPLITS = ("train", "dev", "test", "ood")


def first_hit(env: gym.Env, task_id: str, *, choose: bool) -> float:
    """The reward of buying the first hit of the instruction; ``choose``: with the options that it names."""
    _, info = env.reset(options={"task_id": task_id})
    wish = info["instruction"]
    _, _, _, _, info = env.step(f"search[{wish}]")
    product = next(text for text in info["clickables"] if text.startswith("b0"))
    _, _, _, _, info = env.step(f"click[{product}]")
    values = info["clickables"][info["clickables"].index("buy now") + 1 :]
    if choose:
        for value in values:
            if f" {value} " in f" {wish.lower().replace(',', ' ')} ":
                env.step(f"click[{value}]")
    return float(env.step("click[Buy Now]")[1])


def expert(env: gym.Env, task_id: str) -> tuple[float, int]:
    """Reward and number of steps of the demonstrated episode, within the step limit."""
    _, info = env.reset(options={"task_id": task_id})
    total, steps, done = 0.0, 0, False
    while not done:
        _, reward, terminated, truncated, info = env.step(info["expert_action"])
        total, steps, done = total + float(reward), steps + 1, terminated or truncated
    return total, steps


def measure(split: str) -> dict[str, Any]:
    """All figures of one split."""
    plain = gym.make("icto/WebShop-v0", max_episode_steps=20)
    shown = gym.make("icto/WebShop-v0", expert=True)
    task_ids = [task.task_id for task in icto_gym.tasks("icto/WebShop-v0", split)]
    bought = [first_hit(plain, task_id, choose=False) for task_id in task_ids]
    chosen = [first_hit(plain, task_id, choose=True) for task_id in task_ids]
    demonstrated = [expert(shown, task_id) for task_id in task_ids]
    return {
        "goals": len(task_ids),
        "first_hit_reward": round(mean(bought), 4),
        "first_hit_success": round(mean(reward == 1.0 for reward in bought), 4),
        "first_hit_with_options_reward": round(mean(chosen), 4),
        "first_hit_with_options_success": round(mean(reward == 1.0 for reward in chosen), 4),
        "expert_success": round(mean(reward == 1.0 for reward, _ in demonstrated), 4),
        "expert_mean_actions": round(mean(steps for _, steps in demonstrated), 3),
        "expert_lengths": {str(k): n for k, n in sorted(Counter(steps for _, steps in demonstrated).items())},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="write the result here")
    options = parser.parse_args()
    result = {split: measure(split) for split in SPLITS}
    names = [name for name in result["train"] if name != "expert_lengths"]
    print(f"{'':34}" + "".join(f"{split:>9}" for split in SPLITS))
    for name in names:
        print(f"{name.replace('_', ' '):34}" + "".join(f"{result[split][name]:>9}" for split in SPLITS))
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main()
