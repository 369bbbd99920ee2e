"""Answers that a policy writes while it is trained by PPO: prompts, sampling, rewards, advantages, and their file."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icto_gym.dialogue import Message
from icto_gym.errors import DataError
from icto_gym.files import read_json, write_json
from icto_gym.wrappers.react import parse_response
from trainers.batches import collate, split_to_fit, to_device
from trainers.losses import generalized_advantages, token_rewards, whiten
from trainers.models.actor_critic import ActorCritic
from trainers.models.foreign import readable
from trainers.models.loading import LoadedModel, context_length, merged_for_generation
from trainers.models.reward_model import RewardModel
from trainers.policies.base import Turn, derive_seed
from trainers.policies.hf import HFPolicy, Written
from trainers.tokenization import Encoded, encode_prompt
from trainers.training.checkpoint import write_folder
from trainers.training.config import PPOConfig
from trainers.training.preference_reward import encode_answer, score_answers


@dataclass(frozen=True)
class Prompts:
    """Conversations to be answered, all short enough for an answer of full length."""

    messages: list[list[Message]]
    dropped: int
    """How many were too long."""

    @classmethod
    def make(cls, loaded: LoadedModel, prompts: Sequence[Sequence[Message]], config: PPOConfig) -> Prompts:
        """Leave out what has no room for an answer and the token that closes it, and count it."""
        reads = context_length(loaded.model) or config.max_length
        limit, tokenizer = min(config.max_length, reads), loaded.tokenizer
        room = limit - config.max_new_tokens - 1
        kept = [list(prompt) for prompt in prompts if len(encode_prompt(tokenizer, prompt)) <= room]
        if not kept:
            raise DataError(
                f"None of {len(prompts)} prompts leaves room for an answer of max_new_tokens {config.max_new_tokens} "
                f"within {limit} tokens (max_length {config.max_length}; the model reads {reads}). Lower the first, or "
                "raise max_length."
            )
        return cls(kept, len(prompts) - len(kept))

    def draw(self, iteration: int, config: PPOConfig) -> list[int]:
        """Numbers of an iteration's prompts: all prompts in a shuffled order, again and again."""
        places = range(iteration * config.rollout_size, (iteration + 1) * config.rollout_size)
        orders: dict[int, list[int]] = {}
        for number in {place // len(self.messages) for place in places}:
            orders[number] = list(range(len(self.messages)))
            random.Random(f"{config.seed}/prompts/{number}").shuffle(orders[number])
        return [orders[place // len(self.messages)][place % len(self.messages)] for place in places]


@dataclass(frozen=True)
class Rollout:
    """N answers of up to T tokens, and what is learned from each token; 0 behind an answer's end."""

    answers: list[Encoded]
    """Prompt and answer of each, as the policy read and wrote them."""
    old_logps: Tensor
    """(N, T), under the policy that wrote them, in nats."""
    advantages: Tensor
    """(N, T), whitened."""
    returns: Tensor
    """(N, T), in units of reward."""
    texts: list[dict[str, Any]]
    """For the reader: ``prompt`` (its number), ``answer`` and ``reward``."""
    facts: dict[str, float]
    """For the log."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each answer."""
        return [answer_length(item) for item in self.answers]

    @property
    def tokens(self) -> dict[str, int]:
        """What the policy read and wrote, by the answers themselves: so saved ones know it too."""
        written = sum(self.lengths)
        read = sum(len(item.input_ids) for item in self.answers) - written
        return {"prompt_tokens": read, "response_tokens": written}

    def save(self, folder: Path) -> None:
        """Write a folder, whole or not at all."""
        from safetensors.torch import save_file

        def fill(draft: Path) -> None:
            tensors = {name: getattr(self, name).contiguous() for name in ("old_logps", "advantages", "returns")}
            save_file(tensors, draft / "rollout.safetensors")
            ids, lengths = [item.input_ids for item in self.answers], self.lengths
            write_json(
                draft / "rollout.json", {"ids": ids, "lengths": lengths, "texts": self.texts, "facts": self.facts}
            )

        write_folder(folder, fill)

    @classmethod
    def load(cls, folder: Path) -> Rollout:
        """Read what `save` wrote."""
        from safetensors.torch import load_file

        if not (folder / "rollout.json").exists():
            raise DataError(
                f"{folder}: not found, so the training cannot go on from within it. Remove {folder.parent} to train "
                "anew; processes that train together need a folder that all of them see."
            )
        with readable(folder, f"Remove {folder.parent} to train anew."):
            found, tensors = read_json(folder / "rollout.json"), load_file(folder / "rollout.safetensors")
        answers = [_encoded(ids, length) for ids, length in zip(found["ids"], found["lengths"], strict=True)]
        return cls(answers, **tensors, texts=found["texts"], facts=found["facts"])


class Sampler:
    """Has the policy in training answer prompts, and values the answers by a reward model and a frozen reference."""

    def __init__(
        self, module: ActorCritic, tokenizer: Any, prompts: Prompts, reward: RewardModel, config: PPOConfig
    ) -> None:
        """Args:
        module: the policy, as it is now the reference too: its trainable weights are copied.
        tokenizer: the policy's.
        prompts: what is answered.
        reward: R(x, y), frozen.
        config: how much is sampled, and what tokens are worth.
        """
        self.module, self.tokenizer, self.prompts, self.reward, self.config = module, tokenizer, prompts, reward, config
        self.packed = self.reward_packed = False
        trained = {name: value for name, value in module.policy.named_parameters() if value.requires_grad}
        self._reference = {name: value.detach().clone() for name, value in trained.items()}

    def roll_out(self, iteration: int) -> Rollout:
        """The answers of an iteration to the policy as it is now; equal weights give equal answers."""
        numbers = self.prompts.draw(iteration, self.config)
        written = self._write(numbers, iteration)
        answers = [_encoded([*item.prompt, *item.tokens], len(item.tokens)) for item in written]
        scores = self._rewards(numbers, written)
        logps, values = self._score(answers)
        with self._as_reference():
            reference, _ = self._score(answers)
        lengths = torch.tensor([len(item.tokens) for item in written])
        mask = (torch.arange(logps.shape[1]) < lengths.unsqueeze(1)).float()
        rewards = token_rewards(scores, logps, reference, mask, kl_coef=self.config.kl_coef)
        advantages = generalized_advantages(rewards, values, mask, gamma=self.config.gamma, lam=self.config.lam)
        texts = [
            {"prompt": number, "answer": item.text, "reward": score}
            for number, item, score in zip(numbers, written, scores.tolist(), strict=True)
        ]
        facts = _facts(scores, logps - reference, mask, written)
        return Rollout(answers, logps, whiten(advantages, mask), advantages + values * mask, texts, facts)

    def _write(self, numbers: Sequence[int], iteration: int) -> list[Written]:
        """One answer per prompt, sampled from the policy itself (temperature 1), by seeds of place and iteration."""
        size, room = self.config.generation_batch, self.config.max_new_tokens
        with merged_for_generation(self.module.policy) as model:
            policy = HFPolicy(model, self.tokenizer, max_new_tokens=room, batch_size=size)
            names = [f"{iteration}/{place}" for place in range(len(numbers))]
            return policy.write(
                [
                    Turn(self.prompts.messages[n], {}, name, 1.0, derive_seed(self.config.seed, "ppo", name))
                    for n, name in zip(numbers, names, strict=True)
                ]
            )

    def _rewards(self, numbers: Sequence[int], written: Sequence[Written]) -> Tensor:
        """R(x, y) of each answer, read as an episode would hold it: (N,)."""
        conversations = [
            encode_answer(self.reward.tokenizer, self.prompts.messages[number], [Message("assistant", item.text)])
            for number, item in zip(numbers, written, strict=True)
        ]
        return score_answers(self.reward, conversations, self.config.micro_batch_tokens, packed=self.reward_packed)

    @torch.no_grad()
    def _score(self, answers: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """Log-probabilities in nats, and values, of the tokens of answers: (N, T) each, 0 behind the end."""
        device, lengths = self.module.head.weight.device, [answer_length(item) for item in answers]
        logps, values = torch.zeros(2, len(answers), max(lengths)).unbind(0)
        for group in split_to_fit([[one] for one in answers], self.config.micro_batch_tokens, packed=self.packed):
            found = self.module.score(to_device(collate([answers[n] for n in group], packed=self.packed), device))
            parts = (part.cpu().split([lengths[n] for n in group]) for part in found)
            for number, own_logps, own_values in zip(group, *parts, strict=True):
                logps[number, : lengths[number]], values[number, : lengths[number]] = own_logps, own_values
        return logps, values

    @contextmanager
    def _as_reference(self) -> Iterator[None]:
        """The trainable weights are those of the start while the block runs; then the very same ones come back."""
        trained = {name: value for name, value in self.module.policy.named_parameters() if name in self._reference}
        kept = {name: value.data for name, value in trained.items()}
        try:
            for name, value in trained.items():
                value.data = self._reference[name].to(value.device)
            yield
        finally:
            for name, value in trained.items():
                value.data = kept[name]


def answer_length(item: Encoded) -> int:
    """Tokens that the policy wrote."""
    return sum(turn >= 0 for turn in item.turns)


def _encoded(ids: list[int], length: int) -> Encoded:
    """A prompt with an answer of ``length`` tokens behind it."""
    return Encoded(ids, [-1] * (len(ids) - length) + [0] * length)


def _facts(scores: Tensor, log_ratios: Tensor, mask: Tensor, written: Sequence[Written]) -> dict[str, float]:
    """What shows whether the reward rises, and at what price.

    ``kl`` estimates KL(π‖π_ref) of whole answers in nats, by the answers themselves; ``malformed`` is the share of
    answers without a command, which a reward model may like and an environment does not.
    """
    return {
        "reward": float(scores.mean()),
        "reward_deviation": float(scores.std(correction=0)),
        "kl": float((log_ratios * mask).sum(-1).mean()),
        "answer_tokens": float(mask.sum(-1).mean()),
        "malformed": sum(bool(parse_response(item.text).problem) for item in written) / len(written),
    }
