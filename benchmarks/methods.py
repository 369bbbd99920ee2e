"""All methods on WebShop's built-in data with SmolLM2-135M: one protocol, one start, one table.

    python benchmarks/methods.py --budget small --folder runs/methods      # 13 to 17 hours a seed on one core
    python benchmarks/methods.py --budget small --jobs 2                   # two rows at a time, a core for each
    python benchmarks/methods.py --budget small --jobs 2 --bfloat16 --folder runs/bfloat16   # if `icto doctor` says so
    python benchmarks/methods.py --budget full --seeds 0 1 2               # more of everything; not run yet
    python benchmarks/methods.py --budget small --rows rft eto   # some rows; other processes may play others
    python benchmarks/methods.py --budget small --table                    # the table from what is finished
    python benchmarks/methods.py --budget small --seeds 2 --keep     # seeds whose folders are gone stay in the table

Every method starts from the same clone and the same demonstrations, explores the same training tasks, and has the same
number of settings to try; the best on dev by average reward (the clone itself included) is asked test and ood once.
Controls stand beside them: rejection sampling, going on to clone with the same demonstrations (as many tokens as ICTO
trains), and with twice as many demonstrations, which no other row has. Differences to the clone are paired bootstraps
over tasks. Each method is a run folder: kill this at any point, and the same command goes on.
Rows that are not finished are left out of the table and named.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from methods_jobs import first_of_its_kind, share_stages, side_by_side
from methods_table import write_tables

from icto_gym.errors import ConfigError
from icto_gym.files import read_json, write_json
from trainers.config import config_difference, deciding, from_mapping, merged, read_yaml, to_mapping
from trainers.diagnostics import budget as spent
from trainers.methods import find_method
from trainers.methods.best_of_n import bound
from trainers.methods.common import evaluate_splits
from trainers.presets import fit_to, preset_values
from trainers.rollout import RolloutConfig
from trainers.runs import Run
from trainers.sampling import choose_tasks, list_tasks

logger = logging.getLogger("benchmark")
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Budget:
    """What every method may spend; the same for all of them."""

    demonstrations: int
    """Expert episodes of the shared clone."""
    more_demonstrations: int
    """Of the control that goes on cloning: those of the clone and as many others."""
    tasks: int
    """Training tasks that are explored: most of them not demonstrated, for those that were it knows by heart."""
    demonstrated: int
    """So many of them were demonstrated to the clone."""
    attempts: int
    """Episodes per explored task, for methods that sample."""
    iterations: int
    trials: int
    """Settings each method may try."""
    probe: int
    """Dev tasks at each look while training."""
    dev: int
    test: int
    ood: int
    methods: tuple[str, ...]


BUDGETS = {
    "tiny": Budget(4, 6, 2, 1, 2, 1, 1, 2, 2, 2, 2, ("icto", "rft")),
    "small": Budget(
        160, 320, 240, 16, 4, 1, 1, 120, 120, 200, 60,
        ("icto", "icto_retry", "rft", "icto_imitation", "icto_retry_imitation", "cloning_again", "more_cloning", "eto",
         "nat", "icto_step", "rlcd", "ipr", "best_of_n"),
    ),
    "full": Budget(
        160, 320, 240, 16, 4, 2, 2, 120, 160, 300, 270,
        ("icto", "icto_retry", "rft", "icto_imitation", "icto_retry_imitation", "cloning_again", "more_cloning", "eto",
         "icto_step", "nat", "ipr", "rlcd", "best_of_n"),
    ),
}  # fmt: skip

COMMON: dict[str, Any] = {
    "model": {"lora": {"r": 32, "alpha": 64}},
    "rollout": {"env_id": "icto/WebShop-v0", "brief": True, "batch_size": 32},
    "acting": {"max_new_tokens": 64, "batch_size": 32},
    "sft": {"learning_rate": 1e-3, "epochs": 2, "batch_size": 2, "probe_metric": "dev/average_reward"},
    "evaluation": {"choose_by": "average_reward"},
}
# the same for all that sample, so that they learn from the same episodes and one play serves them
_SAMPLED = {"temperature": 0.8, "greedy_first": True, "epsilon": 0.0, "branch_fraction": 0.0}
# these learn from the expert's episode of the very task that they try, so they try those that were demonstrated
AGAINST_EXPERTS = ("eto", "ipr")
SAMPLING = ("icto", "icto_retry", "icto_imitation", "icto_retry_imitation", "icto_step", "rft", "nat")
RETRYING = ("icto_retry", "icto_retry_imitation")
IMITATING = ("icto_imitation", "rft")
# at this size full successes are rare: any better own episode against any worse one, by a tenth of the score at least
_OWN = {
    "success_threshold": None,
    "min_margin": 0.1,
    "max_pairs_per_task": 2,
    "max_expert_share": 0.34,
    "max_one_sided_share": 0.25,
}
_RETRIES = {"branches": 8, "others": 0.25}
_AT_MISTAKES = {
    **_OWN, "max_pairs_per_task": 4, "closest_first": True, "max_rejected_steps": 1, "retries_only": True,
}  # fmt: skip
# a third of this clone's episodes have a command that is none, and they earn half: what is chosen has none
_VALID = {"rules": {"max_invalid_share": 0.0}}
# few looks at many tasks: on 48 of them dev once put two policies in the wrong order that differ by 0.12 on test
_DPO = {
    "probe_metric": "dev/average_reward",
    "diagnostic_pairs": 16,
    "batch_size": 8,
    "epochs": 1,
    "probe_every": 20,
}
# a first look (112 pairs, 2e-4, beta 0.1, weight 0.2 on the mean) lowered the chosen sides and broke product codes: per
# token that anchor is a fifteenth of the contrast; this one is two thirds of it
_ANCHORED = {**_DPO, "sft_weight": 0.1, "sft_reduction": "sum", "beta": 0.3}

# method: (its name in `icto run`, its settings, the settings it may try; the first one where there is one trial)
ROWS: dict[str, tuple[str, dict[str, Any], list[dict[str, Any]]]] = {
    "icto": (
        "icto",
        {"rollout": _SAMPLED, "judge": _VALID, "pairing": _OWN, "dpo": _ANCHORED},
        [{"dpo": {"learning_rate": 1e-4}}, {"dpo": {"learning_rate": 5e-5}}],
    ),
    # pairs that part at a mistake, with what the policy would have said next instead: each tells one decision apart
    "icto_retry": (
        "icto",
        {"rollout": _SAMPLED, "retries": _RETRIES, "judge": _VALID, "pairing": _AT_MISTAKES, "dpo": _ANCHORED},
        [{"dpo": {"learning_rate": 1e-4}}, {"dpo": {"learning_rate": 5e-5}}],
    ),
    "icto_step": (
        "icto",
        {"rollout": _SAMPLED, "judge": _VALID, "step_rewards": {"source": "learned"},
         "reward": {"epochs": 0.5},  # 500 episodes: two passes over all of them would cost more than all the rest
         "pairing": {**_OWN, "granularity": "step"}, "dpo": {**_ANCHORED, "objective": "step"}},
        [{"dpo": {"learning_rate": 1e-4}}, {"dpo": {"learning_rate": 3e-5}}],
    ),
    "icto_imitation": (
        "icto",
        {"rollout": _SAMPLED, "judge": _VALID, "pairing": _OWN, "imitation": True, "dpo": _ANCHORED},
        [{"dpo": {"learning_rate": 1e-4}}, {"dpo": {"learning_rate": 5e-5}}],
    ),
    # what succeeded when it was taken up again is imitated as well, from there on; then contrast as in `icto_retry`
    "icto_retry_imitation": (
        "icto",
        {"rollout": _SAMPLED, "retries": _RETRIES, "judge": _VALID, "imitation": True, "imitate_retries": True,
         "pairing": {**_AT_MISTAKES, "max_command_lead": 0.1}, "dpo": _ANCHORED},
        [{"dpo": {"learning_rate": 1e-4}}, {"dpo": {"learning_rate": 5e-5}}],
    ),
    "rft": ("rft", {"rollout": _SAMPLED}, [{}, {"sft": {"learning_rate": 5e-4}}]),
    "cloning_again": ("bc", {"sft": {"epochs": 2}}, [{}, {"sft": {"learning_rate": 5e-4}}]),
    "more_cloning": ("bc", {"sft": {"epochs": 1}}, [{}, {"sft": {"learning_rate": 5e-4}}]),
    "eto": (
        "eto", {"rollout": {"attempts": 1}, "dpo": _DPO},
        [{"learning_rates": [2e-5, 1e-5]}, {"learning_rates": [5e-5, 2.5e-5]}],
    ),
    "ipr": ("ipr", {"starts_per_task": 2, "monte_carlo": {"samples": 3}, "dpo": {**_DPO, "batch_size": 8}},
            [{"dpo": {"learning_rate": 1e-5}}, {"dpo": {"learning_rate": 3e-5}}]),
    # no score is asked, so one history per task will do, and of it two turns
    "rlcd": ("rlcd", {"rollout": {**_SAMPLED, "attempts": 1}, "pairing": {"max_turns": 2}, "dpo": _DPO},
             [{"dpo": {"learning_rate": 1e-5}}, {"dpo": {"learning_rate": 3e-5}}]),
    "nat": ("nat", {"rollout": _SAMPLED}, [{"negatives_per_positive": 1.0}, {"negatives_per_positive": 2.0}]),
    "best_of_n": ("best_of_n", {"samples": 4}, [{}]),
}  # fmt: skip


def settings(budget: Budget, seed: int, **own: Any) -> dict[str, Any]:
    """What all methods are told."""
    return merged(
        COMMON,
        {
            "seed": seed,
            "rollout": {"max_tasks": None, "attempts": budget.attempts},
            "demonstrations": {"max_tasks": budget.demonstrations},
            "probe": {"tasks": budget.probe},
            "evaluation": {
                "base": False, "splits": ["dev"], "max_tasks": budget.dev, "final_splits": [], "choose": "best",
            },
            **own,
        },
    )  # fmt: skip


def run_method(name: str, values: dict[str, Any], folder: Path) -> tuple[Run, Any, Path | None]:
    """Run a method (or go on with it) and return its run, its config and its chosen checkpoint."""
    method, config = find_method(name), _config(name, values, folder)
    with Run(folder) as run:
        run.save_config(config, name)
        return run, config, method.run(config, run)


def _config(name: str, values: dict[str, Any], folder: Path) -> Any:
    config_class = find_method(name).config_class
    preset = preset_values("smollm2-cpu", fit_to(name, config_class))
    known = {key: value for key, value in values.items() if key in config_class.__dataclass_fields__}
    return from_mapping(config_class, merged(preset, known), str(folder))


def play_final(folder: Path, config: Any, policy: Path | None, label: str, budget: Budget) -> None:
    """Ask test and ood once, with the policy that dev chose; weights that were asked before are not asked again."""
    weights = _weights(policy)
    kept = config.start is not None and weights == _weights(config.start)
    before = {"label": "sft"} if kept else asked_before(folder, weights)
    with Run(folder) as run:
        for split, count in () if before else (("test", budget.test), ("ood", budget.ood)):
            evaluate_splits(run, policy or config.model, label, config, [split], count)
        write_json(folder / "finished.json", {**(before or {"label": label}), "weights": weights})


def asked_before(folder: Path, weights: str) -> dict[str, str]:
    """Which other row's policy has the same weights, and was asked: its label and its folder beside this row's."""
    for done in sorted(folder.parent.parent.glob("*/trial-*/finished.json")):
        found = read_json(done)
        if weights and done.parent != folder and found.get("weights") == weights and "played" not in found:
            return {"label": found["label"], "played": f"{done.parent.parent.name}/{done.parent.name}"}
    return {}


def _weights(checkpoint: Path | None) -> str:
    """What tells weights apart, as the checkpoint's record says; a training whose best probe was its start has its."""
    return "" if checkpoint is None else str(read_json(checkpoint / "checkpoint.json")["weights_digest"])


def play_bound(folder: Path, config: Any, clone: Path, budget: Budget) -> None:
    """Play the upper bound on the tasks that every other row is asked."""
    with Run(folder) as run:
        for split, count in (("test", budget.test), ("ood", budget.ood)):
            bound(config, run, clone, split, count)
        write_json(folder / "budget.json", spent(run))
        write_json(folder / "finished.json", {"label": f"best-of-{config.samples}"})


def shared_clone(folder: Path, budget: Budget, seed: int) -> dict[str, Any]:
    """The clone that every method starts from, measured as a row of its own."""
    explored = folder.parent / "explored.json"
    check_begun(folder, settings(budget, seed))
    if not (folder / "finished.json").exists() or not explored.exists():  # else other processes may be reading it
        _, config, policy = run_method("bc", settings(budget, seed), folder)
        explored_tasks(explored, config.rollout, budget)
        play_final(folder, config, policy, "sft", budget)
    return {
        "start": str(folder / "sft" / "checkpoint"),
        "demonstrations": {"file": str(folder / "demonstrations.jsonl")},
        "rollout": {"split": str(explored)},
    }


def check_begun(folder: Path, values: dict[str, Any]) -> None:
    """Refuse a clone of other settings, which a finished one would otherwise not be asked.

    Raises:
        ConfigError: naming them.
    """
    if not (folder / "config.yaml").exists():
        return
    config = _config("bc", values, folder)
    before = merged(
        to_mapping(type(config)()), {k: v for k, v in read_yaml(folder / "config.yaml").items() if k != "method"}
    )
    changes = config_difference(deciding(config, before), deciding(config, to_mapping(config)))
    if changes:
        raise ConfigError(f"{folder} was cloned otherwise ({'; '.join(changes)}). Give another --folder.")


def explored_tasks(path: Path, rollout: RolloutConfig, budget: Budget) -> Path:
    """Write the list of training tasks that every method explores."""
    tasks, new = list_tasks(rollout), budget.tasks - budget.demonstrated
    shown = choose_tasks(tasks, budget.demonstrations)
    others = [task for task in choose_tasks(tasks, budget.demonstrations + new) if task not in shown]
    write_json(path, [*choose_tasks(shown, budget.demonstrated), *others])
    return path


def demonstrated_tasks(folder: Path, values: dict[str, Any], budget: Budget) -> Path:
    """Write the list of training tasks that the clone was shown; methods that need the expert explore these."""
    rollout = RolloutConfig(env_id=values["rollout"]["env_id"], brief=values["rollout"]["brief"])
    write_json(path := folder / "demonstrated.json", choose_tasks(list_tasks(rollout), budget.demonstrations))
    return path


def run_row(row: str, folder: Path, start: dict[str, Any], budget: Budget, seed: int) -> None:
    """Try the settings of a row on dev, and ask the final splits of the best one."""
    name, own, grid = ROWS[row]
    tried = []
    for number, trial in enumerate(grid[: budget.trials]):
        values = merged(merged(settings(budget, seed), own), merged(_iterations(name, budget), trial))
        values = merged(values, start)
        if row in AGAINST_EXPERTS:
            values = merged(values, {"rollout": {"split": str(demonstrated_tasks(folder.parent, values, budget))}})
        if row == "more_cloning":
            values = merged(
                values,
                {
                    "rollout": {"split": "train"},
                    "demonstrations": {"file": None, "max_tasks": budget.more_demonstrations},
                },
            )
        here = folder / f"trial-{number}"
        for first in played_before(folder, row):
            share_stages(first, here, ("evaluation.sft.dev", "iteration-01.trajectories"))
        if row in RETRYING:
            for other in RETRYING:
                share_stages(folder.parent / other / "trial-0", here, ("iteration-01.with-retries",))
        if row in IMITATING:
            for other in IMITATING:
                share_stages(folder.parent / other / "trial-0", here, ("iteration-01.successes", "iteration-01.sft"))
        _, config, policy = run_method(name, values, here)
        tried.append((_dev_reward(here), here, config, policy))
    _, here, config, policy = max(tried, key=lambda item: item[0])
    if row == "best_of_n":
        play_bound(here, config, policy, budget)
    else:
        play_final(here, config, policy, read_json(here / "chosen.json")["label"], budget)
    write_json(folder / "chosen.json", {"trial": here.name, "tried": [str(item[1].name) for item in tried]})


def played_before(folder: Path, row: str) -> list[Path]:
    """Run folders in which this row's clone was measured or its exploration played."""
    alike = SAMPLING if row in SAMPLING else (row,)
    return [folder.parent / "sft", *(folder.parent / other / "trial-0" for other in dict.fromkeys((row, *alike)))]


def _iterations(name: str, budget: Budget) -> dict[str, Any]:
    return {"iterations": budget.iterations} if name in ("icto", "eto", "ipr") else {}


def _dev_reward(folder: Path) -> float:
    label = read_json(folder / "chosen.json")["label"] if (folder / "chosen.json").exists() else "sft"
    return read_json(folder / "evaluation" / label / "dev" / "metrics.json")["metrics"]["average_reward"]["value"]


def _multiply_in(dtype: str) -> None:
    COMMON["acting"]["dtype"] = dtype
    for training in ("sft", "dpo", "reward", "ppo"):
        COMMON.setdefault(training, {})["mixed_precision"] = dtype


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", choices=list(BUDGETS), default="small")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/methods"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--trials", type=int, help="settings to try per method, in place of the budget's")
    parser.add_argument("--model", default=None, help="another model's name or folder")
    parser.add_argument("--bfloat16", action="store_true", help="multiply in bfloat16, in training and in play")
    parser.add_argument("--jobs", type=int, default=1, help="so many rows at a time, each in a process of its own")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), help="only these methods, beside other processes")
    parser.add_argument("--table", action="store_true", help="only write the table from what is finished")
    parser.add_argument("--keep", action="store_true", help="seeds of the written table that are not in --folder stay")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs is {options.jobs}; give 1 or more.")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if options.model:
        COMMON["model"]["name"] = options.model
    if options.bfloat16:
        _multiply_in("bfloat16")
    budget = BUDGETS[options.budget]
    budget = replace(budget, trials=options.trials or budget.trials)

    def table() -> str:
        return write_tables(
            options.budget, asdict(budget), options.seeds, options.folder, options.results, keep=options.keep
        )

    for seed in [] if options.table else options.seeds:
        here = options.folder / f"{options.budget}-seed-{seed}"
        start = shared_clone(here / "sft", budget, seed)
        rows = options.rows or list(budget.methods)
        if options.jobs > 1:
            _side_by_side(rows, here, seed, options)
        for row in rows if options.jobs == 1 else ():
            run_row(row, here / row, start, budget, seed)
            table()
    print(table())


def _side_by_side(rows: list[str], here: Path, seed: int, options: argparse.Namespace) -> None:
    """The same command for each row, in processes of their own."""
    words = [sys.executable, __file__, "--seeds", str(seed), *(["--bfloat16"] if options.bfloat16 else [])]
    words += ["--keep"] if options.keep else []
    for name in ("budget", "folder", "results", "trials", "model"):
        given = getattr(options, name)
        words += [] if given is None else [f"--{name}", str(given)]
    before = first_of_its_kind(rows, (SAMPLING, RETRYING, IMITATING))
    side_by_side(before, options.jobs, lambda row: [*words, "--rows", row], lambda row: here / f"{row}.log")


if __name__ == "__main__":
    main()
