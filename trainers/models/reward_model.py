"""The reward model R_φ(h_t, a_t): a language model's backbone with one number per step on top (ICTO, Eq. 4)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icto_gym.dialogue import trajectory_messages
from icto_gym.errors import ConfigError, DataError
from icto_gym.files import atomic_open
from icto_gym.trajectory import Trajectory
from trainers.models.config import ModelConfig
from trainers.models.foreign import readable
from trainers.models.loading import LoadedModel, causal_lm, context_length, load_model, read_checkpoint
from trainers.models.scoring import hidden_states
from trainers.tokenization import Encoded, encode_conversation

HEAD_FILE = "head.safetensors"
BACKBONE = "backbone"


class RewardModel(torch.nn.Module):
    """Reads a conversation and values each reply at the place where it is complete."""

    def __init__(self, loaded: LoadedModel, head: torch.nn.Linear | None = None, max_length: int = 4096) -> None:
        super().__init__()
        self.backbone = loaded.model
        self.tokenizer = loaded.tokenizer
        self.config = loaded.config
        self.max_length = min(max_length, context_length(loaded.model) or max_length)
        embedding = causal_lm(loaded.model).get_input_embeddings().weight
        if head is None:
            head = torch.nn.Linear(embedding.shape[1], 1)
            torch.nn.init.zeros_(head.weight)  # every value starts at the bias, whatever the backbone
            torch.nn.init.zeros_(head.bias)
        self.head = head.to(embedding.device)
        self.tokens_read = 0
        """By `score` so far."""

    def values(self, tokens: Any, positions: Tensor) -> Tensor:
        """Predicted values of a `TokenBatch` at flat ``positions`` (B, S): (B, S), float32."""
        hidden = hidden_states(
            self.backbone, tokens.input_ids, tokens.position_ids, tokens.attention_mask, tokens.segment_map
        )
        return self._read_off(hidden[positions])

    def encode(self, trajectory: Trajectory) -> Encoded:
        """The conversation of a trajectory with every reply marked, cut on the right if it is too long: only a whole
        reply has a value."""
        messages = trajectory_messages(trajectory)
        return encode_conversation(self.tokenizer, messages, trainable_from=2).cut_between_replies(self.max_length)

    @torch.no_grad()
    def score(self, trajectory: Trajectory) -> list[float]:
        """One value per step; steps beyond the longest readable conversation get the last value read."""
        if not trajectory.steps:
            return []
        encoded = self.encode(trajectory)
        ids = torch.tensor([encoded.input_ids], device=self.head.weight.device)
        self.tokens_read += ids.numel()
        places = reply_places(encoded, len(trajectory.steps))
        self.eval()
        hidden = hidden_states(self.backbone, ids, torch.arange(ids.shape[1], device=ids.device)[None])
        values = self._read_off(hidden[places]).tolist()
        return values + [values[-1] if values else 0.0] * (len(trajectory.steps) - len(values))

    def _read_off(self, hidden: Tensor) -> Tensor:
        """Values of hidden states (..., D): (...), float32. DeepSpeed turns the head into 16 bits with the backbone."""
        return self.head(hidden.to(self.head.weight.dtype)).squeeze(-1).float()

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, trainable: bool = False) -> RewardModel:
        """Load what `trainers.training.reward.train_reward` wrote."""
        from safetensors.torch import load_file

        record = read_checkpoint(path)
        if record["kind"] != "reward":
            raise ConfigError(f"{path} holds a policy, not a reward model. Train one with `icto train reward`.")
        loaded = load_model(Path(path) / BACKBONE, trainable=trainable)
        if not (Path(path) / HEAD_FILE).is_file():
            raise DataError(f"{path}: not a complete reward model, {HEAD_FILE} is missing. Copy or train it again.")
        with readable(Path(path)):
            tensors = load_file(Path(path) / HEAD_FILE)
        head = torch.nn.Linear(tensors["weight"].shape[1], 1)
        head.load_state_dict(tensors)
        return cls(loaded, head, record["max_length"])

    def save_head(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write the head, or the weights given in its place, beside the backbone."""
        from safetensors.torch import save

        tensors = {
            name: value.detach().cpu().contiguous() for name, value in (weights or self.head.state_dict()).items()
        }
        with atomic_open(folder / HEAD_FILE, "wb") as handle:
            handle.write(save(tensors))


def new_reward_model(start: ModelConfig | str | os.PathLike[str], max_length: int = 4096) -> RewardModel:
    """A reward model on the backbone of a model or policy checkpoint; every value starts at 0."""
    return RewardModel(load_model(start, trainable=True), max_length=max_length)


def reply_places(encoded: Encoded, steps: int) -> list[int]:
    """Place of each reply's last token but its closing one, for the first ``steps`` replies that are there."""
    last: dict[int, int] = {}
    for place, turn in enumerate(encoded.turns):
        if turn >= 0:
            last[turn] = place - 1
    return [last[turn] for turn in sorted(last) if turn < steps]


def pad_rows(rows: Sequence[Sequence[float]], fill: float = 0.0) -> tuple[Tensor, Tensor]:
    """Rows of different lengths as (B, S) numbers and a (B, S) mask."""
    width = max(map(len, rows))
    values = torch.full((len(rows), width), fill)
    mask = torch.zeros(len(rows), width)
    for number, row in enumerate(rows):
        values[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
    return values, mask
