"""What breaks preference training is kept whole: every tensor of every pair, and who saw whom, as the model read it."""

import json
import math
from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from safetensors.torch import load_file

from trainers.packing import SegmentMap
from trainers.training import dpo
from trainers.training.checkpoint import TrainingError
from trainers.training.config import DPOConfig

CONFIG = DPOConfig(learning_rate=3e-3, epochs=2, batch_size=4, save_every=1)


def tensors(batch, place=""):
    """Every tensor of a batch by its place, whatever it is nested in."""
    found = {}
    for name in (field.name for field in fields(batch)):
        value = getattr(batch, name)
        if isinstance(value, torch.Tensor):
            found[place + name] = value
        elif isinstance(value, SegmentMap):
            found[place + name] = value.rows()
        elif is_dataclass(value):
            found |= tensors(value, f"{place}{name}.")
    return found


def spoil(monkeypatch, spoilt):
    """Preference training whose losses pass through ``spoilt`` (number from 0, loss); returns the batches it reads."""
    read, compute = [], dpo.preference_loss

    def preference_loss(model, batch, config):
        loss, metrics = compute(model, batch, config)
        read.append(batch)
        return spoilt(len(read) - 1, loss), metrics

    monkeypatch.setattr(dpo, "preference_loss", preference_loss)
    return read


def assert_kept(files, batches):
    assert len(files) == len(batches)
    for file, batch in zip(files, batches, strict=True):
        kept, wanted = load_file(file), tensors(batch)
        assert kept.keys() == wanted.keys() >= {"weights", "chosen_reference", "rejected_reference", "anchored"}
        assert all(torch.equal(kept[name], value) for name, value in wanted.items())


@pytest.mark.parametrize("packing", [True, False])
def test_a_loss_that_is_not_finite_keeps_its_pairs_and_training_resumes_before_them(
    pairs, tiny, tmp_path, monkeypatch, packing
):
    config = replace(CONFIG, packing=packing, micro_batch_tokens=4096)
    read = spoil(monkeypatch, lambda number, loss: loss * (math.nan if number == 1 else 1.0))
    with pytest.raises(TrainingError, match="loss became nan at optimiser step 2"):
        dpo.train_dpo(pairs, tiny, config, tmp_path / "out")
    folder = tmp_path / "out" / "nonfinite-step-000002"
    assert_kept([folder / "batch.safetensors"], read[1:])
    assert ("tokens.segment_map" in load_file(folder / "batch.safetensors")) == packing
    facts = json.loads((folder / "batch.json").read_text())
    assert (facts["what"], facts["value"], len(facts["items"])) == ("loss", "nan", len(read[1].weights))
    assert all("@expert#0 over shop/" in item for item in facts["items"])

    logs = [], []
    dpo.train_dpo(pairs, tiny, config, tmp_path / "out", log=logs[0].append)
    dpo.train_dpo(pairs, tiny, config, tmp_path / "straight", log=logs[1].append)
    assert [record["step"] for record in logs[0]] == [0, 2, 3, 4]
    again, straight = ({record["step"]: record["train/loss"] for record in log if record["step"] > 1} for log in logs)
    assert again == straight


def test_a_gradient_that_is_not_finite_keeps_all_pairs_of_its_step(pairs, tiny, tmp_path, monkeypatch):
    def first_gradient(number, loss):
        if number == 0:  # a finite loss whose gradient is not
            loss = loss * 1.0
            loss.register_hook(lambda gradient: gradient * math.inf)
        return loss

    read = spoil(monkeypatch, first_gradient)
    with pytest.raises(TrainingError, match=r"gradient became (nan|inf) at optimiser step 1"):
        dpo.train_dpo(pairs, tiny, replace(CONFIG, micro_batch_tokens=200), tmp_path)
    assert len(read) > 1 and sum(len(batch.weights) for batch in read) == 4
    assert_kept(sorted((tmp_path / "nonfinite-step-000001").glob("batch-*.safetensors")), read)
