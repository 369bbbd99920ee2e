"""How much faster episodes are played when keys and values are kept over their turns.

    python benchmarks/rollout_speed.py --episodes 8 --turns 6

Both sides play the same scripted conversations greedily with the same model and batch: the `hf` policy, and
Transformers' own `generate` on every turn's whole conversation (left padding, the same stopping rule). The
observations are scripted, the responses are the model's. Their tokens are compared; where they differ, the
distance of the two best logits at that place is shown (a tie to rounding if it is below 1e-3).
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

import torch

from icto_gym.dialogue import Message
from trainers.models.loading import load_model
from trainers.policies.base import Turn
from trainers.policies.decoding import Words
from trainers.policies.hf import HFPolicy
from trainers.tokenization import encode_prompt, end_of_turn_ids

INSTRUCTION = """You are shopping on a web site. In every round you are given a page and an instruction, and you
write a short thought and one action. The action is search[words], where you choose the words, or click[name], where
the name is one of those in square brackets on the page. Search once, compare the products with what is asked for
(kind, colour, size, price), open the best, choose each option that is asked for, and buy it with click[Buy Now].
Always answer in this form:
Thought: why you do it
Action: search[words] or click[name]
If nothing on the page fits, go back to the search. Do not invent names that are not on the page."""
_WORDS = (
    "red blue green cotton leather running casual women men shoes jacket lamp desk waterproof light wide slim classic "
    "set of two long sleeve soft travel kitchen steel"
).split(" ")


class Script:
    """One conversation: its observations are drawn beforehand, its responses come as they come."""

    def __init__(self, number: int, turns: int) -> None:
        draw = random.Random(number)
        self.pages = [_page(draw, first=turn == 0) for turn in range(turns)]
        self.messages = [Message("user", INSTRUCTION), Message("assistant", "OK"), Message("user", self.pages[0])]
        self.turn = 0

    def answer(self, response: str) -> None:
        """Append a response and what is seen after it."""
        self.turn += 1
        if self.turn < len(self.pages):
            self.messages += [Message("assistant", response), Message("user", f"Observation: {self.pages[self.turn]}")]


def _page(draw: random.Random, *, first: bool) -> str:
    goal = f"Find me {' '.join(draw.sample(_WORDS, 5))}, with price lower than {draw.randint(20, 90)} dollars"
    if first:
        return f"WebShop [SEP] Instruction: [SEP] {goal} [SEP] Search"
    items = [
        f"B0{draw.randint(10**7, 10**8)} [SEP] {' '.join(draw.sample(_WORDS, draw.randint(4, 9)))} "
        f"[SEP] ${draw.randint(5, 120)}.99"
        for _ in range(draw.randint(2, 8))
    ]
    return f"Instruction: [SEP] {goal} [SEP] Back to Search [SEP] Page 1 [SEP] Next > [SEP] " + " [SEP] ".join(items)


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


def count_differences(policy: HFPolicy, ours: list[list[str]], theirs: list[list[str]], episodes: int) -> list[float]:
    """For each conversation whose responses differ: the gap of the two best logits at the first different token."""
    gaps = []
    for number in range(episodes):
        pair = next(((a[number], b[number], t) for t, (a, b) in enumerate(zip(ours, theirs, strict=True))
                     if a[number] != b[number]), None)  # fmt: skip
        if pair is None:
            continue
        script = Script(number, len(ours))
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


def main() -> None:
    """Play both ways and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--only", choices=("cached", "plain"), help="time one side alone")
    options = parser.parse_args()
    loaded = load_model(options.model)
    policy = HFPolicy(
        loaded.model, loaded.tokenizer, max_new_tokens=options.max_new_tokens, batch_size=options.episodes
    )
    policy.act([Turn(Script(99, 1).messages, {}, "warm")])
    policy._engine.clear()
    sides, seconds = {}, {}
    for name, play in (("cached", play_cached), ("plain", play_plain)):
        if options.only in (None, name):
            wall, cpu = time.perf_counter(), time.process_time()
            scripts = [Script(number, options.turns) for number in range(options.episodes)]
            sides[name] = play(policy, scripts, options.turns)
            seconds[name] = time.perf_counter() - wall, time.process_time() - cpu
            rate = 60 * options.episodes / seconds[name][0]
            print(f"{name:7} {seconds[name][0]:7.1f} s wall {seconds[name][1]:7.1f} s CPU {rate:7.1f} episodes/min")
    tokens = sum(len(loaded.tokenizer.encode(text)) for answers in next(iter(sides.values())) for text in answers)
    print(f"{options.episodes} episodes x {options.turns} turns, {tokens} response tokens")
    if len(sides) == 2:
        ratio = [seconds["plain"][kind] / seconds["cached"][kind] for kind in (0, 1)]
        gaps = count_differences(policy, sides["cached"], sides["plain"], options.episodes)
        print(f"ratio {ratio[0]:.2f} wall, {ratio[1]:.2f} CPU; conversations that differ: {len(gaps)} {gaps}")


if __name__ == "__main__":
    main()
