"""A DPO step beside TRL's DPOTrainer: CPU time, wall time and peak memory on the same pairs, in one run.

    pip install trl                               # the peer, needed for this only
    python benchmarks/trl_comparison.py           # about an hour on two cores; written after every round

Every measurement is a process of its own (so that its peak memory is its own) which loads the model and makes two
optimiser steps of two pairs. The second is compared, for the first one pays for a cold heap, once in a training (it
stands in the result as ``first_cpu``). The ways take turns, ``--rounds`` times, and medians are compared:

* trl-live: TRL as it comes, the reference computed in every step, activation checkpointing on (its default);
* trl-precomputed: TRL at its best in time: reference computed once, no checkpointing;
* trl-lean: TRL at its best in memory: reference computed once, checkpointing on;
* ours, ours-remade, ours-lean: this project's trainer as it comes, with `remake_activations`, and with
  `activation_checkpointing` (both return freed memory too).

All run in float32, which is faster than bfloat16 on a CPU without AMX. A reference that is computed once is counted
over two epochs: half of its time is added to a step. TRL trains on observation tokens too (it has no mask for them
within a completion), this project on the agent's alone; both read the same tokens.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from icto_gym.dialogue import Message
from icto_gym.files import read_json, write_json
from trainers.records import PreferencePair

RESULT = Path(__file__).parent / "results" / "trl_comparison.json"
WAYS = ("trl-live", "trl-precomputed", "trl-lean", "ours", "ours-remade", "ours-lean")
WORDS = [
    "red",
    "blue",
    "shoe",
    "large",
    "small",
    "price",
    "under",
    "dollars",
    "click",
    "search",
    "page",
    "item",
    "buy",
    "now",
    "back",
    "result",
    "next",
    "men",
]
SHAPES = {"trajectory": (240, 5, 40), "step": (760, 1, 45)}
"""Kind of pair: (words of the shared prompt, replies of a side, words of a message)."""


def text(draw: random.Random, words: int) -> str:
    """Random words, about one token each."""
    return " ".join(draw.choice(WORDS) for _ in range(words))


def make_pairs(kind: str, count: int = 2, scale: float = 1.0) -> list[PreferencePair]:
    """Pairs of one shape, each with a history of its own; ``scale`` multiplies their length."""
    draw, pairs = random.Random(0), []
    prompt, replies, words = SHAPES[kind]
    for number in range(count):
        shared = (Message("user", text(draw, round(prompt * scale))),)
        sides = []
        for _ in range(2):
            turns = [Message("assistant", f"Thought: {text(draw, words)}")]
            for _ in range(round(replies * scale) - 1):
                turns += [Message("user", f"Observation: {text(draw, words)}")]
                turns += [Message("assistant", f"Thought: {text(draw, words)}")]
            sides.append(tuple(turns))
        pairs.append(
            PreferencePair(f"t/{number}", shared, *sides, 1.0, "trajectory", f"t/{number}@a#0", f"t/{number}@b#0")
        )
    return pairs


class Clock:
    """CPU and wall seconds of a block."""

    def __enter__(self) -> Clock:
        self.begin = time.process_time(), time.monotonic()
        return self

    def __exit__(self, *_: Any) -> None:
        self.cpu, self.wall = time.process_time() - self.begin[0], time.monotonic() - self.begin[1]


def run_ours(pairs: list[PreferencePair], weights: str, *, lean: bool, remade: bool) -> dict[str, Any]:
    """Two optimiser steps of this project's trainer, its reference timed apart."""
    from trainers.models import LoRAConfig, ModelConfig
    from trainers.models.loading import load_model
    from trainers.training.config import DPOConfig
    from trainers.training.dpo import PairPlan, preference_loss, take_reference
    from trainers.training.engine import Engine, prepare
    from trainers.training.loop import _optimiser_step

    lora = LoRAConfig(r=16, alpha=32) if weights == "lora" else None
    loaded = load_model(ModelConfig(lora=lora), trainable=True)
    config = DPOConfig(sft_weight=0.0, batch_size=len(pairs), activation_checkpointing=lean, remake_activations=remade)
    plan = PairPlan.make(loaded.tokenizer, pairs, config)
    plan.packed = prepare(loaded.model, config, dropout=False)
    with Clock() as reference, tempfile.TemporaryDirectory() as folder:
        take_reference(plan, loaded, None, Path(folder))
    engine = Engine(loaded.model, config, 2)
    loss = lambda model, batch: preference_loss(model, batch, config)  # noqa: E731
    steps, losses = [Clock(), Clock()], []
    for number, step in enumerate(steps):
        with step:
            record = _optimiser_step(engine, plan, loss, config, number, Path("."))
        losses.append(record["train/loss"])
    return {"steps": steps, "reference": reference, "loss": losses[0], "tokens": record["train/tokens"]}


def run_trl(pairs: list[PreferencePair], weights: str, *, live: bool, checkpointing: bool) -> dict[str, Any]:
    """Two optimiser steps of TRL's trainer, its reference timed apart where it is computed before."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from trainers.models.smollm2 import smollm2_folder

    sides = ("prompt", "chosen", "rejected")
    rows = [{side: [message.as_dict() for message in getattr(pair, side)] for side in sides} for pair in pairs]
    steps: list[Clock] = []
    reference = Clock()
    reference.cpu = reference.wall = 0.0

    class Timed(DPOTrainer):
        def _precompute_ref_logps(self, *arguments: Any) -> Any:
            with reference:
                return super()._precompute_ref_logps(*arguments)

    class Watch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            steps.append(Clock().__enter__())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps[-1].__exit__()

    folder = smollm2_folder()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    with tempfile.TemporaryDirectory() as out:
        settings = DPOConfig(
            output_dir=out, max_steps=2, per_device_train_batch_size=len(pairs), bf16=False, use_cpu=True,
            precompute_ref_log_probs=not live, gradient_checkpointing=checkpointing, max_length=None,
            logging_steps=1, save_strategy="no", report_to="none", learning_rate=2e-5,
        )  # fmt: skip
        trainer = Timed(
            model, args=settings, train_dataset=Dataset.from_list(rows), callbacks=[Watch()],
            processing_class=AutoTokenizer.from_pretrained(folder), peft_config=lora if weights == "lora" else None,
        )  # fmt: skip
        trainer.train()
    tokens = sum(len(ids) for row in trainer.train_dataset for ids in (row["chosen_ids"], row["rejected_ids"]))
    tokens += 2 * sum(len(row["prompt_ids"]) for row in trainer.train_dataset)
    return {"steps": steps, "reference": reference, "loss": trainer.state.log_history[0]["loss"], "tokens": tokens}


def measure(kind: str, weights: str, way: str, scale: float, count: int) -> dict[str, Any]:
    """One measurement, in this process."""
    pairs = make_pairs(kind, count, scale)
    if way.startswith("ours"):
        found = run_ours(pairs, weights, lean=way == "ours-lean", remade=way == "ours-remade")
    else:
        found = run_trl(pairs, weights, live=way == "trl-live", checkpointing=way != "trl-precomputed")
    (first, second), reference = found["steps"], found["reference"]
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cpu": second.cpu + reference.cpu / 2,
        "wall": second.wall + reference.wall / 2,
        "first_cpu": first.cpu + reference.cpu / 2,
        "peak_mb": used.ru_maxrss / 1024,
        "cleared_pages": used.ru_minflt,
        "loss": found["loss"],
        "tokens": found["tokens"],
    }


def apart(*words: str) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--one", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(rounds: int, kind: str, weights: str) -> Iterator[dict[str, Any]]:
    """All ways by turns, on one kind of pairs, with an adapter or with all weights; what is known after each round."""
    import torch

    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for done in range(1, rounds + 1):
        for way in WAYS:
            runs[way].append(apart(kind, weights, way, "1", "2"))
        medians = {
            way: {name: round(statistics.median(run[name] for run in found), 4) for name in found[0]}
            for way, found in runs.items()
        }
        show(f"{kind} pairs, {weights}, medians of {done}", medians)
        yield {"rounds": done, "threads": torch.get_num_threads(), **medians, "ratios": ratios(medians)}


def ratios(medians: dict[str, dict[str, float]]) -> dict[str, float]:
    """How many times faster, and what part of the memory."""
    found = {}
    for peer in WAYS[:3]:
        for way in WAYS[3:]:
            for name, key in (("cpu", "cpu"), ("first cpu", "first_cpu"), ("wall", "wall")):
                found[f"{peer} {name} / {way} {name}"] = round(medians[peer][key] / medians[way][key], 2)
            found[f"{way} peak / {peer} peak"] = round(medians[way]["peak_mb"] / medians[peer]["peak_mb"], 2)
    return found


def show(title: str, medians: dict[str, dict[str, float]]) -> None:
    """A table on the screen."""
    print(title)
    base = medians["trl-live"]
    for way, row in medians.items():
        print(
            f"  {way:16} {row['cpu']:7.1f} CPU s ({base['cpu'] / row['cpu']:5.2f} x)  {row['wall']:7.1f} s wall "
            f"({base['wall'] / row['wall']:5.2f} x)  peak {row['peak_mb']:6.0f} MB "
            f"({row['peak_mb'] / base['peak_mb']:4.2f})  {row['tokens']:.0f} tokens  loss {row['loss']:.4f}",
            flush=True,
        )


def linear() -> dict[str, list[dict[str, float]]]:
    """Our step over four sizes: more pairs of one length, and two pairs of growing length."""
    grown: dict[str, list[tuple[str, str]]] = {
        "pairs": [("1", str(count)) for count in (1, 2, 4, 8)],
        "length": [(str(scale), "2") for scale in (0.4, 0.8, 1.6, 3.2)],
    }
    found: dict[str, list[dict[str, float]]] = {}
    for what, sizes in grown.items():
        found[what] = []
        for scale, count in sizes:
            run = apart("trajectory", "lora", "ours", scale, count)
            row = {
                "tokens": run["tokens"],
                "cpu": round(run["cpu"], 2),
                "ms": round(1e3 * run["cpu"] / run["tokens"], 2),
            }
            found[what].append(row)
            print(
                f"  {what}: {row['tokens']:6.0f} tokens  {row['cpu']:6.1f} CPU s  {row['ms']:.2f} ms a token",
                flush=True,
            )
    return found


def main() -> None:
    """Compare, or make the one measurement that the parent process asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often the ways take turns")
    parser.add_argument("--kinds", nargs="+", choices=SHAPES, default=list(SHAPES), help="which pairs")
    parser.add_argument("--weights", nargs="+", choices=("lora", "full"), default=["lora", "full"], help="what learns")
    parser.add_argument("--without-sizes", action="store_true", help="leave out the cost over four sizes")
    parser.add_argument("--one", nargs=5, metavar="X", help="kind, weights, way, scale, pairs: one measurement")
    options = parser.parse_args()
    if options.one:
        kind, weights, way, scale, count = options.one
        print(json.dumps(measure(kind, weights, way, float(scale), int(count))))
        return
    import torch
    import transformers
    import trl

    versions = {package.__name__: package.__version__ for package in (torch, transformers, trl)}
    result: dict[str, Any] = {"versions": versions, "compared": {}}
    if RESULT.exists() and read_json(RESULT)["versions"] == versions:
        result = read_json(RESULT)
    for kind, trained in product(options.kinds, options.weights):
        for found in compare(options.rounds, kind, trained):
            result["compared"][f"{kind}/{trained}"] = found
            write_json(RESULT, result)
    if not options.without_sizes:
        write_json(RESULT, {**result, "linear": linear()})


if __name__ == "__main__":
    main()
