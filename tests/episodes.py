"""Episodes written by hand."""

from dataclasses import replace

from icto_gym.testing import ScriptedEnv
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


def terse_demonstrations(count=4):
    """Demonstrations so short that a model of two layers learns to write commands: ``Action:a``."""
    found = []
    for number in range(count):
        episode = play(
            ["abcd"[(number + t) % 4] for t in range(2)],
            [0.0, 1.0],
            task=f"scripted/train/{number:02d}",
            view=["Three bowls stand here.", "What?"],
            final="What?",
        )
        steps = tuple(replace(step, thought="", response=f"Action:{step.action}") for step in episode.steps)
        found.append(
            replace(episode, system_prompt=ScriptedEnv.system_prompt, instruction="Bring the fig.", steps=steps)
        )
    return found
