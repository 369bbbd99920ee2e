"""Watch the expert of any benchmark think and act, and keep the episode as a trajectory.

python examples/watch_expert.py icto/ALFWorld-v0 expert.jsonl
"""

import sys

import gymnasium as gym

from icto_gym import TrajectoryStore
from icto_gym.wrappers import ReAct, RecordTrajectory


def main(env_id: str = "icto/WebShop-v0", path: str = "expert.jsonl") -> float:
    env = RecordTrajectory(ReAct(gym.make(env_id, expert=True)), path, policy="expert")
    _, info = env.reset(seed=7)
    ended = False
    while not ended and info["expert_action"] is not None:
        response = f"Thought: {info['expert_thought']}\nAction: {info['expert_action']}"
        *_, terminated, truncated, info = env.step(response)
        ended = terminated or truncated
    env.close()
    for message in info["messages"]:
        print(f"[{message.role}] {message.content}\n")
    print(f"{len(TrajectoryStore(path))} trajectories in {path}")
    return info["score"]


if __name__ == "__main__":
    print("score", main(*sys.argv[1:3]))
