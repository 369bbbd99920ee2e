"""Play several episodes at once through Gymnasium's own vector environments.

python examples/vectorised_play.py icto/ALFWorld-v0 4
"""

import random
import sys

import gymnasium as gym

import icto_gym  # noqa: F401  (registers the environments)


def main(env_id: str = "icto/WebShop-v0", count: int = 4, steps: int = 12, seed: int = 7) -> list[float]:
    envs = gym.make_vec(env_id, num_envs=count, vectorization_mode="sync")
    _, info = envs.reset(seed=seed)
    draw, best = random.Random(seed), [0.0] * count
    for _ in range(steps):
        actions = tuple(draw.choice(list(admissible)) for admissible in info["admissible_actions"])
        _, _, terminated, truncated, info = envs.step(actions)
        best = [max(pair) for pair in zip(best, map(float, info["score"]), strict=True)]
        for number in (terminated | truncated).nonzero()[0]:
            print(f"episode of environment {number} ended with score {info['score'][number]:.2f}")
    envs.close()
    return best


if __name__ == "__main__":
    print("best scores", main(*sys.argv[1:2], *map(int, sys.argv[2:3])))
