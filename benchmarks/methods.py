"""All methods on built-in data with SmolLM2-135M: one protocol, one start, one table for each benchmark.

    python benchmarks/methods.py --budget small --folder runs/methods      # 13 to 17 hours a seed, variants too
    python benchmarks/methods.py --budget small --jobs 2                   # two rows at a time, a core for each
    python benchmarks/methods.py --budget small --jobs 2 --bfloat16 --folder runs/bfloat16   # if `icto doctor` says so
    python benchmarks/methods.py --budget brief --jobs 2                   # less to learn from; not run whole yet
    python benchmarks/methods.py --budget full --seeds 0 1 2               # more of everything; not run yet
    python benchmarks/methods.py --budget small --rows rft eto   # some rows; other processes may play others
    python benchmarks/methods.py --budget small --rows icto_retry icto_imitation icto_retry_imitation_2   # variants too
    python benchmarks/methods.py --budget small --all-test --rows rft      # all 337 test tasks, of finished rows
    python benchmarks/methods.py --budget small --env alfworld --folder runs/alfworld   # in a household, not a shop
    python benchmarks/methods.py --budget small --table                    # the table from what is finished
    python benchmarks/methods.py --budget small --seeds 2 --keep     # seeds whose folders are gone stay in the table

Every method starts from the same clone and the same demonstrations, explores the same training tasks, and has the same
number of settings to try; the best on dev by average reward (the clone itself included) is asked test and ood once.
Controls stand beside them: rejection sampling, also with as many more attempts as retries cost (`rft_more`), going on
to clone with the same demonstrations (as many tokens as ICTO trains), and with twice as many, which no other row has.
Differences to the clone are paired bootstraps over tasks. Each method is a run folder: kill this at any point, and the
same command goes on.
Rows that are not finished are left out of the table and named.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from methods_envs import ENVS, Env, hold_out
from methods_jobs import first_of_its_kind, share_stages, side_by_side
from methods_rows import (
    AGAINST_EXPERTS,
    BUDGETS,
    COMMON,
    FIRST_ITERATION,
    IMITATING,
    ONCE_AND_TWICE,
    RETRYING,
    ROWS,
    SAMPLING,
    Budget,
    iterations,
    settings,
)
from methods_table import ALL_TEST, chosen, write_tables

from icto_gym.errors import ConfigError
from icto_gym.files import read_json, write_json, write_text
from trainers.config import config_difference, deciding, from_mapping, merged, read_yaml, to_mapping
from trainers.diagnostics import budget as spent
from trainers.evaluation.evaluate import evaluate_policy
from trainers.methods import find_method
from trainers.methods.best_of_n import bound
from trainers.methods.common import evaluate_splits
from trainers.policies.players import recorded_player
from trainers.presets import fit_to, preset_values
from trainers.rollout import RolloutConfig
from trainers.runs import Run
from trainers.sampling import choose_tasks, list_tasks

logger = logging.getLogger("benchmark")
RESULTS = Path(__file__).parent / "results"
FINALS = ("test", "ood")
"""Parts that tasks play; in WebShop the splits' names too."""


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


def play_final(
    folder: Path, config: Any, policy: Path | None, label: str, budget: Budget, finals: Sequence[str] = FINALS
) -> None:
    """Ask test and ood once, with the policy that dev chose; weights that were asked before are not asked again."""
    weights = _weights(policy)
    kept = config.start is not None and weights == _weights(config.start)
    before = {"label": "sft"} if kept else asked_before(folder, weights)
    with Run(folder) as run:
        for split, count in () if before else zip(finals, (budget.test, budget.ood), strict=True):
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


def play_bound(folder: Path, config: Any, clone: Path, budget: Budget, finals: Sequence[str] = FINALS) -> None:
    """Play the upper bound on the tasks that every other row is asked."""
    with Run(folder) as run:
        for split, count in zip(finals, (budget.test, budget.ood), strict=True):
            bound(config, run, clone, split, count)
        write_json(folder / "budget.json", spent(run))
        write_json(folder / "finished.json", {"label": f"best-of-{config.samples}"})


def shared_clone(folder: Path, budget: Budget, seed: int, env: Env = ENVS["webshop"]) -> dict[str, Any]:
    """The clone that every method starts from, measured as a row of its own."""
    explored = folder.parent / "explored.json"
    values = settings(budget, seed, env, env.split("dev", folder.parent))
    check_begun(folder, values)
    if not (folder / "finished.json").exists() or not explored.exists():  # else other processes may be reading it
        if env.splits["dev"] is None:
            taken = max(budget.demonstrations + budget.tasks - budget.demonstrated, budget.more_demonstrations)
            hold_out(folder.parent / "dev.json", RolloutConfig(**env.rollout), taken, budget.dev)
        _, config, policy = run_method("bc", values, folder)
        explored_tasks(explored, config.rollout, budget)
        play_final(folder, config, policy, "sft", budget, finals(env, folder.parent))
    return {
        "start": str(folder / "sft" / "checkpoint"),
        "demonstrations": {"file": str(folder / "demonstrations.jsonl")},
        "rollout": {"split": str(explored)},
    }


def finals(env: Env, seed: Path) -> list[str]:
    """The splits that are asked once."""
    return [env.split(part, seed) for part in FINALS]


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
    rollout = RolloutConfig(env_id=values["rollout"]["env_id"])
    write_json(path := folder / "demonstrated.json", choose_tasks(list_tasks(rollout), budget.demonstrations))
    return path


def ask_all_test(folder: Path, rows: Sequence[str]) -> None:
    """Play the whole test split with what finished rows chose; the episodes that they were asked already stay."""
    for row in rows:
        found = chosen(folder, row)
        if found is None or row == "best_of_n":
            logger.info("%s is not asked: it is %s", row, "not finished" if found is None else "no policy of its own")
            continue
        first, out = (found.played / "evaluation" / found.label / split for split in ("test", ALL_TEST))
        record = read_json(first / "metrics.json")
        config = from_mapping(RolloutConfig, {**record["settings"], "max_tasks": None}, row)
        player = recorded_player(record["recipe"], first)
        with Run(found.played):
            _begin_with(first / "trajectories.jsonl", out / "trajectories.jsonl")
            evaluate_policy(player.load, config, out, label=found.label, recipe=record["recipe"])


def _begin_with(asked: Path, episodes: Path) -> None:
    """A file of episodes begins with those that were asked before; one that lacks any of them is of other weights."""
    before = asked.read_text(encoding="utf-8")
    held = set(episodes.read_text(encoding="utf-8").splitlines()) if episodes.exists() else set[str]()
    if not held.issuperset(before.splitlines()):
        write_text(episodes, before)


def run_row(
    row: str, folder: Path, start: dict[str, Any], budget: Budget, seed: int, env: Env = ENVS["webshop"]
) -> None:
    """Try the settings of a row on dev, and ask the final splits of the best one."""
    name, own, grid = ROWS[row]
    dev, place = env.split("dev", folder.parent), env.place("dev", folder.parent)
    tried = []
    for number, trial in enumerate(grid[: budget.trials]):
        values = merged(merged(settings(budget, seed, env, dev), iterations(name, budget)), merged(own, trial))
        values = merged(values, start)
        if row in env.presets:
            values = merged(values, preset_values(env.presets[row], fit_to(name, find_method(name).config_class)))
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
            share_stages(first, here, (f"evaluation.sft.{place}", "iteration-01.trajectories"))
        for group, stages in (
            (RETRYING, ("iteration-01.with-retries",)),
            (IMITATING, ("iteration-01.successes", "iteration-01.sft")),
            (ONCE_AND_TWICE if number == 0 else (), (*FIRST_ITERATION, f"evaluation.icto-1.{place}")),
        ):
            for other in group if row in group else ():
                share_stages(folder.parent / other / "trial-0", here, stages)
        _, config, policy = run_method(name, values, here)
        tried.append((_dev_reward(here, place), here, config, policy))
    _, here, config, policy = max(tried, key=lambda item: item[0])
    if row == "best_of_n":
        play_bound(here, config, policy, budget, finals(env, folder.parent))
    else:
        label = read_json(here / "chosen.json")["label"]
        play_final(here, config, policy, label, budget, finals(env, folder.parent))
    write_json(folder / "chosen.json", {"trial": here.name, "tried": [str(item[1].name) for item in tried]})


def played_before(folder: Path, row: str) -> list[Path]:
    """Run folders in which this row's clone was measured or its exploration played."""
    alike = SAMPLING if row in SAMPLING else (row,)
    return [folder.parent / "sft", *(folder.parent / other / "trial-0" for other in dict.fromkeys((row, *alike)))]


def _dev_reward(folder: Path, dev: str) -> float:
    label = read_json(folder / "chosen.json")["label"] if (folder / "chosen.json").exists() else "sft"
    return read_json(folder / "evaluation" / label / dev / "metrics.json")["metrics"]["average_reward"]["value"]


def _multiply_in(dtype: str) -> None:
    COMMON["acting"]["dtype"] = dtype
    for training in ("sft", "dpo", "reward", "ppo"):
        COMMON.setdefault(training, {})["mixed_precision"] = dtype


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", choices=list(BUDGETS), default="small")
    parser.add_argument("--env", choices=list(ENVS), default="webshop", help="where it is played")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/methods"))
    parser.add_argument("--results", type=Path, help="where the table is; default: beside this file, a folder a budget")
    parser.add_argument("--trials", type=int, help="settings to try per method, in place of the budget's")
    parser.add_argument("--model", default=None, help="another model's name or folder")
    parser.add_argument("--bfloat16", action="store_true", help="multiply in bfloat16, in training and in play")
    parser.add_argument("--jobs", type=int, default=1, help="so many rows at a time, each in a process of its own")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), help="only these methods, beside other processes")
    parser.add_argument("--all-test", action="store_true", help="only ask finished rows, and sft, the whole test split")
    parser.add_argument("--table", action="store_true", help="only write the table from what is finished")
    parser.add_argument("--keep", action="store_true", help="seeds of the written table that are not in --folder stay")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs is {options.jobs}; give 1 or more.")
    if options.all_test and options.jobs > 1:
        parser.error("--all-test plays one row after another; leave --jobs out.")
    if options.all_test and options.env != "webshop":
        parser.error("--all-test is for the shop, of whose test split only a part is asked; leave it out.")
    env = ENVS[options.env]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if options.model:
        COMMON["model"]["name"] = options.model
    if options.bfloat16:
        _multiply_in("bfloat16")
    budget = BUDGETS[options.budget]
    budget = replace(budget, trials=options.trials or budget.trials, **env.asked)

    # a table of one budget must not take the place of another's; that of `small` was there first
    results = options.results or (RESULTS if options.budget == "small" else RESULTS / options.budget)

    def table() -> str:
        spent = {key: value for key, value in asdict(budget).items() if key != "further"}
        spent["methods"] = budget.rows()
        return write_tables(options.budget, spent, options.seeds, options.folder, results, keep=options.keep, env=env)

    for seed in [] if options.table else options.seeds:
        here = options.folder / f"{options.budget}-seed-{seed}"
        if options.all_test:
            ask_all_test(here, ["sft", *(options.rows or budget.rows())])
            continue
        start = shared_clone(here / "sft", budget, seed, env)
        rows = options.rows or list(budget.methods)
        if options.jobs > 1:
            _side_by_side(rows, here, seed, options)
        for row in rows if options.jobs == 1 else ():
            run_row(row, here / row, start, budget, seed, env)
            table()
    print(table())


def _side_by_side(rows: list[str], here: Path, seed: int, options: argparse.Namespace) -> None:
    """The same command for each row, in processes of their own."""
    words = [sys.executable, __file__, "--seeds", str(seed), *(["--bfloat16"] if options.bfloat16 else [])]
    words += ["--keep"] if options.keep else []
    for name in ("budget", "env", "folder", "results", "trials", "model"):
        given = getattr(options, name)
        words += [] if given is None else [f"--{name}", str(given)]
    before = first_of_its_kind(rows, (SAMPLING, RETRYING, IMITATING, ONCE_AND_TWICE))
    side_by_side(before, options.jobs, lambda row: [*words, "--rows", row], lambda row: here / f"{row}.log")


if __name__ == "__main__":
    main()
