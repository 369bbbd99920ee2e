"""DeepSpeed on two real processes: the losses of one process, states that fit any number of processes, kills."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from packages import installed
from safetensors.torch import load_file

from icto_gym.errors import ConfigError
from trainers.distributed import EngineConfig, launched

DRIVER = """
import json, math, os, signal, socket, sys
os.environ["DS_ACCELERATOR"] = "cpu"
from pathlib import Path
import torch, transformers, peft, deepspeed
sys.path.insert(0, sys.argv[1])
from conftest import make_pair, make_trajectory
from trainers import distributed
from trainers.distributed import EngineConfig, launched
from trainers.models import LoRAConfig, ModelConfig
from trainers.models.tiny import tiny_folder
from trainers.training import dpo, loop
from trainers.training.config import DPOConfig, PPOConfig, RewardConfig
from trainers.training.dpo import train_dpo
from trainers.training.ppo import train_ppo
from trainers.training.preference_reward import train_preference_reward
from trainers.training.reward import train_reward

torch.set_num_threads(1)
tiny_folder()

def spoil(what, at, rank):  # the first loss of one process at one step is NaN, or the gradient behind it
    ask, compute, place = loop.items_of_step, dpo.preference_loss, []
    def items_of_step(size, step, config):
        place.append(step)
        return ask(size, step, config)
    def preference_loss(*given):
        loss, metrics = compute(*given)
        if place[-1:] == [at] and distributed.rank() == rank:
            place.append(None)
            if what == "loss":
                return loss * math.nan, metrics
            loss = loss * 1.0
            loss.register_hook(lambda gradient: gradient * math.nan)
        return loss, metrics
    loop.items_of_step, dpo.preference_loss = items_of_step, preference_loss

def work(out, preset, die_at, *spoilt):
    if spoilt:
        spoil(*spoilt)
    lora = None if "full" in out else LoRAConfig(r=2, alpha=4)
    model = ModelConfig("tiny-random", lora=lora)
    common = dict(epochs=2, batch_size=4, save_every=1, learning_rate=5e-3, micro_batch_tokens=150)
    def log(record):
        with open(out + ".log", "a") as handle:
            handle.write(json.dumps(record) + "\\n")
        if record["step"] == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
    with launched(EngineConfig("deepspeed", preset) if preset else EngineConfig()):
        if "reward" in out:
            episodes = [make_trajectory(n) for n in range(8)]
            targets = {item.trajectory_id: [0.5] * len(item.steps) for item in episodes}
            train_reward(episodes, targets, model, RewardConfig(holdout=0.25, **common), Path(out), log=log)
        elif "early" in out:  # ends at step 3 of 4; only the first process knows what the probe says
            config = DPOConfig(probe_every=1, probe_metric="x", patience=2, **common)
            probe = lambda step, *_: {"x": -step}
            train_dpo([make_pair(n) for n in range(6)], model, config, Path(out), log=log, probe=probe)
        elif "ppo" in out:
            pairs = [make_pair(n) for n in range(6)]
            judge = train_preference_reward(pairs, model, RewardConfig(holdout=0.25, **common), Path(out + "-reward"))
            config = PPOConfig(iterations=2, rollout_size=8, max_new_tokens=4, **{**common, "learning_rate": 1e-3})
            train_ppo([pair.prompt for pair in pairs], judge, model, config, Path(out), log=log)
        else:
            train_dpo([make_pair(n) for n in range(6)], model, DPOConfig(**common), Path(out), log=log)

def attempt(out, preset, world, die_at=-1, *spoilt):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            if preset:
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world),
                                  MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
            try:
                work(out, preset, die_at, *spoilt)
                code = 0
            except BaseException:
                import traceback
                traceback.print_exc()
                code = 1
            sys.stderr.flush()
            os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]

for out, plans in json.loads(sys.argv[2]):
    codes = [attempt(out, *plan) for plan in plans]
    records = {}
    for line in open(out + ".log"):
        record = json.loads(line)
        records[record["step"]] = record
    kind = json.loads((Path(out) / "checkpoint" / "checkpoint.json").read_text())["kind"]
    left = sorted(path.name for path in Path(out).iterdir())
    print(json.dumps({"out": out, "codes": codes, "records": records, "kind": kind, "left": left}), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Every way through the same training, each in processes of its own, forked from one that has imported all."""
    installed("deepspeed", extra="deepspeed", note="it compiles when it is installed, after torch")
    base, here = tmp_path_factory.mktemp("zero"), Path(__file__).parent
    plans = {
        "one": [("", 1)],
        "zero1": [("zero1", 2)],
        "zero2": [("zero2", 2)],
        "zero3": [("zero3", 2)],
        "killed": [("zero2", 2, 2), ("zero3", 2, 3), ("", 1)],
        "killed-two": [("zero3", 2, 2), ("zero1", 2)],
        "zero2-offload": [("zero2-offload", 2, 2), ("zero2-offload", 1)],
        "zero3-offload": [("zero3-offload", 2, 2), ("zero3-offload", 2)],
        "spoilt": [("zero2", 2, -1, "loss", 1, 1), ("zero3", 2, -1, "gradient", 2, 0), ("", 1)],
        "full-one": [("", 1)],
        "full-zero1": [("zero1", 2, 2), ("zero1", 2)],
        "full-zero2": [("zero2", 2, 2), ("", 1)],
        "full-zero3": [("zero3", 2, 2), ("zero3", 2)],
        "reward-one": [("", 1)],
        "reward-zero3": [("zero3", 2)],
        "early-one": [("", 1)],
        "early-zero2": [("zero2", 2, 2), ("zero2", 2, 3), ("zero2", 2)],
        "ppo-one": [("", 1)],
        "ppo-zero2": [("zero2", 2)],
        "ppo-killed": [("zero1", 2, 3), ("zero2", 2)],
        "ppo-refused": [("zero3", 2), ("", 1)],
    }
    words = json.dumps([(str(base / name), plan) for name, plan in plans.items()])
    command = [sys.executable, "-W", "ignore", "-c", DRIVER, str(here), words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=here.parents[2], timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"out"')]
    return {Path(line["out"]).name: line for line in lines}, done.stderr


def assert_same_numbers(records, wanted):
    assert records.keys() == wanted.keys()
    for step, record in wanted.items():
        for name, value in record.items():
            if name not in ("train/seconds", "train/tokens"):  # a smaller row shares fewer tokens
                near = value if isinstance(value, str) else pytest.approx(value, rel=2e-3, abs=2e-4)
                assert records[step][name] == near, (step, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "alone"),
    [
        ("zero1", "one"),
        ("zero2", "one"),
        ("zero3", "one"),
        ("killed", "one"),
        ("killed-two", "one"),
        ("zero2-offload", "one"),
        ("zero3-offload", "one"),
        ("full-zero1", "full-one"),
        ("full-zero2", "full-one"),
        ("full-zero3", "full-one"),
        ("reward-zero3", "reward-one"),
        ("early-zero2", "early-one"),
        ("ppo-zero2", "ppo-one"),
        ("ppo-killed", "ppo-one"),
    ],
)
def test_two_processes_have_the_losses_of_one(outcomes, way, alone):
    found, log = outcomes
    assert way in found, log[-4000:]
    assert found[way]["codes"][-1] == [0] * len(found[way]["codes"][-1]), log[-4000:]
    assert_same_numbers(found[way]["records"], found[alone]["records"])
    assert (found[way]["kind"], found[way]["left"]) == (found[alone]["kind"], found[alone]["left"])


@pytest.mark.slow
def test_ppo_is_refused_where_the_weights_are_split(outcomes):
    found, log = outcomes
    assert all(found["ppo-refused"]["codes"][0]) and "as probes and PPO want it" in log


@pytest.mark.slow
def test_the_first_process_was_really_killed(outcomes):
    found, _ = outcomes
    assert [codes[0] for codes in found["killed"]["codes"]] == [-9, -9, 0]
    for way in ("killed-two", "zero2-offload", "zero3-offload", "full-zero1", "full-zero2", "full-zero3"):
        assert [codes[0] for codes in found[way]["codes"]] == [-9, 0], way
    assert [codes[0] for codes in found["early-zero2"]["codes"]] == [-9, -9, 0]


@pytest.mark.slow
def test_what_is_not_finite_in_one_process_stops_both_before_that_step_and_is_kept(outcomes):
    found, log = outcomes
    assert found["spoilt"]["codes"] == [[1, 1], [1, 1], [0]], log[-4000:]
    assert "The loss became nan at optimiser step 2" in log and "The gradient became inf at optimiser step 3" in log
    kept = {path.name: path for path in Path(found["spoilt"]["out"]).glob("nonfinite-*")}
    loss, first, second = (kept[f"nonfinite-step-00000{name}"] for name in ("2-process-1", "3", "3-process-1"))
    assert len(kept) == 3  # only the process whose loss it was has a batch of step 2 to show
    for folder, what in ((loss, "loss"), (first, "gradient"), (second, "gradient")):
        facts = json.loads((folder / "batch.json").read_text())
        assert facts["what"] == what and len(facts["items"]) in (2, 4)  # of both processes
        for file in folder.glob("*.safetensors"):
            assert {"tokens.input_ids", "weights", "chosen_reference"} <= load_file(file).keys()
    assert_same_numbers(found["spoilt"]["records"], found["one"]["records"])


@pytest.mark.slow
def test_all_processes_stop_early_at_the_same_step(outcomes):
    found, _ = outcomes
    records = found["early-zero2"]["records"]
    assert sorted(records) == ["0", "1", "2", "3"] and records["3"]["stopped_early"].startswith("at step 3 of 4: ")


def test_several_processes_without_deepspeed_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="--engine deepspeed"), launched(EngineConfig()):
        pass


@pytest.mark.parametrize("name", ["train_batch_size", "amp", "torch_autocast", "fp16", "optimizer"])
def test_a_file_of_settings_leaves_ours_alone(tmp_path, name):
    import torch

    installed("deepspeed", extra="deepspeed")
    from trainers.training.config import SFTConfig
    from trainers.training.deepspeed import deepspeed_settings

    file = tmp_path / "zero.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}, name: 4}))
    with pytest.raises(ConfigError, match=f"{name} follow from the training's own settings"):
        deepspeed_settings(str(file), SFTConfig(), torch.float32)


def test_an_unknown_engine_is_named():
    with pytest.raises(ConfigError, match="Did you mean 'deepspeed'"):
        EngineConfig("deepsped")


@pytest.mark.parametrize(("processes", "fails", "destroyed"), [(2, True, 0), (2, False, 1), (1, True, 1)])
def test_a_process_that_fails_does_not_wait_for_the_others_to_leave(monkeypatch, processes, fails, destroyed):
    import torch.distributed

    from trainers import distributed

    left: list[bool] = []
    monkeypatch.setattr(distributed, "_join", object)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: left.append(True))
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setenv("RANK", "0")
    with contextlib.suppress(ValueError), launched(EngineConfig("deepspeed")):
        if fails:
            raise ValueError("mine alone")
    assert len(left) == destroyed and distributed.engine() == EngineConfig()
