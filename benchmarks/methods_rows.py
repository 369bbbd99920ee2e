"""What the rows of `methods.py` are told: budgets, what all have in common, and the settings of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from methods_envs import ENVS, Env

from trainers.config import merged


@dataclass(frozen=True)
class Budget:
    """What every method may spend; the same for all of them."""

    demonstrations: int
    """Expert episodes of the shared clone."""
    more_demonstrations: int
    """Of the control that goes on cloning: those of the clone and as many others."""
    tasks: int
    """Training tasks that are explored: most of them not demonstrated, for those that were it knows by heart."""
    demonstrated: int
    """So many of them were demonstrated to the clone."""
    attempts: int
    """Episodes per explored task, for methods that sample."""
    iterations: int
    trials: int
    """Settings each method may try."""
    probe: int
    """Dev tasks at each look while training."""
    dev: int
    test: int
    ood: int
    methods: tuple[str, ...]
    further: tuple[str, ...] = ()
    """Rows that are played where `--rows` names them: variants of ICTO that another row goes beyond."""

    def rows(self) -> list[str]:
        """All that the table has a place for."""
        return [*self.methods, *self.further]


BUDGETS = {
    "tiny": Budget(4, 6, 2, 1, 2, 1, 1, 2, 2, 2, 2, ("icto", "rft")),
    # meant for about four hours a seed on two cores (not run whole yet): less to learn from, more test tasks
    "brief": Budget(
        96, 192, 96, 8, 4, 1, 1, 120, 120, 270, 60,
        ("icto", "rft", "icto_retry_imitation", "icto_retry_imitation_2", "cloning_again", "more_cloning", "eto", "nat",
         "rlcd", "ipr", "best_of_n"),
        ("rft_more", "rft_14", "icto_step", "icto_retry", "icto_imitation", "icto_best_imitation", "rft_best"),
    ),
    "small": Budget(
        160, 320, 240, 16, 4, 1, 1, 120, 120, 200, 60,
        ("icto", "rft", "icto_retry_imitation", "rft_more", "cloning_again", "more_cloning", "eto", "nat", "icto_step",
         "rlcd", "ipr", "best_of_n"),
        ("icto_retry", "icto_imitation", "icto_retry_imitation_2", "icto_best_imitation", "rft_best", "rft_14"),
    ),
    "full": Budget(
        160, 320, 240, 16, 4, 2, 2, 120, 160, 300, 270,
        ("icto", "rft", "icto_retry_imitation", "rft_more", "cloning_again", "more_cloning", "eto", "nat", "icto_step",
         "rlcd", "ipr", "best_of_n"),
        ("icto_retry", "icto_imitation"),
    ),
}  # fmt: skip

COMMON: dict[str, Any] = {
    "model": {"lora": {"r": 32, "alpha": 64}},
    "acting": {"max_new_tokens": 64, "batch_size": 32},
    "sft": {"learning_rate": 1e-3, "epochs": 2, "batch_size": 2, "probe_metric": "dev/average_reward"},
    "evaluation": {"choose_by": "average_reward"},
}
# the same for all that sample, so that they learn from the same episodes and one play serves them
_SAMPLED = {"temperature": 0.8, "greedy_first": True, "epsilon": 0.0, "branch_fraction": 0.0}
# these learn from the expert's episode of the very task that they try, so they try those that were demonstrated
AGAINST_EXPERTS = ("eto", "ipr")
SAMPLING = (
    "icto", "icto_retry", "icto_imitation", "icto_retry_imitation", "icto_best_imitation", "icto_retry_imitation_2",
    "icto_step", "rft", "rft_best", "nat",
)  # fmt: skip
RETRYING = ("icto_retry", "icto_retry_imitation", "icto_best_imitation", "icto_retry_imitation_2")
IMITATING = ("icto_imitation", "rft")
ONCE_AND_TWICE = ("icto_retry_imitation", "icto_retry_imitation_2")
FIRST_ITERATION = (
    *(f"iteration-01.{stage}" for stage in ("verdicts", "step_rewards", "pairs", "successes", "sft", "dpo")),
)
"""Stages of an iteration of `icto` beside play, up to its evaluation."""
# at this size full successes are rare: any better own episode against any worse one, by a tenth of the score at least
_OWN = {
    "success_threshold": None,
    "min_margin": 0.1,
    "max_pairs_per_task": 2,
    "max_expert_share": 0.34,
    "max_one_sided_share": 0.25,
}
_RETRIES = {"branches": 8, "others": 0.25}
_AT_MISTAKES = {
    **_OWN, "max_pairs_per_task": 4, "closest_first": True, "max_rejected_steps": 1, "retries_only": True,
}  # fmt: skip
# a third of this clone's episodes have a command that is none, and they earn half: what is chosen has none
_VALID = {"rules": {"max_invalid_share": 0.0}}
# few looks at many tasks: on 48 of them dev once put two policies in the wrong order that differ by 0.12 on test
_DPO = {
    "probe_metric": "dev/average_reward",
    "diagnostic_pairs": 16,
    "batch_size": 8,
    "epochs": 1,
    "probe_every": 20,
}
# a first look (112 pairs, 2e-4, beta 0.1, weight 0.2 on the mean) lowered the chosen sides and broke product codes: per
# token that anchor is a fifteenth of the contrast; this one is two thirds of it
_ANCHORED = {**_DPO, "sft_weight": 0.1, "sft_reduction": "sum", "beta": 0.3}

_IMITATED = {
    "rollout": _SAMPLED, "retries": _RETRIES, "judge": _VALID, "imitation": True, "imitate_retries": True,
    "pairing": {**_AT_MISTAKES, "max_command_lead": 0.1}, "dpo": _ANCHORED,
}  # fmt: skip

# method: (its name in `icto run`, its settings, the settings it may try; the first one where there is one trial)
ROWS: dict[str, tuple[str, dict[str, Any], list[dict[str, Any]]]] = {
    "icto": (
        "icto",
        {"rollout": _SAMPLED, "judge": _VALID, "pairing": _OWN, "dpo": _ANCHORED},
        [{"dpo": {"learning_rate": 1e-4}}, {"dpo": {"learning_rate": 5e-5}}],
    ),
    # pairs that part at a mistake, with what the policy would have said next instead: each tells one decision apart
    "icto_retry": (
        "icto",
        {"rollout": _SAMPLED, "retries": _RETRIES, "judge": _VALID, "pairing": _AT_MISTAKES, "dpo": _ANCHORED},
        [{"dpo": {"learning_rate": 1e-4}}, {"dpo": {"learning_rate": 5e-5}}],
    ),
    "icto_step": (
        "icto",
        {"rollout": _SAMPLED, "judge": _VALID, "step_rewards": {"source": "learned"},
         "reward": {"epochs": 0.5},  # 500 episodes: two passes over all of them would cost more than all the rest
         "pairing": {**_OWN, "granularity": "step"}, "dpo": {**_ANCHORED, "objective": "step"}},
        [{"dpo": {"learning_rate": 1e-4}}, {"dpo": {"learning_rate": 3e-5}}],
    ),
    "icto_imitation": (
        "icto",
        {"rollout": _SAMPLED, "judge": _VALID, "pairing": _OWN, "imitation": True, "dpo": _ANCHORED},
        [{"dpo": {"learning_rate": 1e-4}}, {"dpo": {"learning_rate": 5e-5}}],
    ),
    # what succeeded when it was taken up again is imitated as well, from there on; then contrast as in `icto_retry`
    "icto_retry_imitation": ("icto", _IMITATED, [{"dpo": {"learning_rate": 1e-4}}, {"dpo": {"learning_rate": 5e-5}}]),
    # and of tasks without a success the best attempt, where others are worse by as much as pairs must differ
    "icto_best_imitation": (
        "icto", {**_IMITATED, "best_margin": 0.1}, [{"dpo": {"learning_rate": 1e-4}}, {"dpo": {"learning_rate": 5e-5}}],
    ),
    # its control, and RFT's variant
    "rft_best": ("rft", {"rollout": _SAMPLED, "best_margin": 0.1}, [{}, {"sft": {"learning_rate": 5e-4}}]),
    # the same tasks once more, by the policy that came of it
    "icto_retry_imitation_2": (
        "icto", {**_IMITATED, "iterations": 2}, [{"dpo": {"learning_rate": 1e-4}}, {"dpo": {"learning_rate": 5e-5}}],
    ),
    "rft": ("rft", {"rollout": _SAMPLED}, [{}, {"sft": {"learning_rate": 5e-4}}]),
    # as many more attempts as retries write: in two seeds these wrote 0.79 and 0.72 of what 4 attempts at each task do
    "rft_more": ("rft", {"rollout": {**_SAMPLED, "attempts": 7}}, [{}, {"sft": {"learning_rate": 5e-4}}]),
    # and as many as two iterations with retries write: 3.5 times what 4 attempts do, in seed 0 of `brief`
    "rft_14": ("rft", {"rollout": {**_SAMPLED, "attempts": 14}}, [{}, {"sft": {"learning_rate": 5e-4}}]),
    "cloning_again": ("bc", {"sft": {"epochs": 2}}, [{}, {"sft": {"learning_rate": 5e-4}}]),
    "more_cloning": ("bc", {"sft": {"epochs": 1}}, [{}, {"sft": {"learning_rate": 5e-4}}]),
    "eto": (
        "eto", {"rollout": {"attempts": 1}, "dpo": _DPO},
        [{"learning_rates": [2e-5, 1e-5]}, {"learning_rates": [5e-5, 2.5e-5]}],
    ),
    "ipr": ("ipr", {"starts_per_task": 2, "monte_carlo": {"samples": 3}, "dpo": {**_DPO, "batch_size": 8}},
            [{"dpo": {"learning_rate": 1e-5}}, {"dpo": {"learning_rate": 3e-5}}]),
    # no score is asked, so one history per task will do, and of it two turns
    "rlcd": ("rlcd", {"rollout": {**_SAMPLED, "attempts": 1}, "pairing": {"max_turns": 2}, "dpo": _DPO},
             [{"dpo": {"learning_rate": 1e-5}}, {"dpo": {"learning_rate": 3e-5}}]),
    "nat": ("nat", {"rollout": _SAMPLED}, [{"negatives_per_positive": 1.0}, {"negatives_per_positive": 2.0}]),
    "best_of_n": ("best_of_n", {"samples": 4}, [{}]),
}  # fmt: skip


def settings(budget: Budget, seed: int, env: Env = ENVS["webshop"], dev: str = "dev") -> dict[str, Any]:
    """What all methods are told; ``dev`` is where choices are made."""
    return merged(
        COMMON,
        {
            "seed": seed,
            "rollout": {**env.rollout, "max_tasks": None, "attempts": budget.attempts},
            "demonstrations": {"max_tasks": budget.demonstrations},
            "probe": {"split": dev, "tasks": budget.probe},
            "evaluation": {
                "base": False, "splits": [dev], "max_tasks": budget.dev, "final_splits": [], "choose": "best",
            },
        },
    )  # fmt: skip


def iterations(name: str, budget: Budget) -> dict[str, Any]:
    """Of methods that iterate, where a row does not say how often."""
    return {"iterations": budget.iterations} if name in ("icto", "eto", "ipr") else {}
