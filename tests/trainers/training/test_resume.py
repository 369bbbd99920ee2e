"""Training killed with SIGKILL in the middle of its file operations ends as if nothing had happened."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = """
import json, os, signal, sys
from dataclasses import replace
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from conftest import make_pair, make_trajectory
from trainers.models import LoRAConfig, ModelConfig
from trainers.training.config import DPOConfig, PPOConfig, RewardConfig, SFTConfig
import trainers.training.dpo, trainers.training.ppo, trainers.training.preference_reward, trainers.training.sft
import trainers.training.loop, peft, transformers
from trainers.models.tiny import tiny_folder

torch.set_num_threads(1)
tiny_folder()

def work(out, die_at):
    count = 0
    def dying(real):
        def call(*arguments, **options):
            nonlocal count
            count += 1
            if count == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)
        return call
    os.replace, os.rename, os.fsync, os.unlink = (dying(f) for f in (os.replace, os.rename, os.fsync, os.unlink))
    trainers.training.loop.torch.manual_seed = dying(torch.manual_seed)  # also between file operations: at every step
    def log_of(name):
        def log(record):
            with open(out + ".log", "a") as handle:
                handle.write(json.dumps({"training": name, **record}) + "\\n")
        return log
    model = ModelConfig("tiny-random", lora=LoRAConfig(r=2, alpha=4, dropout=0.1))
    common = dict(batch_size=2, save_every=2, probe_every=3, probe_metric="x", learning_rate=5e-3)
    sft = trainers.training.sft.train_sft(
        [make_trajectory(n) for n in range(6)], model, SFTConfig(epochs=1, **common), Path(out) / "sft",
        log=log_of("sft"), probe=lambda step, *_: {"x": float(step == 3)},
    )
    trainers.training.dpo.train_dpo(
        [make_pair(n) for n in range(4)], sft,
        DPOConfig(epochs=4, **{**common, "probe_every": 2, "patience": 1}), Path(out) / "dpo",
        log=log_of("dpo"),
        probe=lambda step, *_: {"x": 1.0 if step < 5 else 0.5},  # ends at step 6 of 8 with the weights of 4
    )
    pairs = [make_pair(n) for n in range(4)]
    reward = trainers.training.preference_reward.train_preference_reward(
        pairs, sft, RewardConfig(holdout=0.25, batch_size=2, save_every=2, learning_rate=5e-3), Path(out) / "reward",
        log=log_of("reward"),
    )
    trainers.training.ppo.train_ppo(
        [pair.prompt for pair in pairs], reward, sft,
        PPOConfig(iterations=3, rollout_size=4, epochs=2, max_new_tokens=4, **common), Path(out) / "ppo",
        log=log_of("ppo"), probe=lambda step, *_: {"x": 1.0},
    )

def attempt(out, die_at):
    child = os.fork()
    if child == 0:
        try:
            work(out, die_at)
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def summary(out):
    records = {}
    for line in open(out + ".log"):
        record = json.loads(line)
        record.pop("train/seconds", None)
        key = f"{record['training']}/{record['step']}"
        assert records.setdefault(key, record) == record, (records[key], record)
    digests = {
        name: json.loads((Path(out) / name / "checkpoint" / "checkpoint.json").read_text())["weights_digest"]
        for name in ("sft", "dpo", "reward", "ppo")
    }
    probes = [(Path(out) / name / "probes.jsonl").read_text() for name in ("sft", "dpo", "ppo")]
    left = sorted(str(path.relative_to(out)) for path in Path(out).glob("*/*"))
    record = json.loads((Path(out) / "dpo" / "checkpoint" / "checkpoint.json").read_text())
    early = [record["step"], record["stopped_early"]]
    return {"records": records, "digests": digests, "probes": probes, "left": left, "early": early}

base = sys.argv[2]
assert attempt(base + "/straight", 0) == 0
killed = {}
for first in json.loads(sys.argv[3]):
    out = f"{base}/killed-{first}"
    deaths, die_at = 0, first
    while (code := attempt(out, die_at)) == -9:
        deaths += 1
        die_at = first + 5 * deaths  # later each time, so that every attempt gets further
    assert code == 0, code
    killed[first] = {"deaths": deaths, **summary(out)}
print(json.dumps({"straight": summary(base + "/straight"), "killed": killed}))
"""


@pytest.mark.slow
def test_training_killed_many_times_ends_with_the_same_weights_and_numbers(tmp_path):
    here = Path(__file__).parent
    command = [sys.executable, "-c", DRIVER, str(here), str(tmp_path), json.dumps([3, 10])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=here.parents[2], timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["straight"]["early"][0] == 4 and result["straight"]["early"][1].startswith("at step 6 of 8")
    for first, outcome in result["killed"].items():
        assert outcome["deaths"] >= 2, first
        for key, value in result["straight"].items():
            assert outcome[key] == value, (first, key)
