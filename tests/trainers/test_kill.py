"""Killed with -9 at any moment, the same command resumes, loses no finished episode, and ends the same.

One interpreter imports torch once and forks a child per attempt; each child is a process of its own that
runs ``icto run icto`` and dies by a real SIGKILL: at a moment drawn by the clock, or within a file operation
(just before a rename, in the middle of a write) that is drawn, or the n-th one of a named stage.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from episodes import terse_demonstrations

from trainers.config import merged
from trainers.records import write_records

CONFIG = """
seed: 3
iterations: 1
model: {name: tiny-random, lora: {r: 4, alpha: 8}}
rollout: {env_id: "icto_gym.testing:Scripted-v0", max_tasks: 4, attempts: 2, batch_size: 3, max_episode_steps: 3}
acting: {max_new_tokens: 10, batch_size: 3}
demonstrations: {max_tasks: 6}
sft: {epochs: 1, batch_size: 2, save_every: 1, probe_every: 2}
dpo: {epochs: 1, batch_size: 2, save_every: 2, probe_every: 3, probe_at_start: true}
probe: {tasks: 2}
evaluation: {max_tasks: 2, final_max_tasks: 3}
"""

DRIVER = """
import json, os, random, signal, sys, time
import torch, transformers, peft  # once, for all children
import trainers.training.dpo, trainers.training.ppo, trainers.training.sft, trainers.policies.hf, trainers.methods.icto
from trainers.cli import main

config, method = sys.argv[1], sys.argv[3]
torch.set_num_threads(1)

def die_within(operation, begun=None):
    counted = 0
    def counting(real, half):
        def call(*arguments, **options):
            nonlocal counted
            counted += begun is None or os.path.exists(begun)
            if counted == operation:
                if half:  # a torn write: half of the bytes arrive
                    descriptor, data = arguments
                    real(descriptor, bytes(data)[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)
        return call
    os.replace, os.fsync, os.rename = (counting(f, False) for f in (os.replace, os.fsync, os.rename))
    os.write = counting(os.write, True)

def attempt(folder, plan):
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)  # its results beside its log: standard output is ours
        if plan and plan[0] == "operation":
            die_within(plan[1])
        elif plan and plan[0] != "clock":  # a stage: its operations count while it is under way
            die_within(plan[1], f"{folder}/stages/{plan[0]}.started.json")
        os._exit(main(["run", method, "--config", config, "--run", folder]))
    if plan and plan[0] == "clock":
        time.sleep(plan[1])
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

for folder, plans in json.loads(sys.argv[2]):
    for plan in [*plans, None]:
        code = attempt(folder, plan)
        print(json.dumps({"folder": folder, "plan": plan, "code": code}), flush=True)
        sys.stdin.readline()  # the test looks at the folder in between
        if code == 0:
            break
"""


def episodes(folder: Path) -> set[tuple[str, str]]:
    """(file, trajectory id) of every whole line in every file of trajectories."""
    found = set()
    for path in folder.rglob("*.jsonl"):
        if path.name in ("trajectories.jsonl", "demonstrations.jsonl", "attempts.jsonl"):
            lines = path.read_bytes().splitlines(keepends=True)
            found |= {(str(path), json.loads(line)["trajectory_id"]) for line in lines if line.endswith(b"\n")}
    return found


def outcome(folder: Path) -> dict[str, object]:
    """Everything a run leaves that does not tell the time."""
    left: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or name.startswith((".", "stages/", "report")) or path.suffix == ".torn":
            continue
        left[name] = path.read_bytes()
        if name == "budget.json":
            left[name] = _without_seconds(json.loads(path.read_text()))
        if path.name == "adapter_config.json":  # peft writes a set in it, in any order
            settings = json.loads(path.read_text())
            left[name] = {**settings, "target_modules": sorted(settings["target_modules"])}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    left["metrics.jsonl"] = [{k: v for k, v in line.items() if not k.endswith("seconds")} for line in lines]
    return left


def _without_seconds(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {key: _without_seconds(item) for key, item in value.items() if not key.endswith("seconds")}


def assert_same_end(killed: Path, quiet: Path) -> None:
    """The same files with the same bytes, in short: the same episodes, pairs, weights and numbers."""
    expected, found = outcome(quiet), outcome(killed)
    assert sorted(found) == sorted(expected)
    for name in expected:
        assert found[name] == expected[name], name


def drive(
    config: Path, runs: list[tuple[Path, list[tuple[str, float]]]], method: str = "icto"
) -> dict[Path, list[int]]:
    """Run the command to its end in each folder, through the given kills; returns all exit codes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["PYTHONHASHSEED"] = "0"  # peft writes a set, whose order else differs from interpreter to interpreter
    words = [sys.executable, "-c", DRIVER, str(config), json.dumps([(str(folder), plans) for folder, plans in runs])]
    words.append(method)
    log = config.with_suffix(".log")
    codes: dict[Path, list[int]] = {folder: [] for folder, _ in runs}
    kept: set[tuple[str, str]] = set()
    with (
        open(log, "w") as err,
        subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, text=True, env=environment
        ) as driver,
    ):
        for line in driver.stdout:
            folder = Path(json.loads(line)["folder"])
            codes[folder].append(json.loads(line)["code"])
            now = episodes(folder)
            lost = {entry for entry in kept if Path(entry[0]).is_relative_to(folder)} - now
            assert not lost, f"lost {sorted(lost)} at {line}"
            kept |= now
            driver.stdin.write("\n")
            driver.stdin.flush()
    assert all(found and found[-1] == 0 for found in codes.values()), f"{codes}\n{log.read_text()[-4000:]}"
    return codes


@pytest.mark.slow
def test_a_run_killed_many_times_ends_as_if_nothing_had_happened(tmp_path):
    draw = random.Random(0)
    plans: list[tuple[str, float]] = [("clock", draw.uniform(0.05, 1.5)) for _ in range(5)]
    plans += [("operation", draw.randint(1, 40)) for _ in range(9)]
    draw.shuffle(plans)
    (tmp_path / "config.yaml").write_text(CONFIG)
    quiet, killed = tmp_path / "undisturbed", tmp_path / "killed"
    codes = drive(tmp_path / "config.yaml", [(quiet, []), (killed, plans)])
    assert codes[quiet] == [0]
    assert codes[killed].count(-9) >= 5, codes
    assert_same_end(killed, quiet)


OTHERS = {
    "ipr": """
iterations: 1
monte_carlo: {samples: 2}
dpo: {epochs: 1, batch_size: 2, save_every: 1}
""",
    "rlcd": """
pairing: {agreement_pairs: 2}
dpo: {epochs: 1, batch_size: 4, save_every: 1}
""",
    "rlcd rm_ppo": """
objective: rm_ppo
model: {name: tiny-random, lora: null}
acting: {max_new_tokens: 12, batch_size: 3}
rollout: {max_tasks: 4, max_episode_steps: 6}
demonstrations: {file: DEMONSTRATIONS}
sft: {epochs: 40, batch_size: 2, save_every: 40, learning_rate: 0.003}
pairing: {agreement_pairs: 0}
reward: {epochs: 1, batch_size: 4, save_every: 1, learning_rate: 0.003}
ppo: {iterations: 2, rollout_size: 4, batch_size: 2, epochs: 2, max_new_tokens: 6, save_every: 3, learning_rate: 0.003}
""",
    "nat": "",
}
COMMON = """
seed: 3
model: {name: tiny-random, lora: {r: 4, alpha: 8}}
rollout: {env_id: "icto_gym.testing:Scripted-v0", max_tasks: 3, batch_size: 3, max_episode_steps: 3}
acting: {max_new_tokens: 6, batch_size: 3}
demonstrations: {max_tasks: 3}
sft: {epochs: 1, batch_size: 2, save_every: 1}
probe: {tasks: 0}
evaluation: {max_tasks: 1, final_max_tasks: 1, base: false}
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", OTHERS)
def test_every_method_ends_as_if_nothing_had_happened(tmp_path, method):
    draw = random.Random(method)
    plans: list[tuple[str, float]] = [("operation", draw.randint(3, 40)) for _ in range(4)]
    if method == "rlcd rm_ppo":  # to its latest stages
        plans = [("iteration-01.reward", 9), ("iteration-01.ppo", 14), ("iteration-01.ppo", 8), *plans]
    settings = merged(yaml.safe_load(COMMON), yaml.safe_load(OTHERS[method]) or {})
    if "file" in settings["demonstrations"]:
        write_records(tmp_path / "terse.jsonl", terse_demonstrations())
        settings["demonstrations"] = {"file": str(tmp_path / "terse.jsonl")}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    quiet, killed, name = tmp_path / "undisturbed", tmp_path / "run", method.partition(" ")[0]
    drive(tmp_path / "config.yaml", [(killed, [])], name)
    killed.rename(quiet)  # one place for both: all weights of a start are named by their folder in what follows
    codes = drive(tmp_path / "config.yaml", [(killed, plans)], name)
    assert codes[killed].count(-9) >= 2, codes
    if method == "rlcd rm_ppo":
        assert "iteration-01/ppo: continues" in (tmp_path / "config.log").read_text()
    assert_same_end(killed, quiet)


PLACES: dict[str, tuple[str, list[tuple[str, float]]]] = {
    "rft": (
        "{iterations: 2, success_threshold: 0.0}",
        [
            ("iteration-01.trajectories", 3), ("iteration-01.successes", 2), ("iteration-01.sft", 6),
            ("iteration-02.trajectories", 4), ("iteration-02.successes", 1), ("iteration-02.sft", 9),
        ],
    ),
    "eto": (
        "{iterations: 2, learning_rates: [1.0e-3], dpo: {epochs: 2, batch_size: 2, save_every: 1, probe_every: 2}}",
        [
            ("iteration-01.trajectories", 3), ("iteration-01.pairs", 2), ("iteration-01.dpo", 7),
            ("iteration-02.trajectories", 5), ("iteration-02.dpo", 12), ("iteration-02.dpo", 5),
        ],
    ),
    "best_of_n": (
        "{samples: 4}",
        [
            ("sft", 6), ("evaluation.best-of-4.test", 3), ("evaluation.best-of-4.test", 5),
            ("evaluation.best-of-4.test", 7),
        ],
    ),
}  # fmt: skip
"""By method: what it is told beside COMMON, and (stage, n): where it is killed, time after time."""


@pytest.mark.slow
@pytest.mark.parametrize("method", PLACES)
def test_a_method_killed_within_exploring_and_training_ends_as_if_nothing_had_happened(tmp_path, method):
    settings, plans = PLACES[method]
    config = {**yaml.safe_load(COMMON), "probe": {"tasks": 1}, **yaml.safe_load(settings)}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    quiet, killed = tmp_path / "undisturbed", tmp_path / "killed"
    codes = drive(tmp_path / "config.yaml", [(quiet, []), (killed, plans)], method)
    assert codes[killed] == [-9] * len(plans) + [0]
    assert_same_end(killed, quiet)
