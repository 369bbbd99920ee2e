"""What guessing ahead saves in play: episodes with and without `draft_tokens`, by turns.

    python benchmarks/draft_speed.py                                    # SmolLM2 as it is, about 10 minutes of one core
    python benchmarks/draft_speed.py --start runs/demo/sft/checkpoint   # a clone, as after `make demo`
    python benchmarks/draft_speed.py --start CHECKPOINT --dtype bfloat16

Both sides play the same tasks of the built-in shop with the same policy; each begins with an empty store of guesses, as
a run does. In float32 the episodes must be the same word for word. Ratios above 1 mean that guessing is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from icto_gym.files import write_json
from icto_gym.store import TrajectoryStore
from icto_gym.trajectory import Trajectory
from trainers.policies.drafts import Drafts
from trainers.policies.hf import HFPolicy
from trainers.rollout import RolloutConfig, plan_jobs, rollout

SIDES = ("one by one", "guessing")


def played(policy: HFPolicy, options: argparse.Namespace) -> tuple[float, int, list[Trajectory]]:
    """CPU seconds, passes through the model, and the episodes."""
    config = RolloutConfig(
        split="dev", brief=True, attempts=1, max_tasks=options.tasks, batch_size=options.batch_size,
        temperature=options.temperature, epsilon=0.0, branch_fraction=0.0,
    )  # fmt: skip
    passes: list[int] = []
    hook = policy.model.register_forward_hook(lambda *_: passes.append(1))
    with tempfile.TemporaryDirectory() as folder:
        store = TrajectoryStore(Path(folder) / "episodes.jsonl")
        begin = time.process_time()
        rollout(policy, config, plan_jobs(config), store, progress=False)
        seconds = time.process_time() - begin
        episodes = sorted(store, key=lambda trajectory: trajectory.trajectory_id)
    hook.remove()
    return seconds, len(passes), episodes


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Both sides in turn, ``rounds`` times; medians, and whether they said the same."""
    policy = HFPolicy.load(
        options.start, dtype=options.dtype, max_new_tokens=options.max_new_tokens, batch_size=options.batch_size
    )
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    passes: dict[str, int] = {}
    episodes: dict[str, list[Trajectory]] = {}
    for _ in range(options.rounds):
        for side in SIDES:
            policy._drafts = Drafts(options.draft_tokens) if side == "guessing" else None
            policy._engine.clear()
            found = played(policy, options)
            seconds[side].append(found[0])
            passes[side], episodes[side] = found[1:]
            print(f"{side:10} {found[0]:7.1f} s CPU {found[1]:6} passes", flush=True)
    drafts, pairs = policy._drafts, list(zip(*episodes.values(), strict=True))
    one, guessing = (statistics.median(seconds[side]) for side in SIDES)
    return {
        "policy": policy.name, "dtype": options.dtype or "float32", "temperature": options.temperature,
        "episodes": len(pairs), "draft_tokens": options.draft_tokens, "rounds": options.rounds,
        "ratio_cpu": round(one / guessing, 2), "ratio_passes": round(passes[SIDES[0]] / passes[SIDES[1]], 2),
        "one_by_one_cpu_seconds": round(one, 1), "guessing_cpu_seconds": round(guessing, 1),
        "guesses_that_came": round(drafts.right / drafts.guessed, 3) if drafts and drafts.guessed else None,
        "episodes_word_for_word_the_same": sum(said(first) == said(second) for first, second in pairs),
        "average_score": [round(statistics.mean(item.score for item in episodes[side]), 4) for side in SIDES],
    }  # fmt: skip


def said(trajectory: Trajectory) -> list[str]:
    return [step.response for step in trajectory.steps]


def main() -> None:
    """Measure, print and keep the ratios; results of other settings in the file stay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", default="smollm2-135m-instruct", help="a model or checkpoint that plays")
    parser.add_argument("--dtype", help="precision in which it plays, such as bfloat16")
    parser.add_argument("--tasks", type=int, default=32, help="of the dev split")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--draft-tokens", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1, help="of both sides in turn; their medians count")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "draft_speed.json")
    options = parser.parse_args()
    result = measure(options)
    print(json.dumps(result, indent=2))
    before = json.loads(options.out.read_text()) if options.out.exists() else []
    asked = ("policy", "dtype", "temperature", "draft_tokens", "episodes")
    kept = [item for item in before if any(item.get(name) != result[name] for name in asked)]
    write_json(options.out, [*kept, result])


if __name__ == "__main__":
    main()
