"""What products in bfloat16 save in training and in play, and what they change.

    python benchmarks/bfloat16.py                    # with an adapter, about 10 minutes of one core
    python benchmarks/bfloat16.py --rank 0           # all weights

Training: the same cloning step on expert episodes of the built-in shop, two at a time as `benchmarks/methods.py` has
them, with and without ``mixed_precision: bfloat16``, by turns; beside the CPU seconds, how far losses, gradients and
log-probabilities of whole episodes are apart. Play: the same conversations (see `rollout_speed`) with and without
``acting.dtype: bfloat16``, by turns. Ratios above 1 mean that bfloat16 is faster, which depends on the hardware:
it needs AMX, AVX512-BF16 or a GPU, and `icto doctor` tells.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from rollout_speed import Script, demonstrations, play_cached
from torch import Tensor

from icto_gym.files import write_json
from icto_gym.trajectory import Trajectory
from trainers.batches import TokenBatch, collate
from trainers.losses import sft_loss
from trainers.losses.logprobs import sum_logps
from trainers.markers import training_messages
from trainers.models.config import LoRAConfig, ModelConfig
from trainers.models.loading import load_model
from trainers.models.scoring import score_tokens
from trainers.policies.hf import HFPolicy
from trainers.tokenization import encode_conversation
from trainers.training.config import SFTConfig
from trainers.training.engine import prepare

WAYS = {"float32": None, "bfloat16": "bfloat16"}


def step(model: Any, batch: TokenBatch) -> tuple[float, Tensor, Tensor]:
    """CPU seconds of a loss with its gradients, the log-probability of each episode, and the gradients."""
    model.zero_grad(set_to_none=True)
    begin = time.process_time()
    logps = score_tokens(model, batch)
    sft_loss(logps).backward()
    seconds = time.process_time() - begin
    gradients = torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])
    return seconds, sum_logps(logps.detach(), batch.rows, batch.size), gradients


def train(options: argparse.Namespace, episodes: list[Trajectory]) -> dict[str, Any]:
    """Both ways in turn over pairs of episodes."""
    lora = LoRAConfig(r=options.rank, alpha=2 * options.rank) if options.rank else None
    models = {}
    for name, dtype in WAYS.items():
        loaded = load_model(ModelConfig(name=options.model, lora=lora), trainable=True)
        prepare(loaded.model, SFTConfig(mixed_precision=dtype), dropout=False)
        models[name] = loaded.model
    encoded = [encode_conversation(loaded.tokenizer, training_messages(item, None)) for item in episodes]
    found: dict[str, list[tuple[float, Tensor, Tensor]]] = {name: [] for name in models}
    for start in range(0, len(encoded) - 1, 2):
        batch = collate(encoded[start : start + 2], packed=True)
        for name, model in models.items():
            found[name].append(step(model, batch))
            print(f"train {name:9} {found[name][-1][0]:6.2f} s CPU", flush=True)
    pairs = list(zip(*found.values(), strict=True))
    apart = torch.cat([mixed[1] - exact[1] for exact, mixed in pairs]).abs()
    return {
        "rank": options.rank,
        "ratio_cpu": round(statistics.median(exact[0] / mixed[0] for exact, mixed in pairs), 2),
        "float32_cpu_seconds": round(statistics.median(exact[0] for exact, _ in pairs), 2),
        "bfloat16_cpu_seconds": round(statistics.median(mixed[0] for _, mixed in pairs), 2),
        "nats_apart_per_episode": round(float(apart.mean()), 4),
        "nats_per_episode": round(float(torch.cat([exact[1] for exact, _ in pairs]).mean()), 1),
        "gradient_apart": round(max(float((b[2] - a[2]).norm() / a[2].norm()) for a, b in pairs), 4),
    }


def play(options: argparse.Namespace, played: list[Trajectory]) -> dict[str, Any]:
    """Both ways in turn over the same conversations."""
    policies = {
        name: HFPolicy.load(options.start or options.model, dtype=dtype, max_new_tokens=48, batch_size=len(played))
        for name, dtype in WAYS.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in policies}
    said: dict[str, list[list[str]]] = {}
    for _ in range(options.rounds):
        for name, policy in policies.items():
            policy._engine.clear()
            begin = time.process_time()
            said[name] = play_cached(policy, [Script(trajectory) for trajectory in played], options.turns)
            seconds[name].append(time.process_time() - begin)
            print(f"play  {name:9} {seconds[name][-1]:6.1f} s CPU", flush=True)
    exact, half = (statistics.median(values) for values in seconds.values())
    first = zip(said["float32"][0], said["bfloat16"][0], strict=True)  # later turns differ where one before did
    return {
        "episodes": len(played), "turns": options.turns, "ratio_cpu": round(exact / half, 2),
        "float32_cpu_seconds": round(exact, 1), "bfloat16_cpu_seconds": round(half, 1),
        "first_responses_alike": sum(a == b for a, b in first),
    }  # fmt: skip


def main() -> None:
    """Measure both, print and keep the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--start", help="a checkpoint that plays in the model's place, for responses as they are meant")
    parser.add_argument("--rank", type=int, default=32, help="rank of the adapter; 0: all weights are trained")
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1, help="of play; training takes one turn per pair of episodes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "bfloat16.json")
    options = parser.parse_args()
    played = demonstrations(options.episodes, options.turns)
    result = {"model": options.model, "train": train(options, played)}
    if options.rank:
        result["play"] = play(options, played)
    print(json.dumps(result, indent=2))
    write_json(options.out.with_stem(f"{options.out.stem}{'' if options.rank else '_full'}"), result)


if __name__ == "__main__":
    main()
