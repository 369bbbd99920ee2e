"""How much faster episodes are played when keys and values are kept over their turns.

    python benchmarks/rollout_speed.py                     8 and 16 episodes of 6 turns, about 10 minutes of one core

Both sides play the same conversations greedily with the same model and batch: the `hf` policy, and Transformers'
own `generate` on every turn's whole conversation (left padding, the same stopping rule). The observations are
those of expert episodes in the built-in shop, the responses are the model's. Responses are compared; where they
differ, the gap of the two best logits at that place is shown (a tie to rounding if it is below 1e-3).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from icto_gym.dialogue import Message, observation_message, to_messages
from icto_gym.files import write_json
from icto_gym.store import TrajectoryStore
from icto_gym.trajectory import Trajectory
from trainers.models.loading import load_model
from trainers.policies import Turn, make_policy
from trainers.policies.decoding import Words
from trainers.policies.hf import HFPolicy
from trainers.rollout import RolloutConfig, plan_jobs, rollout
from trainers.tokenization import encode_prompt, end_of_turn_ids


class Script:
    """One conversation: its observations stand beforehand, its responses come as they come."""

    def __init__(self, trajectory: Trajectory) -> None:
        self.pages = [step.observation for step in trajectory.steps]
        self.messages = to_messages(trajectory.system_prompt, trajectory.instruction, (), self.pages[0])
        self.turn = 0

    def answer(self, response: str) -> None:
        """Append a response and what is seen after it."""
        self.turn += 1
        if self.turn < len(self.pages):
            seen = Message("user", observation_message(self.pages[self.turn]))
            self.messages = [*self.messages, Message("assistant", response), seen]


def demonstrations(episodes: int, turns: int) -> list[Trajectory]:
    """Expert episodes of the shop with so many steps or more: pages of the length that the real task has."""
    with tempfile.TemporaryDirectory() as folder:
        store = TrajectoryStore(Path(folder) / "expert.jsonl")
        config = RolloutConfig(attempts=1, max_tasks=20 * episodes)
        rollout(make_policy("expert"), config, plan_jobs(config), store)
        found = [trajectory for trajectory in store if len(trajectory.steps) >= turns]
    return found[:episodes]


def play_cached(policy: HFPolicy, scripts: list[Script], turns: int) -> list[list[str]]:
    """The policy under test."""
    said = []
    for _ in range(turns):
        answers = policy.act([Turn(script.messages, {}, str(number)) for number, script in enumerate(scripts)])
        said.append(answers)
        for script, answer in zip(scripts, answers, strict=True):
            script.answer(answer)
    return said


def play_plain(policy: HFPolicy, scripts: list[Script], turns: int) -> list[list[str]]:
    """Transformers' generate on whole conversations."""
    said = []
    for _ in range(turns):
        answers = generate_plain(policy, [encode_prompt(policy.tokenizer, script.messages) for script in scripts])
        said.append(answers)
        for script, answer in zip(scripts, answers, strict=True):
            script.answer(answer)
    return said


def generate_plain(policy: HFPolicy, prompts: list[list[int]]) -> list[str]:
    """One turn of every conversation, padded on the left."""
    words = Words(policy.tokenizer, end_of_turn_ids(policy.tokenizer))
    longest, padding = max(map(len, prompts)), policy.tokenizer.eos_token_id
    ids = torch.tensor([[padding] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])

    def complete(written: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.tensor([words.action_is_complete(row[longest:].tolist()) for row in written])

    with torch.inference_mode():
        written = policy.model.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=policy.max_new_tokens,
            eos_token_id=list(words.end_ids), pad_token_id=padding, stopping_criteria=[complete],
        )  # fmt: skip
    return [words.text(row[longest:]).strip() for row in written]


def gaps_where_different(
    policy: HFPolicy, ours: list[list[str]], theirs: list[list[str]], played: list[Trajectory]
) -> list[float]:
    """For each conversation whose responses differ: the gap of the two best logits at the first different token."""
    gaps = []
    for number, trajectory in enumerate(played):
        pair = next(((a[number], b[number], t) for t, (a, b) in enumerate(zip(ours, theirs, strict=True))
                     if a[number] != b[number]), None)  # fmt: skip
        if pair is None:
            continue
        script = Script(trajectory)
        for answers in ours[: pair[2]]:
            script.answer(answers[number])
        first, second = (policy.tokenizer.encode(text, add_special_tokens=False) for text in pair[:2])
        same = next(
            (n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(map(len, (first, second)))
        )
        ids = torch.tensor([encode_prompt(policy.tokenizer, script.messages) + first[:same]])
        with torch.inference_mode():
            best = policy.model(ids, logits_to_keep=1).logits[0, -1].topk(2).values
        gaps.append(float(best[0] - best[1]))
    return gaps


def measure(options: argparse.Namespace, loaded: Any, episodes: int) -> dict[str, Any]:
    """Both ways in turn, ``rounds`` times; medians, and what differed."""
    policy = HFPolicy(loaded.model, loaded.tokenizer, max_new_tokens=options.max_new_tokens, batch_size=episodes)
    played = demonstrations(episodes, options.turns)
    seconds: dict[str, list[tuple[float, float]]] = {"cached": [], "plain": []}
    sides: dict[str, list[list[str]]] = {}
    for _ in range(options.rounds):
        for name, play in (("cached", play_cached), ("plain", play_plain)):
            policy._engine.clear()
            wall, cpu = time.perf_counter(), time.process_time()
            sides[name] = play(policy, [Script(trajectory) for trajectory in played], options.turns)
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
            print(f"{name:7} {seconds[name][-1][0]:7.1f} s wall {seconds[name][-1][1]:7.1f} s CPU", flush=True)
    wall, cpu = (
        {name: statistics.median(run[kind] for run in runs) for name, runs in seconds.items()} for kind in (0, 1)
    )
    gaps = gaps_where_different(policy, sides["cached"], sides["plain"], played)
    return {
        "episodes": episodes, "turns": options.turns, "rounds": options.rounds,
        "response_tokens": sum(len(loaded.tokenizer.encode(text)) for said in sides["cached"] for text in said),
        "ratio_cpu": round(cpu["plain"] / cpu["cached"], 2), "ratio_wall": round(wall["plain"] / wall["cached"], 2),
        "cached_cpu_seconds": round(cpu["cached"], 1), "plain_cpu_seconds": round(cpu["plain"], 1),
        "conversations_that_differ": len(gaps), "gaps_of_best_logits": [round(gap, 6) for gap in gaps],
    }  # fmt: skip


def main() -> None:
    """Play both ways and print and keep the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--episodes", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1, help="of both ways in turn; their medians count")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "rollout_speed.json")
    options = parser.parse_args()
    loaded, results = load_model(options.model), []
    for episodes in options.episodes:
        results.append(measure(options, loaded, episodes))
        print(json.dumps(results[-1]), flush=True)
        write_json(options.out, {"model": options.model, "max_new_tokens": options.max_new_tokens, "results": results})


if __name__ == "__main__":
    main()
