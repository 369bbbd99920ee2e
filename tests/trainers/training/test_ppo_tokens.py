"""What PPO samples is counted once, however often its training was stopped."""

import pytest

from trainers.diagnostics import budget
from trainers.method_stages import train_ppo
from trainers.models import LoRAConfig, ModelConfig
from trainers.policies.hf import HFPolicy
from trainers.records import write_records
from trainers.runs import Run
from trainers.stages import facts_of
from trainers.training.answers import Sampler
from trainers.training.config import PPOConfig

LORA = ModelConfig(name="tiny-random", lora=LoRAConfig(r=4, alpha=8))
CONFIG = PPOConfig(
    learning_rate=3e-3, iterations=2, rollout_size=6, batch_size=3, epochs=2, max_new_tokens=4, save_every=3
)


def _count_written(monkeypatch):
    """Every answer that a policy writes from now on, by what it read and wrote."""
    seen: list[tuple[int, int]] = []
    write = HFPolicy.write

    def counting(self, turns):
        found = write(self, turns)
        seen.extend((len(item.prompt), len(item.tokens)) for item in found)
        return found

    monkeypatch.setattr(HFPolicy, "write", counting)
    return seen


def _kill_within(monkeypatch, stage, sampling=None, step=None):
    """Stop the stage when it samples for the so manieth time, or once it has logged a step."""
    sample, log, count = Sampler.roll_out, Run.log_metrics, 0

    def roll_out(self, iteration):
        nonlocal count
        count += 1
        if count == sampling:
            raise KeyboardInterrupt
        return sample(self, iteration)

    def log_metrics(self, name, number, values):
        log(self, name, number, values)
        if number == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Sampler, "roll_out", roll_out)
        patch.setattr(Run, "log_metrics", log_metrics)
        stage()


def test_tokens_of_sampling_count_once_however_often_a_training_was_stopped(
    prompts, reward, answer_pairs, tmp_path, monkeypatch
):
    """Against what the policy wrote in a training that nobody stopped: two iterations, and the answers of the result.

    Stopped before anything is saved, while answers are written, at the first step of an iteration (which comes again,
    for the state before it is saved), and after the last record.
    """

    def stage(name):
        with Run(tmp_path / name) as run:
            write_records(run.path("pairs.jsonl"), answer_pairs)
            out = run.path("ppo")
            train_ppo(run, out, run.path("pairs.jsonl"), reward, LORA, CONFIG)
            return facts_of(run, out), budget(run)["sums"]

    seen = _count_written(monkeypatch)
    facts, sums = stage("quiet")
    read, written = map(sum, zip(*seen, strict=True))
    assert len(seen) == 3 * 6 and (facts["prompt_tokens"], facts["response_tokens"]) == (read, written)
    assert sums.keys() == {"training"} and sums["training"]["prompt_tokens"] == read
    assert sums["training"]["trained_tokens"] == facts["trained_tokens"] > 0
    for plan in ({"step": 2}, {"sampling": 1}, {"step": 5}, {"step": 7}, {"sampling": 1}, {"step": 8}):
        _kill_within(monkeypatch, lambda: stage("killed"), **plan)
    assert stage("killed")[0] == facts
    assert len(seen) > 2 * 3 * 6  # the process that ended it wrote others than it counts
