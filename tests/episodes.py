"""Episodes written by hand."""

from icto_gym.trajectory import Step, Trajectory


def play(actions, rewards=None, *, task="t/1", who="p", attempt=0, thought="so", error=None, view=None, final="end"):
    """An episode whose observations depend only on the commands before them, as in a deterministic game."""
    rewards = rewards or [0.0] * len(actions)
    seen = view or ["start", *("after " + " ".join(actions[: t + 1]) for t in range(len(actions)))]
    steps = tuple(
        Step(seen[t], f"Thought: {thought}\nAction: {action}", thought, action, rewards[t], True)
        for t, action in enumerate(actions)
    )
    score = sum(rewards)
    last = seen[len(actions)] if len(seen) > len(actions) else final
    return Trajectory(
        trajectory_id=f"{task}@{who}#{attempt}", env_id="e", task_id=task, system_prompt="Act.", instruction="Do it.",
        steps=steps, final_observation=last, score=score, success=score >= 1, terminated=True, truncated=False,
        policy=who, seed=0, error=error,
    )  # fmt: skip
