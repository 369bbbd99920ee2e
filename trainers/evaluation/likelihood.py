"""How likely a policy finds recorded responses: what training moved, step by step.

The conversation is read as training reads it: a worked example that was shown while acting is no part of a
trajectory, and observations that a window left out are there in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from icto_gym.trajectory import Step, Trajectory
from trainers.batches import collate, to_device
from trainers.digests import digest
from trainers.markers import Marker, training_messages
from trainers.models.loading import LoadedModel
from trainers.models.scoring import score_tokens
from trainers.records import Likelihoods
from trainers.tokenization import Encoded, encode_conversation


def rate_responses(
    trajectories: Iterable[Trajectory],
    loaded: LoadedModel,
    *,
    policy: str,
    weights: str,
    marker: Marker | None = None,
) -> Iterator[Likelihoods]:
    """Log-probability of every response and of its command, one forward pass per trajectory.

    Args:
        trajectories: what is read; an episode without steps gives an entry without numbers.
        loaded: who rates.
        policy, weights: its name and digest, for the record.
        marker: what it is asked for when it acts (see `trainers.markers`), in episodes without a marker of their own.
    """
    for trajectory in trajectories:
        responses, commands = _rate(trajectory, loaded.model, loaded.tokenizer, marker)
        yield Likelihoods(
            trajectory.trajectory_id, policy, weights, content_digest(trajectory), tuple(responses), tuple(commands)
        )


def content_digest(trajectory: Trajectory) -> str:
    """SHA-256 of everything a trajectory says."""
    return digest(trajectory.to_json())


@torch.inference_mode()
def _rate(trajectory: Trajectory, model: Any, tokenizer: Any, marker: Marker | None) -> tuple[list[float], list[float]]:
    if not trajectory.steps:
        return [], []
    whole = encode_conversation(tokenizer, training_messages(trajectory, marker))
    encoded = whole.cut(getattr(model.config, "max_position_embeddings", None))
    batch = to_device(collate([encoded], packed=False), next(model.parameters()).device)
    logps, turns = score_tokens(model, batch).double().cpu(), batch.turns.cpu()
    responses, commands = [], []
    for turn, step in enumerate(trajectory.steps):
        ids = _ids(whole, turn)
        if _ids(encoded, turn) != ids:  # cut here: a part of a response is no response
            break
        own = logps[turns == turn]
        responses.append(float(own.sum()))
        commands.append(float(own[command_start(tokenizer, ids, step) :].sum()))
    return responses, commands


def _ids(encoded: Encoded, turn: int) -> list[int]:
    return [token for token, place in zip(encoded.input_ids, encoded.turns, strict=True) if place == turn]


def command_start(tokenizer: Any, ids: list[int], step: Step) -> int:
    """Number of the token of a response in which its command begins.

    A malformed response is its own command, so that it is 0. The token that ends the response belongs to the
    command: "search[red" and "search[red shoes]" are two.
    """
    place = _command_place(step)
    low, high = 0, len(ids) - 1
    while low < high:  # the first token whose end lies behind the place
        middle = (low + high) // 2
        written = tokenizer.decode(ids[: middle + 1], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        low, high = (low, middle) if len(written) > place else (middle + 1, high)
    return low


def _command_place(step: Step) -> int:
    """Where the command begins in the response as it was trained, in characters."""
    response, action = step.response.strip(), step.action.strip()
    if not action or response == action:
        return 0
    after_thought = response.find(step.thought) + len(step.thought) if step.thought in response else 0
    label = response.find(":", after_thought) + 1
    return max(response.find(action, label), 0)
