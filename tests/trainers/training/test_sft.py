"""Cloning with the tiny model: it learns, it records, it resumes, it refuses what it cannot do."""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file

from icto_gym.errors import ConfigError, DataError
from trainers.markers import MarkerConfig
from trainers.models import ModelConfig
from trainers.models.loading import load_model, read_checkpoint
from trainers.training import loop
from trainers.training.checkpoint import TrainingError
from trainers.training.config import SFTConfig
from trainers.training.sft import train_sft

CONFIG = SFTConfig(learning_rate=1e-2, epochs=3, batch_size=3, save_every=4)


def weights(checkpoint):
    return load_file(checkpoint / "adapter_model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def test_the_loss_falls_and_every_optimiser_step_is_logged(trajectories, tiny, tmp_path):
    log: list[dict] = []
    checkpoint = train_sft(trajectories, tiny, replace(CONFIG, epochs=3), tmp_path, log=log.append)
    assert [record["step"] for record in log] == list(range(1, 10))
    assert log[-1]["train/loss"] < log[0]["train/loss"] - 1
    assert {"train/learning_rate", "train/grad_norm", "train/tokens", "train/seconds"} <= log[0].keys()
    record = read_checkpoint(checkpoint)
    assert record["kind"] == "adapter"
    assert record["config"]["learning_rate"] == 1e-2
    assert len(record["data_digest"]) == len(record["weights_digest"]) == 64
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "training.json"]


def test_packing_changes_the_cost_and_not_the_result(trajectories, tiny, tmp_path):
    logs: dict[bool, list[dict]] = {True: [], False: []}
    for packing, log in logs.items():
        train_sft(trajectories, tiny, replace(CONFIG, packing=packing), tmp_path / str(packing), log=log.append)
    packed, plain = ([record["train/loss"] for record in log] for log in logs.values())
    assert packed == pytest.approx(plain, rel=1e-3)
    assert logs[True][0]["train/tokens"] < 0.9 * logs[False][0]["train/tokens"]
    assert logs[True][0]["train/scored_tokens"] == logs[False][0]["train/scored_tokens"]


def test_splitting_a_step_into_micro_batches_changes_nothing(trajectories, tiny, tmp_path):
    logs: dict[int, list[dict]] = {100_000: [], 60: []}
    for limit, log in logs.items():
        config = replace(CONFIG, micro_batch_tokens=limit)
        train_sft(trajectories, tiny, config, tmp_path / str(limit), log=log.append)
    whole, split = ([record["train/loss"] for record in log] for log in logs.values())
    assert whole == pytest.approx(split, rel=1e-3)


def test_of_an_episode_taken_up_again_only_what_came_of_it_is_trained(trajectories, tiny, tmp_path):
    whole = max(trajectories, key=lambda item: len(item.steps))
    again = replace(whole, extra={"retried_step": len(whole.steps) - 1})
    last = replace(whole, steps=whole.steps[-1:])
    scored, seen = {}, {}
    for name, item in (("whole", whole), ("again", again), ("last", last)):
        log: list[dict] = []
        checkpoint = train_sft([item], tiny, replace(CONFIG, epochs=1), tmp_path / name, log=log.append)
        scored[name], seen[name] = log[0]["train/scored_tokens"], read_checkpoint(checkpoint)["data_digest"]
    assert len(whole.steps) > 1 and scored["again"] == scored["last"] < scored["whole"]
    assert seen["again"] != seen["whole"]  # or a training of the one would be taken for one of the other
    first = replace(whole, extra={"retried_step": 0})
    log = []
    train_sft([first], tiny, replace(CONFIG, epochs=1), tmp_path / "first", log=log.append)
    assert log[0]["train/scored_tokens"] == scored["whole"]


def test_activation_checkpointing_changes_nothing(trajectories, tiny, tmp_path):
    configs = [replace(CONFIG, epochs=1, activation_checkpointing=on) for on in (False, True)]
    results = [weights(train_sft(trajectories, tiny, config, tmp_path / str(n))) for n, config in enumerate(configs)]
    for name, value in results[0].items():
        assert torch.allclose(value, results[1][name], atol=1e-4), name


def test_making_activations_again_changes_nothing(trajectories, tiny, tmp_path):
    configs = [replace(CONFIG, epochs=1, remake_activations=on) for on in (False, True)]
    results = [weights(train_sft(trajectories, tiny, config, tmp_path / str(n))) for n, config in enumerate(configs)]
    assert same(*results)


def test_products_in_bfloat16_train_nearly_the_same_weights(trajectories, tiny, tmp_path):
    logs: dict[str | None, list[dict]] = {None: [], "bfloat16": []}
    exact, mixed = (
        weights(
            train_sft(trajectories, tiny, replace(CONFIG, mixed_precision=dtype), tmp_path / str(dtype), log=log.append)
        )
        for dtype, log in logs.items()
    )
    assert not same(exact, mixed) and all(value.dtype == torch.float32 for value in mixed.values())
    losses = [[line["train/loss"] for line in log] for log in logs.values()]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_a_stopped_training_goes_on_to_the_same_weights_and_numbers(trajectories, tiny, tmp_path, monkeypatch):
    tiny = replace(tiny, lora=replace(tiny.lora, dropout=0.2))
    straight: list[dict] = []
    whole = train_sft(trajectories, tiny, CONFIG, tmp_path / "whole", log=straight.append)

    resumed: dict[int, dict] = {}

    def stop_once(record):
        resumed[record["step"]] = record
        if record["step"] == 6 and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_sft(trajectories, tiny, CONFIG, tmp_path / "again", log=stop_once)
    again = train_sft(trajectories, tiny, CONFIG, tmp_path / "again", log=stop_once)
    assert same(weights(whole), weights(again))
    numbers = [
        [(record["train/loss"], record["train/grad_norm"], record["train/learning_rate"]) for record in records]
        for records in (straight, resumed.values())
    ]
    assert numbers[0] == numbers[1]


def test_a_complete_training_is_not_done_again(trajectories, tiny, tmp_path):
    first = train_sft(trajectories, tiny, CONFIG, tmp_path)
    log: list[dict] = []
    assert train_sft(trajectories, tiny, CONFIG, tmp_path, log=log.append) == first
    assert log == []


def test_episodes_with_markers_want_a_checkpoint_that_remembers_them(trajectories, tiny, tmp_path):
    known = MarkerConfig()
    marked = [replace(item, extra={"marker": asdict(known.best)}) for item in trajectories[:2]]
    with pytest.raises(DataError, match=r"expert#0' carries the marker '\[Correct\]', and no markers are known"):
        train_sft(marked, tiny, CONFIG, tmp_path)
    folder = train_sft(marked, tiny, replace(CONFIG, epochs=1), tmp_path, markers=known)
    assert read_checkpoint(folder)["markers"]["markers"][0] == "[Correct]"


def test_a_folder_with_another_training_is_refused_naming_what_differs(trajectories, tiny, tmp_path):
    train_sft(trajectories, tiny, CONFIG, tmp_path)
    with pytest.raises(ConfigError, match="setting learning_rate"):
        train_sft(trajectories, tiny, replace(CONFIG, learning_rate=1e-3), tmp_path)
    with pytest.raises(ConfigError, match="data_digest"):
        train_sft(trajectories[:-1], tiny, CONFIG, tmp_path)
    train_sft(trajectories, tiny, replace(CONFIG, save_every=1), tmp_path)


def test_the_best_probe_decides_which_weights_are_kept(trajectories, tiny, tmp_path):
    scores = {3: 0.2, 6: 0.5, 9: 0.1}
    seen: dict[int, dict] = {}

    def probe(step, model, tokenizer):
        seen[step] = {k: v.detach().clone() for k, v in model.state_dict().items() if "lora" in k}
        torch.rand(3)  # a probe that draws must not disturb training
        return {"dev/success_rate": scores[step], "dev/mean_actions": 3}

    config = replace(CONFIG, probe_every=3, probe_metric="dev/success_rate")
    checkpoint = train_sft(trajectories, tiny, config, tmp_path, probe=probe)
    kept = weights(checkpoint)
    assert all(torch.equal(value, seen[6][key.replace(".weight", ".default.weight")]) for key, value in kept.items())
    assert read_checkpoint(checkpoint)["step"] == 6
    lines = [json.loads(line) for line in (tmp_path / "probes.jsonl").read_text().splitlines()]
    assert [(line["step"], line["dev/success_rate"]) for line in lines] == [(3, 0.2), (6, 0.5), (9, 0.1)]
    undisturbed = train_sft(trajectories, tiny, CONFIG, tmp_path / "plain")
    assert all(
        torch.equal(value, seen[9][key.replace(".weight", ".default.weight")])
        for key, value in weights(undisturbed).items()
    )


def test_of_equal_probes_the_later_is_kept_and_a_start_that_is_best_too(trajectories, tiny, tmp_path):
    config = replace(CONFIG, probe_every=3, probe_at_start=True, probe_metric="x")
    equal = train_sft(trajectories, tiny, config, tmp_path / "equal", probe=lambda *_: {"x": 0.5})
    assert read_checkpoint(equal)["step"] == 9
    worse = train_sft(trajectories, tiny, config, tmp_path / "worse", probe=lambda step, *_: {"x": -step})
    assert read_checkpoint(worse)["step"] == 0
    numbers = {0: math.nan, 3: 0.1, 6: math.nan, 9: math.nan}
    broken = train_sft(trajectories, tiny, config, tmp_path / "nan", probe=lambda step, *_: {"x": numbers[step]})
    assert read_checkpoint(broken)["step"] == 3


def test_an_unknown_probe_metric_is_named(trajectories, tiny, tmp_path):
    config = replace(CONFIG, probe_metric="dev/sucess_rate")
    with pytest.raises(ConfigError, match="Did you mean 'dev/success_rate'"):
        train_sft(trajectories, tiny, config, tmp_path, probe=lambda *_: {"dev/success_rate": 0.0})


def test_all_weights_can_be_trained(trajectories, tmp_path):
    checkpoint = train_sft(trajectories, ModelConfig(name="tiny-random", lora=None), CONFIG, tmp_path)
    assert read_checkpoint(checkpoint)["kind"] == "full"
    changed = load_model(checkpoint).model.state_dict()
    original = load_model("tiny-random").model.state_dict()
    assert not any(torch.equal(changed[key], value) for key, value in original.items() if "proj" in key)


def test_a_chain_of_full_checkpoints_names_the_model_it_began_with_and_no_folder(trajectories, tmp_path):
    whole = ModelConfig(name="tiny-random", lora=None)
    first = train_sft(trajectories, whole, CONFIG, tmp_path / "one")
    second = train_sft(trajectories, replace(whole, name=str(first)), CONFIG, tmp_path / "two")
    assert read_checkpoint(second)["model"]["name"] == "tiny-random"
    assert str(tmp_path) not in (second / "checkpoint.json").read_text()
    again = load_model(second).model.state_dict()
    assert not all(torch.equal(again[key], value) for key, value in load_model(first).model.state_dict().items())


def test_an_adapter_goes_on_learning_from_a_checkpoint(trajectories, tiny, tmp_path):
    first = train_sft(trajectories, tiny, CONFIG, tmp_path / "one")
    log: list[dict] = []
    second = train_sft(trajectories, first, CONFIG, tmp_path / "two", log=log.append)
    assert read_checkpoint(second)["model"] == read_checkpoint(first)["model"]
    assert read_checkpoint(second)["start"]["weights"] == read_checkpoint(first)["weights_digest"]
    straight: list[dict] = []
    train_sft(trajectories, tiny, CONFIG, tmp_path / "three", log=straight.append)
    assert log[0]["train/loss"] < straight[0]["train/loss"] - 0.2


def test_a_loss_that_is_not_finite_stops_and_keeps_the_batch(trajectories, tiny, tmp_path, monkeypatch):
    from trainers.training import sft

    def broken(model, batch):
        loss, metrics = cloning(model, batch)
        return loss * (math.nan if len(calls) == 2 else 1.0), (calls.append(1) or metrics)

    cloning, calls = sft.cloning_loss, []
    monkeypatch.setattr(sft, "cloning_loss", broken)
    with pytest.raises(TrainingError, match="loss became nan at optimiser step 3"):
        train_sft(trajectories, tiny, CONFIG, tmp_path)
    kept = tmp_path / "nonfinite-step-000003"
    facts = json.loads((kept / "batch.json").read_text())
    assert facts["items"] and all(item.startswith("shop/") for item in facts["items"])
    assert load_file(kept / "batch.safetensors")["input_ids"].numel() > 0


def test_a_gradient_that_is_not_finite_stops_and_keeps_every_batch_of_the_step(
    trajectories, tiny, tmp_path, monkeypatch
):
    from trainers.training import sft

    def broken(model, batch):
        loss, metrics = cloning(model, batch)
        read.append(batch.input_ids)
        if len(read) == 1:  # a finite loss whose gradient is not
            loss = loss * 1.0
            loss.register_hook(lambda gradient: gradient * math.inf)
        return loss, metrics

    cloning, read = sft.cloning_loss, []
    monkeypatch.setattr(sft, "cloning_loss", broken)
    with pytest.raises(TrainingError, match=r"gradient became (nan|inf) at optimiser step 1"):
        train_sft(trajectories, tiny, replace(CONFIG, batch_size=4, micro_batch_tokens=120), tmp_path)
    kept = sorted((tmp_path / "nonfinite-step-000001").glob("batch-*.safetensors"))
    assert len(kept) == len(read) > 1
    assert all(torch.equal(load_file(file)["input_ids"], ids) for file, ids in zip(kept, read, strict=True))
    assert len(json.loads((kept[0].parent / "batch.json").read_text())["items"]) == 4


def test_too_long_conversations_are_cut_and_counted_and_empty_ones_dropped(trajectories, tiny, tmp_path):
    config = replace(CONFIG, epochs=1, max_length=92)
    counts = read_checkpoint(train_sft(trajectories, tiny, config, tmp_path / "cut"))["data"]
    assert counts == {"truncated": 8, "trajectories": 5, "dropped": 3}
    with pytest.raises(DataError, match="max_length 20"):
        train_sft(trajectories, tiny, replace(config, max_length=20), tmp_path / "none")


def test_every_epoch_sees_each_item_once_in_its_own_order():
    config = SFTConfig(batch_size=4, seed=5)
    epochs = [[loop.items_of_step(10, step, config) for step in range(first, first + 3)] for first in (0, 3)]
    for epoch in epochs:
        assert sorted(item for items in epoch for item in items) == list(range(10))
        assert [len(items) for items in epoch] == [4, 4, 2]
    assert epochs[0] != epochs[1]
    assert loop.total_steps(10, replace(config, epochs=1.5)) == 5
