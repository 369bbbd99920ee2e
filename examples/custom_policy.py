"""A policy of your own, measured with an interval, in the place of a model.

python examples/custom_policy.py
icto evaluate examples.custom_policy:FirstHit --env-id icto/WebShop-v0 --split test --max-tasks 100 --out runs/first-hit
"""

from collections.abc import Sequence

from icto_gym import TrajectoryStore
from trainers.evaluation.metrics import summarize
from trainers.policies.base import Turn
from trainers.rollout import RolloutConfig, plan_jobs, rollout


class FirstHit:
    """Searches for the instruction, opens the first product, clicks the options it names, and buys."""

    name = "first-hit"

    def act(self, turns: Sequence[Turn]) -> list[str]:
        return [f"Thought: The first hit will do.\nAction: {self._choose(turn)}" for turn in turns]

    def _choose(self, turn: Turn) -> str:
        info = turn.info
        wish = info["instruction"].partition(", and price")[0]
        if info["has_search_bar"]:
            return f"search[{wish}]"
        texts = info["clickables"]
        if "buy now" not in texts:
            return f"click[{next((text for text in texts if text.startswith('b0')), 'back to search')}]"
        done = "".join(message.content for message in turn.messages if message.role == "assistant")
        for option in texts[texts.index("buy now") + 1 :]:
            if f" {option} " in f" {wish} " and f"click[{option}]" not in done:
                return f"click[{option}]"
        return "click[buy now]"


def main(path: str = "first-hit.jsonl", tasks: int = 60) -> dict[str, float]:
    config = RolloutConfig(env_id="icto/WebShop-v0", split="test", max_tasks=tasks, attempts=1)
    store = TrajectoryStore(path)
    rollout(FirstHit(), config, plan_jobs(config), store)
    metrics = summarize(list(store))
    for name in ("average_reward", "success_rate", "mean_actions"):
        found = metrics[name]
        print(f"{name:15} {found.value:.3f}  [{found.low:.3f}, {found.high:.3f}]  n={found.n}")
    return {name: estimate.value for name, estimate in metrics.items()}


if __name__ == "__main__":
    main()
