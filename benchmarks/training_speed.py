"""What packing and scoring only the agent's tokens save in a training step.

    python benchmarks/training_speed.py --prompt 320 --branch 250 --repeats 3

Each way computes the same DPO loss of one pair, and the same SFT loss of four episodes with one system prompt, with its
gradients, on the same model; the ways take turns, and medians of CPU seconds are shown with the distance of loss and
gradients from the first way:

* two passes, all logits: chosen and rejected one after the other, a logit for every token;
* two passes: the same with logits for the agent's tokens only;
* padded rows: all in one batch, filled up to the longest;
* packed row: what is shared encoded once (`trainers.packing`).
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainers.batches import collate
from trainers.losses import dpo_loss, sft_loss, token_logps
from trainers.models import LoRAConfig, ModelConfig
from trainers.models.loading import causal_lm, load_model
from trainers.models.scoring import score_tokens
from trainers.tokenization import Encoded
from trainers.training.config import OptimizerConfig
from trainers.training.engine import prepare


def conversation(prompt: list[int], length: int, draw: random.Random, vocabulary: int) -> Encoded:
    """A continuation of which every second stretch of 30 tokens is the agent's."""
    ids = [draw.randrange(3, vocabulary) for _ in range(length)]
    turns = [place // 60 if place // 30 % 2 == 0 else -1 for place in range(length)]
    return Encoded(prompt + ids, [-1] * len(prompt) + turns)


def every_logit(model: Any, item: Encoded) -> Tensor:
    """Log-probabilities of the agent's tokens out of a logit for every token."""
    ids = torch.tensor([item.input_ids])
    logps = token_logps(causal_lm(model)(input_ids=ids, use_cache=False).logits[0, :-1], ids[0, 1:])
    return logps[torch.tensor(item.turns[1:]) >= 0]


def scored(model: Any, items: list[Encoded], *, packed: bool) -> list[Tensor]:
    """Log-probabilities of the agent's tokens of each conversation, scored together."""
    batch = collate(items, packed=packed)
    logps = score_tokens(model, batch)
    return [logps[batch.rows == number] for number in range(len(items))]


def pair_loss(logps: list[Tensor]) -> Tensor:
    """DPO against a reference near by."""
    chosen, rejected = (part.sum()[None] for part in logps)
    return dpo_loss(chosen, rejected, chosen.detach() - 1, rejected.detach() + 1, beta=0.1).losses.mean()


def measure(model: Any, ways: dict[str, Callable[[], Tensor]], repeats: int, tokens: int) -> None:
    """Let the ways take turns and print their medians."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, float] = {}
    gradients: dict[str, Tensor] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            model.zero_grad(set_to_none=True)
            begin = time.process_time()
            loss = way()
            loss.backward()
            seconds[name].append(time.process_time() - begin)
            losses[name] = float(loss.detach())
            trained = [p for p in model.parameters() if p.requires_grad]
            gradients[name] = torch.cat(
                [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in trained]
            )
    first = next(iter(ways))
    base = statistics.median(seconds[first])
    for name, values in seconds.items():
        median = statistics.median(values)
        apart = float((gradients[name] - gradients[first]).norm() / gradients[first].norm())
        print(
            f"  {name:26} {median:7.2f} CPU s  {base / median:5.2f} x  {tokens / median:6.0f} tokens/CPU s"
            f"   loss {losses[name] - losses[first]:+.1e}   gradient {apart:.1e}",
            flush=True,
        )


def main() -> None:
    """Run both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rank", type=int, default=32, help="rank of the adapter; 0: all weights are trained")
    parser.add_argument("--prompt", type=int, default=320, help="tokens that both sides of the pair share")
    parser.add_argument("--branch", type=int, default=250, help="tokens of each side")
    parser.add_argument("--system", type=int, default=150, help="tokens that all episodes share")
    parser.add_argument("--episode", type=int, default=280, help="further tokens of each of the four episodes")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    lora = LoRAConfig(r=options.rank, alpha=2 * options.rank) if options.rank else None
    model = load_model(ModelConfig(name=options.model, lora=lora), trainable=True).model
    prepare(model, OptimizerConfig(), dropout=False)
    vocabulary = causal_lm(model).config.vocab_size
    draw = random.Random(0)

    prompt = [draw.randrange(3, vocabulary) for _ in range(options.prompt)]
    pair = [conversation(prompt, options.branch, draw, vocabulary) for _ in range(2)]
    ways = {
        "two passes, all logits": lambda: pair_loss([every_logit(model, side) for side in pair]),
        "two passes": lambda: pair_loss([scored(model, [side], packed=False)[0] for side in pair]),
        "packed row": lambda: pair_loss(scored(model, pair, packed=True)),
    }
    tokens = sum(len(side.input_ids) for side in pair)
    print(f"DPO, a pair of {options.prompt} + 2 x {options.branch} tokens")
    measure(model, ways, options.repeats, tokens)

    system = [draw.randrange(3, vocabulary) for _ in range(options.system)]
    lengths = [round(options.episode * share) for share in (0.6, 0.9, 1.1, 1.4)]
    episodes = [conversation(system, length, draw, vocabulary) for length in lengths]
    ways = {
        "padded rows": lambda: sft_loss(torch.cat(scored(model, episodes, packed=False))),
        "packed row": lambda: sft_loss(torch.cat(scored(model, episodes, packed=True))),
    }
    print(f"SFT, four episodes of {options.system} + {lengths} tokens")
    measure(model, ways, options.repeats, sum(len(item.input_ids) for item in episodes))


if __name__ == "__main__":
    main()
