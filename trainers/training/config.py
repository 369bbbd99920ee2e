"""Settings of the trainings (importable without torch)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from icto_gym.errors import ConfigError, check_name
from trainers.config import LATER

SCHEDULES = ("cosine", "constant")
OPTIMIZERS = ("adamw", "adamw8bit", "paged_adamw", "paged_adamw8bit")
OBJECTIVES = ("trajectory", "step", "mixed", "log_ratio")


@dataclass(frozen=True)
class OptimizerConfig:
    """What every training has: data order, AdamW, schedule, memory, saving and probing."""

    learning_rate: float = 1e-3
    """Peak learning rate; with LoRA about ten times that of full fine-tuning."""
    epochs: float = 1.0
    """Passes over the data; 0.5 stops after half of it."""
    batch_size: int = 4
    """Trajectories or pairs per optimiser step."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up: falls to 0 on half a cosine, or stays."""
    warmup_ratio: float = 0.03
    """Share of the optimiser steps over which the learning rate rises from 0."""
    optimizer: Literal["adamw", "adamw8bit", "paged_adamw", "paged_adamw8bit"] = "adamw"
    """AdamW; ``8bit`` keeps its moments in 8 bits, ``paged`` lets them move to main memory (bitsandbytes)."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are scaled down to it; 0 leaves them alone."""
    max_length: int = 4096
    """Conversations longer than this many tokens are cut on the right; how many were is reported."""
    packing: bool = True
    """Encode what conversations of a batch share (prompts above all) only once. Off: one padded row each."""
    micro_batch_tokens: int = 2048
    """Tokens that go through the model at once; a batch with more is split and its gradients are added up."""
    activation_checkpointing: bool = False
    """Compute all activations twice and keep few, and return freed memory as it goes: two fifths of the memory for
    nearly half as much time again."""
    remake_activations: bool = False
    """Compute twice only what costs no matrix product (norms, gated products), and return freed memory as it goes: two
    thirds to three quarters of the memory for a fifth more time. For the local engine; not beside
    `activation_checkpointing`."""
    mixed_precision: Literal["bfloat16"] | None = field(default=None, metadata=LATER)
    """Multiply by float32 weights in bfloat16; the weights, adapters, norms, attention and the loss stay in float32. A
    third less time where the hardware multiplies in bfloat16 (`icto doctor`). For the local engine."""
    save_every: int = 20
    """Optimiser steps between savings of the state from which a killed training resumes."""
    probe_every: int = 0
    """Optimiser steps between probes (such as success on dev); 0: only at the end."""
    probe_metric: str = "dev/success_rate"
    """The probe's number that decides which weights are kept: the highest, of equals that of the
    highest average reward, of these the latest."""
    probe_at_start: bool = False
    """Probe before the first step too, so that a training that only harms returns its start."""
    patience: int = 0
    """Stop after so many probes in a row without a new best (an equal one is a new best); 0: train to the end. The
    learning rate still follows the whole schedule, of which an early stop leaves out the rest."""
    seed: int = 0
    """Draws order and dropout."""

    def __post_init__(self) -> None:
        check_name(self.schedule, SCHEDULES, "schedule")
        check_name(self.optimizer, OPTIMIZERS, "optimizer")
        for name in ("learning_rate", "epochs", "batch_size", "max_length", "micro_batch_tokens", "save_every"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be above 0.")
        for name in ("learning_rate", "epochs", "weight_decay", "max_grad_norm"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be a finite number.")
        for name in ("weight_decay", "max_grad_norm", "probe_every", "patience"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must not be below 0.")
        if self.mixed_precision is not None:
            check_name(self.mixed_precision, ("bfloat16",), "mixed_precision")
        if self.remake_activations and self.activation_checkpointing:
            raise ConfigError(
                "remake_activations and activation_checkpointing are both on, but the second makes all activations "
                "again. Leave one of them on."
            )
        if self.patience and not self.probe_every:
            raise ConfigError(
                f"patience is {self.patience}, but probe_every is 0: the one probe comes at the end, when there is "
                "nothing left to stop. Give probe_every, such as 10, or set patience to 0."
            )
        if not 0.0 <= self.warmup_ratio < 1.0:
            raise ConfigError(f"warmup_ratio is {self.warmup_ratio!r}; it must be in [0, 1).")

    def to_dict(self) -> dict[str, Any]:
        """JSON values, for checkpoints."""
        return asdict(self)


@dataclass(frozen=True)
class SFTConfig(OptimizerConfig):
    """Train a policy to write what demonstrations show."""

    epochs: float = 2.0
    """Passes over the demonstrations."""
    train_acknowledgement: bool = False
    """Also train the literal OK that answers the instruction, as the ETO line of work does."""


@dataclass(frozen=True)
class DPOConfig(OptimizerConfig):
    """Train a policy on preference pairs."""

    learning_rate: float = 2e-5
    """Peak learning rate; 5e-6 to 5e-5 with LoRA. Higher ones are known to collapse."""
    batch_size: int = 8
    """Pairs per optimiser step."""
    objective: str = "trajectory"
    """`trajectory`: one contrast per pair over all its steps; `step`: one per pair of steps; `mixed`: both;
    `log_ratio`:
    ICTO's Eq. 3 to the letter; `my_package.module:my_loss`: a function called like `trainers.losses.step_dpo_loss`."""
    beta: float = 0.1
    """Strength of the pull towards the reference policy; 0.05 to 0.5 is usual."""
    step_share: float = 0.5
    """Weight of the step-level loss in objective ``mixed``."""
    sft_weight: float = 0.1
    """Weight of the negative log-likelihood of the chosen side; keeps its probability from falling."""
    sft_reduction: Literal["mean", "sum"] = "mean"
    """That term per token (`mean`), or over all tokens without division (`sum`), as in IPR, where it dominates."""
    sft_scope: Literal["all", "trajectory"] = "all"
    """Pairs that have it: all, or only those of whole trajectories."""
    chosen_penalty: float = 0.0
    """Penalty, in units of log-ratio, where the chosen side falls below the reference (DPO-positive's lambda)."""
    diagnostic_pairs: int = 32
    """How many pairs are measured before and after training; 0: none."""
    holdout: float = 0.1
    """Share of the pairs, by whole tasks and at most `diagnostic_pairs`, that is not trained on and measured beside
    those
    that are: what moves only on trained pairs is memorised. Nothing is held out of fewer than 1 / holdout pairs."""

    @property
    def weighs_steps(self) -> bool:
        """Whether the objective reads weights of steps."""
        return self.objective not in ("trajectory", "log_ratio")

    def __post_init__(self) -> None:
        super().__post_init__()
        if ":" not in self.objective:
            check_name(self.objective, OBJECTIVES, "objective")
        check_name(self.sft_reduction, ("mean", "sum"), "sft_reduction")
        check_name(self.sft_scope, ("all", "trajectory"), "sft_scope")
        if not self.beta > 0:
            raise ConfigError(f"beta is {self.beta!r}; it must be above 0.")
        for name in ("sft_weight", "chosen_penalty", "diagnostic_pairs"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must not be below 0.")
        for name in ("beta", "sft_weight", "chosen_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be a finite number.")
        if self.chosen_penalty and (":" in self.objective or self.objective == "log_ratio"):
            raise ConfigError(
                f"chosen_penalty is {self.chosen_penalty!r}, and objective {self.objective!r} has no such penalty. Set "
                "it to 0, or choose 'trajectory', 'step' or 'mixed'."
            )
        if not 0.0 <= self.step_share <= 1.0:
            raise ConfigError(f"step_share is {self.step_share!r}; it must be in [0, 1].")
        if not 0.0 <= self.holdout < 1.0:
            raise ConfigError(f"holdout is {self.holdout!r}; it must be in [0, 1).")


@dataclass(frozen=True)
class RewardConfig(OptimizerConfig):
    """Train a reward model on one target per step."""

    learning_rate: float = 3e-4
    """Peak learning rate."""
    epochs: float = 2.0
    """Passes over the trajectories."""
    holdout: float = 0.1
    """Share of the trajectories, by whole tasks, that is not trained on and measures the error."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patience:
            raise ConfigError(f"patience is {self.patience}, but no probe watches a reward model. Set it to 0 here.")
        if not 0.0 <= self.holdout < 1.0:
            raise ConfigError(f"holdout is {self.holdout!r}; it must be in [0, 1).")


@dataclass(frozen=True)
class PPOConfig(OptimizerConfig):
    """Train a policy against a reward model by PPO: one answer per prompt, one optimisation per batch of answers.

    The constants of the published RLCD are not restated anywhere that could be checked; these are this project's,
    near those in common use.
    """

    learning_rate: float = 1e-5
    """Peak learning rate, of the value head too; with LoRA two to ten times as much."""
    schedule: Literal["cosine", "constant"] = "constant"
    """Learning rate after the warm-up: falls to 0 on half a cosine, or stays."""
    iterations: int = 20
    """How often answers are sampled and learned from."""
    rollout_size: int = 32
    """Answers per iteration, each to a prompt of its own as long as there are enough; sampled at temperature 1, for
    the ratio in the loss is that of the policy itself."""
    epochs: float = 2.0
    """Passes over the answers of an iteration, a whole number."""
    batch_size: int = 8
    """Answers per optimiser step."""
    max_new_tokens: int = 96
    """Longest answer, in tokens."""
    generation_batch: int = 16
    """Answers written together."""
    clip: float = 0.2
    """How far the probability of a token may move from where it was when the answer was written, as a ratio."""
    kl_coef: float = 0.05
    """Penalty per token for log π − log π_ref against the frozen start, in reward per nat: to be seen beside
    ``rollout/reward_deviation``, for the scale of R is whatever its fitting made it."""
    gamma: float = 1.0
    """Discount per token."""
    lam: float = 0.95
    """GAE's λ: 1 trusts the sampled return alone, 0 the value head of the next token."""
    value_coef: float = 0.1
    """Weight of the value head's squared error."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("iterations", "rollout_size", "max_new_tokens", "generation_batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be at least 1.")
        if self.epochs != int(self.epochs):
            raise ConfigError(
                f"epochs is {self.epochs!r}; PPO passes over each batch of answers a whole number of times."
            )
        if not 0.0 < self.clip < 1.0:
            raise ConfigError(f"clip is {self.clip!r}; it must be in (0, 1).")
        for name in ("kl_coef", "value_coef"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must not be below 0.")
        for name in ("gamma", "lam"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be in [0, 1].")
        if self.max_new_tokens >= self.max_length:
            raise ConfigError(
                f"max_new_tokens is {self.max_new_tokens!r} and max_length {self.max_length!r}; no prompt fits before "
                "such an answer. Lower the first or raise the second."
            )
