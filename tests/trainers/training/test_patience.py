"""Training that stops when its probes bring no new best: where, with which weights, and what it leaves on record."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from icto_gym.errors import ConfigError
from trainers.methods.common import MethodConfig, check_watched
from trainers.models.loading import read_checkpoint
from trainers.training.config import DPOConfig, OptimizerConfig, RewardConfig, SFTConfig
from trainers.training.dpo import train_dpo
from trainers.training.loop import best_probe, stopped_early
from trainers.training.sft import train_sft

SFT = SFTConfig(learning_rate=1e-2, epochs=4, batch_size=3, probe_every=2, probe_metric="x", patience=2)
SCORES = {2: 0.1, 4: 0.4, 6: 0.4, 8: 0.3, 10: 0.2, 12: 0.9}


def probes(*values, every=5):
    return [{"step": every * (place + 1), "x": value} for place, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "patience", "stops"),
    [
        ((0.5, 0.4), 2, False),
        ((0.5, 0.4, 0.3), 2, True),
        ((0.5, 0.4, 0.5, 0.4), 2, False),  # an equal one is a new best
        ((0.0, 0.0, 0.0, 0.0), 1, False),
        ((0.5, 0.4, 0.3, 0.2, 0.1), 0, False),
        ((0.5, math.nan), 1, True),
        ((math.nan, 0.1), 1, False),
        ((), 1, False),
    ],
)
def test_the_probes_alone_say_when_to_stop(values, patience, stops):
    config = OptimizerConfig(probe_every=5, probe_metric="x", patience=patience)
    assert bool(stopped_early(probes(*values), config, 40)) is stops


def test_the_reason_is_said_in_words_and_the_end_is_no_early_stop():
    config = OptimizerConfig(probe_every=5, probe_metric="x", patience=2)
    said = stopped_early(probes(0.25, 0.5, 0.0, 0.25), config, 40)
    assert said == "at step 20 of 40: 2 probes in a row brought no new best x (0.5 at step 10)"
    assert stopped_early(probes(0.25, 0.5, 0.0, 0.25), config, 20) == ""
    assert best_probe(probes(0.5, 0.2, 0.5, 0.1), "x") == 2
    assert best_probe(probes(0.7074999999999997, 0.7, 0.7074999999999996), "x") == 2  # of one mean, in another order
    assert best_probe(probes(math.nan, math.nan), "x") == 1


def test_of_equals_the_better_rewarded_is_best():
    rewards = (0.1, 0.4, 0.4 - 1e-12, 0.2)
    looks = [{**look, "dev/average_reward": reward} for look, reward in zip(probes(0, 0, 0, 0), rewards, strict=True)]
    assert best_probe(looks, "x") == 2
    assert best_probe([*looks, {"step": 9, "x": 0.1, "dev/average_reward": 0.0}], "x") == 4


def test_cloning_stops_after_its_patience_with_the_best_weights(trajectories, tiny, tmp_path, caplog):
    log: list[dict] = []
    seen: dict[int, dict] = {}

    def probe(step, model, tokenizer):
        seen[step] = {key: value.detach().clone() for key, value in model.state_dict().items() if "lora" in key}
        return {"x": SCORES[step]}

    with caplog.at_level("INFO"):
        checkpoint = train_sft(trajectories, tiny, SFT, tmp_path, log=log.append, probe=probe)
    said = "at step 10 of 12: 2 probes in a row brought no new best x (0.4 at step 6)"
    assert [record["step"] for record in log] == list(range(1, 11)) and list(seen) == [2, 4, 6, 8, 10]
    assert log[-1]["stopped_early"] == said and not any("stopped_early" in record for record in log[:-1])
    assert f"stopped early {said}" in caplog.messages
    record = read_checkpoint(checkpoint)
    assert record["stopped_early"] == said and record["step"] == 6
    kept = load_file(checkpoint / "adapter_model.safetensors")
    assert all(torch.equal(value, seen[6][key.replace(".weight", ".default.weight")]) for key, value in kept.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "probes.jsonl", "training.json"]
    assert [json.loads(line)["step"] for line in (tmp_path / "probes.jsonl").read_text().splitlines()] == list(seen)


def test_patience_changes_nothing_before_it_ends(trajectories, tiny, tmp_path):
    logs: dict[int, list[dict]] = {0: [], 2: []}
    for patience, log in logs.items():
        config = replace(SFT, patience=patience)
        train_sft(trajectories, tiny, config, tmp_path / str(patience), log=log.append, probe=lambda s, *_: {"x": -s})
    whole, short = ([record["train/loss"] for record in log] for log in logs.values())
    assert len(whole) == 12 and len(short) == 6 and short == whole[:6]


def test_preference_training_that_stops_early_still_measures_its_end(pairs, tiny, tmp_path):
    log: list[dict] = []
    config = DPOConfig(
        epochs=4, batch_size=3, holdout=0, probe_every=1, probe_metric="x", probe_at_start=True, patience=2
    )
    checkpoint = train_dpo(pairs, tiny, config, tmp_path, log=log.append, probe=lambda step, *_: {"x": -step})
    assert [record["step"] for record in log] == [0, 1, 2] and read_checkpoint(checkpoint)["step"] == 0
    assert log[-1]["stopped_early"].startswith("at step 2 of 8: 2 probes") and "pairs/reward_accuracy" in log[-1]


def test_patience_that_nothing_can_exhaust_is_refused(trajectories, pairs, tiny, tmp_path):
    with pytest.raises(ConfigError, match="patience is -1; it must not be below 0"):
        OptimizerConfig(patience=-1, probe_every=5)
    with pytest.raises(ConfigError, match=r"patience is 3, but probe_every is 0.*Give probe_every"):
        DPOConfig(patience=3)
    with pytest.raises(ConfigError, match="no probe watches a reward model"):
        RewardConfig(patience=3, probe_every=5)
    with pytest.raises(ConfigError, match="give the trainer a probe"):
        train_sft(trajectories, tiny, SFT, tmp_path / "sft")
    with pytest.raises(ConfigError, match="give the trainer a probe"):
        train_dpo(pairs, tiny, DPOConfig(patience=3, probe_every=5), tmp_path / "dpo")
    assert not list(tmp_path.iterdir())


def test_a_run_that_watches_no_training_refuses_patience_before_any_work():
    method = MethodConfig(sft=replace(SFT, probe_metric="dev/success_rate"))
    check_watched(method)
    with pytest.raises(ConfigError, match=r"sft\.patience is 2, but probe\.tasks is 0"):
        check_watched(replace(method, probe=replace(method.probe, tasks=0)))
