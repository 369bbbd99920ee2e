"""Numbers: ``icto evaluate`` (play and measure, score anew, repeat) and ``icto compare`` (two results)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from icto_gym.errors import ConfigError, check_name
from icto_gym.files import write_json
from trainers import stages
from trainers.cli.flags import take_option
from trainers.cli.parsing import ConfigFile, Flat, parse
from trainers.evaluation.evaluate import Decoding, chosen_manifest
from trainers.evaluation.metrics import METRICS, Scoring
from trainers.evaluation.repeat import check_tasks, check_weights, compare_repeat, needs_trust, read_settings
from trainers.evaluation.rescore import rescore
from trainers.evaluation.result import Result, read_result
from trainers.evaluation.tables import side_by_side
from trainers.evaluation.verdict import MAIN, Verdict, compare_results, what_differs
from trainers.policies.players import Player, named_player, recorded_player, weights_digest
from trainers.presets import read_config
from trainers.rollout import RolloutConfig
from trainers.runs import Run

EVALUATE_EXAMPLES = """
icto evaluate random --env icto/WebShop-v0 --split test --max-tasks 60 --out runs/random/test
icto evaluate hf:runs/demo/sft/checkpoint --config examples/configs/demo.yaml --split test ood --out runs/sft
icto evaluate openai:my-model --env icto/ALFWorld-v0 --split valid_unseen --temperature 0.7 --seeds 0 1 2 --out runs/api
icto evaluate --from runs/sft/test/trajectories.jsonl --gamma 0.9 --success-threshold 0.5
icto evaluate --repeat runs/sft/test/metrics.json
"""
COMPARE_EXAMPLES = """
icto compare runs/demo/evaluation/sft/test runs/demo/evaluation/icto-1/test
icto compare a/metrics.json b/metrics.json --metrics success_rate progress --wanted 0.03
icto compare a/metrics.json b/trajectories.jsonl --force
"""


# ---- evaluate ---------------------------------------------------------------------------------
def _unasked(kind: Any) -> Any:
    """A field that keeps its default and has no flag."""
    return Annotated[kind, tyro.conf.SuppressFixed, tyro.conf.Fixed]


@dataclass(frozen=True)
class PlayedOnce(RolloutConfig):
    """What is played; without exploration, so those settings are not asked for."""

    env_id: Annotated[str, tyro.conf.arg(aliases=["--env"])] = "icto/WebShop-v0"
    """Gymnasium id of the environment."""
    optimal_actions: bool = True
    """Note at every step whether the action begins a shortest way to success, where the environment knows."""
    split: _unasked(str) = "dev"  # type: ignore[valid-type]
    attempts: _unasked(int) = 1  # type: ignore[valid-type]
    greedy_first: _unasked(bool) = True  # type: ignore[valid-type]
    temperature: _unasked(float) = 0.0  # type: ignore[valid-type]
    epsilon: _unasked(float) = 0.0  # type: ignore[valid-type]
    branch_fraction: _unasked(float) = 0.0  # type: ignore[valid-type]


@dataclass(frozen=True)
class EvaluateCommand:
    """Play every task of a split once per seed and measure, or score recorded episodes anew, or repeat a result.

    What --out holds already is not played again.
    """

    policy: Annotated[str | None, tyro.conf.Positional] = None
    """random, expert, hf:<model or checkpoint>, openai:<model>, or package.module:Name."""
    out: Path | None = None
    """Folder for trajectories.jsonl and metrics.json; with several splits, for a folder of each."""
    split: tuple[str, ...] = ("dev",)
    """Splits, named lists, or paths of JSON lists of tasks; several are shown side by side."""
    temperature: float = 0.0
    """0: the likeliest response at every step; above: sampled."""
    seeds: tuple[int, ...] = ()
    """Every task is played once with each; left out: with --seed alone."""
    scoring: Annotated[Scoring, Flat] = field(default_factory=Scoring)
    metrics: tuple[str, ...] = ()
    """Show only these in the table; left out: all that are known."""
    format: Literal["json", "table"] | None = None
    """How the result is printed; left out: json for one split, a table for several."""
    from_: Annotated[tuple[Path, ...], tyro.conf.arg(name="from")] = ()
    """Files of trajectories to score anew, without playing."""
    repeat: Path | None = None
    """A result to play again, as metrics.json says."""
    trust: bool = False
    """With --repeat: run the code, program or endpoint that the file names."""
    label: str | None = None
    """What the policy is called in tables; left out: its own name."""
    policy_options: dict[str, Any] = field(default_factory=dict)
    """Arguments of the policy."""
    config: ConfigFile = None
    settings: Annotated[PlayedOnce, Flat] = field(default_factory=PlayedOnce)


def evaluate(arguments: list[str]) -> None:
    """``icto evaluate``."""
    command = parse(EvaluateCommand, arguments, prog="icto evaluate", examples=EVALUATE_EXAMPLES, section="rollout")
    _check_options(command, arguments)
    if _explores(command) and take_option(arguments, "--max-tasks") is None:
        command = replace(command, settings=replace(command.settings, max_tasks=None))
    for name in command.metrics:
        check_name(name, METRICS, "metric")
    if command.repeat is not None:
        _repeat(command)
    elif command.from_:
        _score_again(command)
    else:
        _show(_play(command), command)


def _play(command: EvaluateCommand) -> list[Result]:
    if command.policy is None:
        raise ConfigError(
            "Name a policy to play, episodes to score (--from FILE), or a result to play again (--repeat FILE)."
        )
    if command.out is None:
        raise ConfigError("Give --out, the folder for the episodes and their numbers.")
    if not command.split or len(set(command.split)) < len(command.split):
        raise ConfigError(f"--split is {' '.join(command.split)!r}; name one or several splits, each once.")
    player = named_player(command.policy, {**_acting(command), **command.policy_options})
    asked = RolloutConfig(**{item.name: getattr(command.settings, item.name) for item in fields(RolloutConfig)})
    decode = Decoding(command.temperature, command.seeds)
    configs = [stages.greedy(asked, split, asked.max_tasks, optimal=asked.optimal_actions) for split in command.split]
    for config in configs if len(configs) > 1 else ():
        chosen_manifest(config)  # a wrong name is told before the first split is played, not after it
    found = []
    for config in configs:
        out = command.out if len(configs) == 1 else command.out / config.split.replace("/", "_")
        with Run(out, redo=False) as run:
            label = command.label or player.name
            found.append(_evaluate_into(run, player, config, label, decode, command.scoring))
    return found


def _explores(command: EvaluateCommand) -> bool:
    """Whether ``--config`` is a method's, whose section says how many tasks are explored, not measured."""
    return command.config is not None and "rollout" in read_config(str(command.config))


def _acting(command: EvaluateCommand) -> dict[str, Any]:
    """How the method of ``--config`` has its model write."""
    if command.config is None or not str(command.policy).startswith("hf:"):
        return {}
    given = dict(read_config(str(command.config)).get("acting") or {})
    return {name: value for name, value in given.items() if value is not None}


def _check_options(command: EvaluateCommand, arguments: Sequence[str]) -> None:
    """Refuse flags of playing where nothing is played, or where the result says how.

    Raises:
        ConfigError: naming them.
    """
    ways = [f"--{name}" for name, given in (("repeat", command.repeat), ("from", command.from_)) if given]
    if len(ways) > 1:
        raise ConfigError("--repeat plays a result again and --from scores episodes without playing; give one of them.")
    kept = {"--repeat", "--from", "--out", "--metrics", "--format", "--label"}
    scoring = {f"--{item.name.replace('_', '-')}" for item in fields(Scoring)}
    if ways:
        kept |= {"--trust", "--policy-options"} if command.repeat else scoring
        given = (word.partition("=")[0].replace("_", "-") for word in arguments if word.startswith("--"))
        odd = [flag for flag in dict.fromkeys(given) if flag not in kept]
        if odd:
            raise ConfigError(f"{', '.join(odd)} has no effect beside {ways[0]}; leave it out.")


def _evaluate_into(
    run: Run, player: Player, config: RolloutConfig, label: str, decode: Decoding, scoring: Scoring
) -> Result:
    _refuse_strangers(run)
    stages.evaluate(
        run, run.folder, player, config, label=label,
        decode=None if decode == Decoding() else decode, scoring=None if scoring == Scoring() else scoring,
    )  # fmt: skip
    return read_result(run.folder)


def _refuse_strangers(run: Run) -> None:
    """Episodes that were copied here would be counted as played here, whatever their seeds and policy."""
    episodes = run.folder / "trajectories.jsonl"
    if episodes.exists() and not run.has_begun(run.folder.name):
        raise ConfigError(
            f"{episodes} was not played by an evaluation into this folder, so it cannot stand for this one. "
            f"Choose another --out, or score them without playing: icto evaluate --from {episodes}"
        )


def _show(results: list[Result], command: EvaluateCommand) -> None:
    style = command.format or ("json" if len(results) == 1 else "table")
    if style == "table":
        print(side_by_side(results, command.metrics), end="")
        return
    shown = [result.summary() for result in results]
    print(json.dumps(shown[0] if len(shown) == 1 else shown, indent=2, sort_keys=True))


def _score_again(command: EvaluateCommand) -> None:
    if command.policy is not None:
        raise ConfigError(
            f"--from scores episodes that were played, so the policy {command.policy!r} has nothing to do."
        )
    results = [rescore(path, command.scoring, label=command.label) for path in command.from_]
    if command.out is not None:
        if len(results) > 1:
            raise ConfigError("--out holds one result; score the files one by one, or leave --out away to see them.")
        target = command.out / "metrics.json"
        if target.exists() or command.out.resolve() == command.from_[0].parent.resolve():
            raise ConfigError(f"{target} is or may be the result of playing. Choose another --out.")
        write_json(target, results[0].to_json())
    _show(results, command)


# ---- repeat -----------------------------------------------------------------------------------
def _repeat(command: EvaluateCommand) -> None:
    """Play a result again; exit code 1 where it does not come out the same."""
    assert command.repeat is not None
    before = read_result(command.repeat)
    config, decode = read_settings(before)
    _check_trust(command, before, config)
    options = {**dict(before.recipe.get("options") or {}), **command.policy_options}
    recipe = {**before.recipe, "options": options}
    old = command.repeat if command.repeat.is_dir() else command.repeat.parent
    player = named_player(command.policy, options) if command.policy else recorded_player(recipe, old)
    check_tasks(before, config)
    check_weights(before.recipe, weights_digest(player))
    player = replace(player, recipe=recipe)
    with _folder_for(command.out) as out, Run(out, redo=False) as run:
        after = _evaluate_into(run, player, config, before.label, decode, before.scoring)
        outcome = compare_repeat(before, after, old / "trajectories.jsonl", out / "trajectories.jsonl")
    print(outcome.words)
    if not outcome.matches:
        raise SystemExit(1)


def _check_trust(command: EvaluateCommand, before: Result, config: RolloutConfig) -> None:
    named = [] if command.trust else needs_trust(before, config, own_policy=command.policy is not None)
    if named:
        raise ConfigError(
            f"{command.repeat} asks to run {' and '.join(named)}. A file may come from anybody: if you know this one, "
            "say so with --trust."
        )


@contextmanager
def _folder_for(out: Path | None) -> Iterator[Path]:
    """Where a repeat is played: a folder to keep, or one that is gone afterwards; never one with a finished repeat."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="icto-repeat-") as folder:
            yield Path(folder)
    elif (out / "metrics.json").exists():
        raise ConfigError(
            f"{out} holds a finished evaluation, which would be read in place of playing. Choose another --out."
        )
    else:
        yield out


# ---- compare ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class CompareCommand:
    """Say whether b is better than a: paired by task, with a 95 % bootstrap interval over tasks, in words."""

    a: Annotated[Path, tyro.conf.Positional]
    """A result: metrics.json, its folder, or trajectories.jsonl (scored anew)."""
    b: Annotated[Path, tyro.conf.Positional]
    """Another on the same tasks."""
    metrics: tuple[str, ...] = MAIN
    """What is compared."""
    wanted: float | None = None
    """The difference you would like to see, for the number of tasks it takes; left out: 0.05 of a share, else a
    twentieth of a's value."""
    force: bool = False
    """Compare on the tasks they share although the results are of different tasks or scored otherwise."""
    format: Literal["words", "json"] = "words"
    """How the verdicts are printed."""


def compare(arguments: list[str]) -> None:
    """``icto compare``."""
    command = parse(CompareCommand, arguments, prog="icto compare", examples=COMPARE_EXAMPLES)
    if not command.metrics:
        raise ConfigError(f"Name at least one metric of {', '.join(METRICS)}.")
    a, b = _read_side(command.a), _read_side(command.b)
    names = ("a", "b") if a.label == b.label else (a.label, b.label)
    verdicts = compare_results(a, b, command.metrics, names=names, force=command.force, wanted=command.wanted)
    question, play = what_differs(a, b)
    if command.format == "json":
        shown = {"a": a.label, "b": b.label, "verdicts": [one.to_json() for one in verdicts]}
        print(json.dumps({**shown, "differs": [*question, *play]}, indent=2))
    else:
        print(_in_words(command, a, b, verdicts, question, play))


def _read_side(path: Path) -> Result:
    return rescore(path, Scoring()) if path.suffix == ".jsonl" else read_result(path)


def _in_words(
    command: CompareCommand, a: Result, b: Result, verdicts: list[Verdict], question: list[str], play: list[str]
) -> str:
    lines = [f"a: {a.label}, {a.split} ({command.a})", f"b: {b.label}, {b.split} ({command.b})"]
    lines += [one.words for one in verdicts]
    missing = [name for name in command.metrics if name not in {one.comparison.metric for one in verdicts}]
    lines += [f"{METRICS[name].title}: not known of both" for name in missing]
    if len(verdicts) > 1:
        lines.append(f"Of {len(verdicts)} comparisons at 95 %, each alone is wrong once in 20 times.")
    for title, found in (("Compared by force although these differ:", question), ("They also differ in:", play)):
        lines += [title, *(f"  {line}" for line in found)] if found else []
    return "\n".join(lines)
