"""A judge of your own: only successes that repeat no action are imitated.

python examples/custom_judge.py judged
icto judge judged/trajectories.jsonl --judge examples.custom_judge:Compared --out judged/verdicts.jsonl
"""

import sys
from collections import Counter
from pathlib import Path

from icto_gym import TrajectoryStore
from icto_gym.trajectory import Trajectory
from trainers.feedback import judge_all
from trainers.policies import make_policy
from trainers.records import Verdict, write_records
from trainers.rollout import RolloutConfig, plan_jobs, rollout


class Compared:
    """Accepts successes without a repeated action; a verdict stands beside its trajectory and deletes nothing."""

    name = "compared"

    def judge(self, trajectory: Trajectory) -> Verdict:
        repeated = [action for action, times in Counter(trajectory.actions).items() if times > 1]
        if not trajectory.success:
            reason = "failed: the goal was not met"
        elif repeated:
            reason = f"repeated: {repeated[0]}"
        else:
            reason = "accepted: met the goal without repeating an action"
        accepted = reason.startswith("accepted")
        return Verdict(trajectory.trajectory_id, accepted, trajectory.score, reason, self.name)


def main(folder: str = "judged", tasks: int = 8) -> dict[str, int]:
    config = RolloutConfig(env_id="icto/WebShop-v0", split="dev", max_tasks=tasks, attempts=1)
    store = TrajectoryStore(Path(folder) / "trajectories.jsonl")
    for policy in ("expert", "random"):
        rollout(make_policy(policy), config, plan_jobs(config), store)
    verdicts = judge_all(Compared(), store)
    write_records(Path(folder) / "verdicts.jsonl", verdicts)
    reasons = Counter(verdict.reason.partition(":")[0] for verdict in verdicts)
    print(dict(reasons))
    return dict(reasons)


if __name__ == "__main__":
    main(*sys.argv[1:2])
