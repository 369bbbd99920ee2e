"""The table of `methods.py`: from finished run folders to JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from methods_envs import ENVS, Env
from methods_seeds import by_task, over_seeds

from icto_gym.errors import ConfigError
from icto_gym.files import read_json, write_json, write_text
from icto_gym.store import TrajectoryStore
from icto_gym.tasks import content_digest
from icto_gym.trajectory import Trajectory
from trainers.config import read_yaml
from trainers.evaluation.compare import paired_difference
from trainers.evaluation.metrics import metrics_to_json, summarize

ALL_TEST = "test-all"
"""The whole test split, where it was played beside the tasks that every row is asked."""
NEW_TEST = "test-new"
"""Of these the tasks that no row was asked before: whatever was chosen since, was chosen without them."""
SPLITS = ("dev", "test", "ood", ALL_TEST, NEW_TEST)
CLONING = ("cloning_again", "more_cloning")
"""Controls whose own policy has the clone's name."""
COSTS = {
    "response_tokens": "written in play", "prompt_tokens": "read in play", "trained_tokens": "trained",
    "scoring_tokens": "scored", "probe_tokens": "in probes", "seconds": "seconds", "cpu_seconds": "CPU seconds",
}  # fmt: skip
SHOWN = ("average_reward", "success_rate", "mean_actions")


def collect(folder: Path, methods: Sequence[str], env: Env = ENVS["webshop"]) -> tuple[list[dict[str, Any]], list[str]]:
    """Every finished row, and the names of those that are not."""
    rows, missing = [], []
    for row in ("sft", *methods):
        found = chosen(folder, row)
        if found is None:
            missing.append(row)
            continue
        weights_of = read_json(found.here / "finished.json").get("played", "")
        rows.append({**_row(row, found, folder, env), "weights_of": weights_of})
    return rows, missing


class Chosen(NamedTuple):
    """What a finished row was asked with."""

    here: Path
    """The row's run folder."""
    label: str
    """The policy's name."""
    played: Path
    """The run folder that holds its episodes: that of the clone or of another row, where the weights are theirs."""


def chosen(folder: Path, row: str) -> Chosen | None:
    """What a row was asked with; None where it is not finished."""
    here = folder / row
    if row != "sft":
        choice = here / "chosen.json"
        here = here / (read_json(choice)["trial"] if choice.exists() else "trial-0")
    if not (here / "finished.json").exists():
        return None
    found = read_json(here / "finished.json")
    of_clone = found["label"] == "sft" and row not in CLONING
    played = folder / found.get("played", "sft") if of_clone or "played" in found else here
    return Chosen(here, found["label"], played)


def _row(row: str, found_in: Chosen, seed: Path, env: Env) -> dict[str, Any]:
    here, label, played = found_in
    tried = read_json(here.parent / "chosen.json")["tried"] if row != "sft" else []
    found: dict[str, Any] = {
        "method": row, "policy": label, "settings_tried": len(tried), "setting": here.name, "splits": {},
        "versus_sft": {}, "cost": _cost(here),
    }  # fmt: skip
    for split in SPLITS[:-1]:
        path = played / "evaluation" / label / (place := env.place(split, seed))
        of_clone = [] if row == "sft" else _episodes(seed / "sft" / "evaluation" / "sft" / place)
        if (path / "metrics.json").exists() and not (split == ALL_TEST and _of_other_weights(path)):
            record = read_json(path / "metrics.json")
            _add_split(found, split, record["metrics"], record["manifest_digest"], _episodes(path), of_clone)
    if ALL_TEST in found["splits"]:  # which was the last one
        asked = {item.task_id for item in _episodes(path.with_name("test"))}
        new, new_of_clone = (
            [item for item in each if item.task_id not in asked] for each in (_episodes(path), of_clone)
        )
        if new:
            tasks = content_digest(*sorted({item.task_id for item in new}))
            _add_split(found, NEW_TEST, metrics_to_json(summarize(new)), tasks, new, new_of_clone)
    return found


def _of_other_weights(path: Path) -> bool:
    """All test tasks were played with weights that the row no longer has."""
    records = [one / "metrics.json" for one in (path, path.with_name("test"))]
    digests = [read_json(one).get("recipe", {}).get("digest") for one in records if one.exists()]
    return len(digests) < 2 or digests[0] != digests[1]


def _episodes(folder: Path) -> list[Trajectory]:
    file = folder / "trajectories.jsonl"
    return list(TrajectoryStore(file)) if file.exists() else []


def _add_split(
    row: dict[str, Any], split: str, numbers: dict[str, Any], tasks: str, episodes: Sequence[Trajectory],
    of_clone: Sequence[Trajectory],
) -> None:  # fmt: skip
    """A row's numbers on some tasks, and how far they are from the clone's, where that played them."""
    shown = {name: {key: round(value, 4) for key, value in numbers[name].items()} for name in SHOWN}
    row["splits"][split] = {**shown, "tasks_digest": tasks[:12], "by_task": by_task(episodes) if episodes else {}}
    if of_clone:
        row["versus_sft"][split] = differences(episodes, of_clone, row["method"])


def differences(episodes: Sequence[Trajectory], of_clone: Sequence[Trajectory], row: str) -> dict[str, Any]:
    """A row's metrics minus the clone's, paired by task; several episodes of a task are averaged first."""
    sides = (episodes, of_clone)
    found: dict[str, Any] = {}
    for metric in SHOWN[:2]:
        result = paired_difference(*sides, metric, names=(row, "sft"), force=row == "best_of_n")
        found[metric] = {
            "difference": round(result.difference, 4), "low": round(result.low, 4), "high": round(result.high, 4),
            "n": result.n, "better": result.better,
        }  # fmt: skip
    return found


def _cost(here: Path) -> dict[str, float]:
    """Of the row alone, beside the shared clone: exploring and training, without evaluation."""
    sums = read_json(here / "budget.json")["sums"]
    return {key: round(sum(sums.get(kind, {}).get(key, 0) for kind in ("play", "training"))) for key in COSTS}


def hours(folder: Path) -> float:
    """Processor time of all that is finished under a seed's folder, evaluation too; what rows share counts once."""
    records = {path.read_bytes() for path in folder.glob("**/stages/*.json") if ".started" not in path.name}
    return round(sum(json.loads(record)["cpu_seconds"] for record in records) / 3600, 2)


def markdown(result: dict[str, Any]) -> str:
    """The table for people."""
    budget = result["budget"]
    lines = [
        f"# Methods on {ENVS[result.get('env', 'webshop')].title} with SmolLM2-135M", "",
        f"`python benchmarks/methods.py --budget {result['name']}{_asked(result)}`", "",
        f"One clone of {budget['demonstrations']} demonstrations is the start of all; {budget['tasks']} training "
        f"tasks are explored; {budget['trials']} setting(s) per method; the best on dev is asked test and ood once. "
        "Intervals: 95 % over tasks. Last columns: reward and success minus the clone's, paired. "
        "Best-of-N is an upper bound. The two that go on cloning stand with their last weights, whatever dev says. "
        "What to make of it, and how the seeds came about, is in docs/results.md.",
    ]  # fmt: skip
    for seed, found in result["results"].items():
        for split in [split for split in SPLITS if any(split in row["splits"] for row in found["rows"])]:
            head = ("", "reward", "success", "actions", "reward − clone", "success − clone")
            how = f" (--{found['precision']})" if found.get("precision") else ""
            lines += ["", f"## {split}, seed {seed}{how}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
            lines += [_line(row, split) for row in found["rows"] if split in row["splits"]]
        lines += ["", f"## cost beside evaluation, seed {seed}", ""]
        lines += [f"| tokens | {' | '.join(COSTS.values())} |", "|---" * (1 + len(COSTS)) + "|"]
        for row in found["rows"]:
            figures = [f"{row['cost'][key]:,.0f}" if key in row["cost"] else "" for key in COSTS]
            lines.append(f"| {row['method']} | {' | '.join(figures)} |")
        if found.get("cpu_hours"):
            lines += [
                "",
                f"All of this seed, evaluation too and shared parts once: {found['cpu_hours']:.1f} CPU hours.",
            ]
        if found["missing"]:
            lines += ["", f"Not finished, so not in the tables: {', '.join(found['missing'])}."]
    return "\n".join([*lines, *_lines_over_seeds(result.get("over_seeds", {}))]) + "\n"


def _asked(result: dict[str, Any]) -> str:
    env = result.get("env", "webshop")
    return f"{'' if env == 'webshop' else f' --env {env}'} --seeds {' '.join(map(str, result['seeds']))}"


def _lines_over_seeds(found: dict[str, Any]) -> list[str]:
    lines = []
    for split, rows in found.items():
        head = (
            "", "seeds", "reward of each", "success of each", "actions of each", "reward − clone", "success − clone",
            "reward − rft",
        )  # fmt: skip
        lines += (
            ["", f"## {split}, over seeds", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"] if rows else []
        )
        for name, row in rows.items():
            each = [", ".join(f"{value:.3f}" for value in row["means"][metric]) for metric in SHOWN]
            versus = [_difference(row["versus_sft"].get(metric)) for metric in SHOWN[:2]]
            rft = row.get("versus_rft", {}).get(SHOWN[0])
            versus.append(f"{_difference(rft)} (seeds {', '.join(map(str, rft['of_seeds']))})" if rft else "")
            lines.append("| " + " | ".join([name, str(row["seeds"]), *each, *versus]) + " |")
    return lines


def _difference(against: dict[str, Any] | None) -> str:
    return f"{against['difference']:+.3f} [{against['low']:+.3f}, {against['high']:+.3f}]" if against else ""


def _line(row: dict[str, Any], split: str) -> str:
    kept = row["policy"] == "sft" and row["method"] not in ("sft", *CLONING)
    twin = row["weights_of"].partition("/")[0]
    why = " (the clone was best on dev)" if kept else f" (the weights of {twin} were best on dev)" if twin else ""
    cells = [row["method"] + why]
    for name in SHOWN:
        value = row["splits"][split][name]
        cells.append(f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]")
    cells += [_difference(row["versus_sft"].get(split, {}).get(metric)) for metric in SHOWN[:2]]
    return "| " + " | ".join(cells) + " |"


def _clone_config(seed: Path) -> dict[str, Any]:
    path = seed / "sft" / "config.yaml"
    return read_yaml(path) if path.exists() else {}


def _precision(seed: Path) -> dict[str, str]:
    """In what a seed was played, where it is not float32, as its clone's config says."""
    dtype = _clone_config(seed).get("acting", {}).get("dtype")
    return {"precision": dtype} if dtype else {}


def _check_env(seed: Path, env: Env) -> None:
    played = _clone_config(seed).get("rollout", {}).get("env_id", env.rollout["env_id"])
    if played != env.rollout["env_id"]:
        raise ConfigError(
            f"{seed} was played in {played}, not {env.rollout['env_id']}. Give its --env, or its --folder."
        )


def _kept(result: dict[str, Any], methods: Sequence[str]) -> dict[str, Any]:
    """A seed's rows as they were; what the table has come to ask for since then is missing."""
    there = {row["method"] for row in result["rows"]}
    return {**result, "missing": [name for name in methods if name not in there]}


def write_tables(
    name: str,
    budget: dict[str, Any],
    seeds: Sequence[int],
    folder: Path,
    results: Path,
    *,
    keep: bool = False,
    env: Env = ENVS["webshop"],
) -> str:
    """Write the benchmark's table as JSON and as Markdown from what is finished; returns the latter.

    Args:
        budget: what every method might spend, with the names of the ``methods``.
        folder: holds a folder of rows for every seed.
        keep: seeds whose folder is not here, but which the table in ``results`` has, stay in it.

    Raises:
        ConfigError: nothing is finished, a seed is of another environment, or those to keep are of another budget.
    """
    budget = {**budget, "methods": list(budget["methods"])}  # as JSON has it
    file = results / f"{env.results}.json"
    keep = keep and file.exists()
    before = read_json(file) if keep else {"results": {}}
    # a row that came later costs the others nothing, so the seeds without it may stay
    spent = {key: value for key, value in budget.items() if key != "methods"}
    if keep and (before["name"], {**before["budget"], "methods": None}) != (name, {**spent, "methods": None}):
        raise ConfigError(f"The table in {results} is of another budget, so its seeds cannot stand beside these.")
    found: dict[str, dict[str, Any]] = {}
    for seed in sorted({*seeds, *map(int, before["results"])}):
        here = folder / f"{name}-seed-{seed}"
        if not here.exists() and str(seed) in before["results"]:
            found[str(seed)] = _kept(before["results"][str(seed)], budget["methods"])
            continue
        _check_env(here, env)
        rows, missing = collect(here, budget["methods"], env)
        found[str(seed)] = {"rows": rows, "missing": missing, "cpu_hours": hours(here), **_precision(here)}
    named = next(key for key, value in ENVS.items() if value is env)
    if not any(each["rows"] for each in found.values()):
        raise ConfigError(f"There is no finished row under {folder / f'{name}-seed-*'}, so {results} stays as it is.")
    result = {"name": name, "env": named, "seeds": [int(seed) for seed in found], "budget": budget, "results": found}
    if len(found) > 1:
        result["over_seeds"] = over_seeds({int(seed): each["rows"] for seed, each in found.items()}, SPLITS)
    write_json(file, result)
    write_text(file.with_suffix(".md"), text := markdown(result))
    return text
