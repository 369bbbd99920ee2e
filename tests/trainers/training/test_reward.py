"""The reward model learns its targets, is saved and loaded, and values one number per step."""

import shutil
from dataclasses import replace

import pytest
import torch

from icto_gym.errors import ConfigError, DataError
from trainers.models.loading import load_model, read_checkpoint
from trainers.models.reward_model import RewardModel, new_reward_model
from trainers.training.config import RewardConfig
from trainers.training.reward import RewardPlan, train_reward

CONFIG = RewardConfig(learning_rate=3e-3, epochs=10, batch_size=4, holdout=0.25)


@pytest.fixture(scope="module")
def targets(trajectories):
    return {item.trajectory_id: [0.2 + 0.2 * place for place in range(len(item.steps))] for item in trajectories}


@pytest.fixture(scope="module")
def fitted(trajectories, targets, tmp_path_factory):
    from trainers.models import LoRAConfig, ModelConfig

    log: list[dict] = []
    tiny = ModelConfig(name="tiny-random", lora=LoRAConfig(r=4, alpha=8))
    folder = tmp_path_factory.mktemp("reward")
    return train_reward(trajectories, targets, tiny, CONFIG, folder, log=log.append), log


def test_the_error_falls_on_steps_that_are_not_trained_on(fitted):
    _, log = fitted
    assert log[0]["step"] == 0
    assert log[-1]["train/loss"] < log[1]["train/loss"]
    assert log[-1]["holdout/mse"] < log[0]["holdout/mse"]
    assert log[-1]["holdout/baseline_mse"] > 0


def test_there_is_one_value_per_step_and_they_come_near_the_targets(fitted, trajectories, targets):
    model = RewardModel.load(fitted[0])
    for trajectory in trajectories:
        values = model.score(trajectory)
        assert len(values) == len(trajectory.steps)
        assert values == pytest.approx(targets[trajectory.trajectory_id], abs=0.35)
    assert model.score(trajectories[0]) == model.score(trajectories[0])


def test_a_reply_that_is_cut_has_no_value(trajectories, targets, tiny):
    long = max(trajectories, key=lambda item: len(item.steps))
    whole = new_reward_model(tiny).encode(long)
    begins = whole.turns.index(1)
    for length in (begins, begins + 1, begins + 3):
        model = new_reward_model(tiny, length)
        short = model.encode(long)
        assert short.n_turns == 1 and short.input_ids == whole.input_ids[: len(short.input_ids)]
        assert len(model.score(long)) == len(long.steps)
        plan = RewardPlan(model, [long], [targets[long.trajectory_id]], CONFIG)
        assert plan.counts["truncated"] == 1 and plan.weight([0]) == 1
    ends = len(whole.turns) - whole.turns[::-1].index(1)
    assert new_reward_model(tiny, ends).encode(long).n_turns == 2


def test_a_model_reads_so_many_tokens(trajectories, tiny):
    model = new_reward_model(tiny)
    model.score(trajectories[0])
    assert model.tokens_read == len(model.encode(trajectories[0]).input_ids)


def test_a_reward_model_without_its_head_is_named(fitted, tmp_path):
    shutil.copytree(fitted[0], tmp_path / "torn")
    (tmp_path / "torn" / "head.safetensors").unlink()
    with pytest.raises(DataError, match=r"torn: not a complete reward model, head\.safetensors is missing"):
        RewardModel.load(tmp_path / "torn")


def test_the_digest_covers_the_head_and_the_model_under_it(fitted, tmp_path):
    from trainers.training.checkpoint import seal

    copy = tmp_path / "copy"
    shutil.copytree(fitted[0], copy)
    sealed = read_checkpoint(fitted[0])["weights_digest"]
    assert seal(copy)["weights_digest"] == sealed
    for file in sorted(copy.rglob("*.safetensors")):
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert seal(copy)["weights_digest"] != sealed, file.name
        file.write_bytes(content)
    assert len(list(copy.rglob("*.safetensors"))) == 2


def test_a_value_does_not_look_ahead(fitted, trajectories):
    model = RewardModel.load(fitted[0])
    trajectory = max(trajectories, key=lambda item: len(item.steps))
    values = model.score(trajectory)
    for length in range(1, len(values)):
        shorter = replace(trajectory, steps=trajectory.steps[:length])
        assert model.score(shorter) == pytest.approx(values[:length], abs=1e-4)


def test_steps_beyond_what_can_be_read_get_the_last_value(fitted, trajectories):
    model = RewardModel.load(fitted[0])
    trajectory = max(trajectories, key=lambda item: len(item.steps))
    whole = model.score(trajectory)
    model.max_length = 200
    values = model.score(trajectory)
    assert len(values) == len(whole)
    assert values[-1] == values[-2]


def test_the_error_on_held_out_steps_is_measured_where_the_model_is(trajectories, targets, tiny):
    class Elsewhere(torch.nn.Module):
        """On a device that holds no numbers; it answers from the main memory."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.empty(1, device="meta"))
            self.encode = new_reward_model(tiny).encode

        def values(self, tokens, positions):
            places.append((tokens.input_ids.device.type, positions.device.type))
            raise KeyboardInterrupt

    places: list[tuple[str, str]] = []
    model = Elsewhere()
    plan = RewardPlan(model, trajectories, [targets[t.trajectory_id] for t in trajectories], RewardConfig(holdout=0.5))
    with pytest.raises(KeyboardInterrupt):
        plan.holdout_error(model)
    assert places == [("meta", "meta")]


def test_a_model_that_is_in_16_bits_throughout_gives_values(trajectories, targets, tiny):
    """As DeepSpeed makes it: the head too."""
    model = new_reward_model(tiny).bfloat16()
    plan = RewardPlan(model, trajectories, [targets[t.trajectory_id] for t in trajectories], RewardConfig(holdout=0.0))
    ((batch, _),) = plan.batches([0, 1])
    assert model.values(batch.tokens, batch.positions).dtype == torch.float32


def test_whole_tasks_are_held_out_and_what_cannot_be_read_is_counted(trajectories, tiny):
    twice = [*trajectories, *(replace(item, trajectory_id=f"{item.trajectory_id}1") for item in trajectories)]
    targets = [[0.5] * len(item.steps) for item in twice]
    config = RewardConfig(holdout=0.25, max_length=100)
    plan = RewardPlan(new_reward_model(tiny, config.max_length), twice, targets, config)
    held, trained = ({twice[number].task_id for number in side} for side in (plan.held_out, plan.trained))
    assert held and trained and not held & trained
    counts = plan.counts
    assert counts["dropped"] > 0 and counts["truncated"] > counts["dropped"]
    assert len(plan.held_out) + plan.size == counts["trajectories"] == len(twice) - counts["dropped"]
    with pytest.raises(DataError, match="max_length 80"):
        RewardPlan(new_reward_model(tiny, 80), twice, targets, replace(config, max_length=80))


def test_targets_that_do_not_fit_are_refused(trajectories, targets, tiny, tmp_path):
    wrong = {**targets, trajectories[0].trajectory_id: [1.0] * 9}
    with pytest.raises(DataError, match="one finite number per step"):
        train_reward(trajectories, wrong, tiny, CONFIG, tmp_path)


def test_a_reward_model_is_not_a_policy_nor_the_other_way_round(fitted, tmp_path):
    assert read_checkpoint(fitted[0])["kind"] == "reward"
    with pytest.raises(ConfigError, match=r"RewardModel\.load"):
        load_model(fitted[0])
    with pytest.raises(ConfigError, match="not a reward model"):
        RewardModel.load(fitted[0] / "backbone")
