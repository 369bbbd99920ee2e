"""Play one episode of any benchmark with random admissible actions.

python examples/play_random.py icto/WebShop-v0
"""

import random
import sys

import gymnasium as gym

import icto_gym  # noqa: F401  (registers the environments)


def main(env_id: str = "icto/WebShop-v0", seed: int = 7) -> float:
    env = gym.make(env_id)
    observation, info = env.reset(seed=seed)
    print(f"Task {info['task_id']}: {info['instruction']}\n{observation}\n")
    draw, ended = random.Random(seed), False
    while not ended:
        action = draw.choice(info["admissible_actions"])
        observation, reward, terminated, truncated, info = env.step(action)
        print(f"> {action}\n{observation}\n(reward {reward:.2f})\n")
        ended = terminated or truncated
    env.close()
    return info["score"]


if __name__ == "__main__":
    print("score", main(*sys.argv[1:2]))
