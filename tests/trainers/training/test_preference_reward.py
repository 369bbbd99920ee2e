"""The reward model of preferences: what it reads, what it learns, and on whom it is measured."""

import math
import random
import string
from dataclasses import replace

import pytest
import torch

from icto_gym.dialogue import Message
from icto_gym.errors import ConfigError, DataError
from trainers.feedback.learned import LearnedStepRewards
from trainers.losses import bradley_terry_loss
from trainers.models.loading import read_checkpoint
from trainers.models.reward_model import RewardModel, new_reward_model
from trainers.training.config import RewardConfig
from trainers.training.engine import prepare
from trainers.training.preference_reward import (
    AnswerPairPlan,
    encode_answer,
    preference_reward_loss,
    score_answers,
    train_preference_reward,
)

CONFIG = RewardConfig(learning_rate=3e-3, epochs=6, batch_size=8, holdout=0.25)


@pytest.fixture(scope="module")
def answer_pairs(pair_maker):
    """Readable answers are preferred to ones of replacement marks."""
    found = []
    for number in range(16):
        draw = random.Random(number)
        chosen = "".join(draw.choices(string.ascii_letters, k=3))
        sides = {"chosen": (Message("assistant", chosen),), "rejected": (Message("assistant", "�" * 2 + chosen[0]),)}
        found.append(pair_maker(number % 8, granularity="step", step_weights=(1.0,), **sides))
    return found


@pytest.fixture(scope="module")
def fitted(answer_pairs, tmp_path_factory):
    from trainers.models import LoRAConfig, ModelConfig

    log: list[dict] = []
    tiny = ModelConfig(name="tiny-random", lora=LoRAConfig(r=4, alpha=8))
    return train_preference_reward(answer_pairs, tiny, CONFIG, tmp_path_factory.mktemp("reward"), log=log.append), log


def test_it_starts_at_log_two_and_tells_answers_apart_on_tasks_that_are_not_trained(fitted):
    checkpoint, log = fitted
    assert log[0]["step"] == 0 and log[0]["holdout/loss"] == pytest.approx(math.log(2))
    assert log[1]["train/loss"] == pytest.approx(math.log(2))
    assert log[-1]["train/loss"] < 0.6 and log[-1]["holdout/loss"] < 0.65
    assert log[-1]["holdout/accuracy"] >= 0.75
    record = read_checkpoint(checkpoint)
    assert record["targets"] == "preference" and record["data"] == {"pairs": 16, "dropped": 0, "held_out": 4}


def test_whole_tasks_are_held_out(answer_pairs, tiny):
    plan = AnswerPairPlan(new_reward_model(tiny), answer_pairs, CONFIG)
    sides = [{answer_pairs[number].task_id for number in side} for side in (plan.held_out, plan.trained)]
    assert len(sides[0]) == 2 and not sides[0] & sides[1]


def test_the_reward_is_read_where_the_answer_is_complete_and_the_loss_is_the_formula(fitted, answer_pairs):
    """Nothing of ours between the hidden state of the last token but the closing one and the formula."""
    model = RewardModel.load(fitted[0])
    plan = AnswerPairPlan(model, answer_pairs[:3], replace(CONFIG, holdout=0.0))

    def own(pair, side):
        encoded = encode_answer(model.tokenizer, pair.prompt, getattr(pair, side))
        assert model.tokenizer.decode(encoded.input_ids[-1]) == "<|im_end|>"
        hidden = model.backbone.model(torch.tensor([encoded.input_ids])).last_hidden_state[0, -2]
        return model.head(hidden).squeeze()

    chosen, rejected = (torch.stack([own(pair, side) for pair in answer_pairs[:3]]) for side in ("chosen", "rejected"))
    for packed in (False, True):
        plan.packed = packed and prepare(model.backbone, CONFIG, dropout=False)
        ((batch, share),) = plan.batches([0, 1, 2])
        loss, metrics = preference_reward_loss(model, batch)
        assert share == 1.0 and batch.n_scored == 6
        assert loss.item() == pytest.approx(bradley_terry_loss(chosen, rejected).mean().item(), abs=1e-4)
        assert metrics["reward_margin"] == pytest.approx((chosen - rejected).mean().item(), abs=1e-4)
        sides = [side for pair in plan.pairs for side in pair]
        for limit in (40, 4096):
            scores = score_answers(model, sides, limit, packed=plan.packed)
            assert scores.tolist() == pytest.approx(torch.stack([chosen, rejected], 1).flatten().tolist(), abs=1e-4)


def test_of_several_replies_the_last_one_counts(fitted, answer_pairs, pair_maker):
    model, pair = RewardModel.load(fitted[0]), pair_maker(0)
    longer = (*pair.chosen, Message("user", "Observation: x"), *answer_pairs[0].chosen)
    scores = [
        score_answers(model, [encode_answer(model.tokenizer, prompt, answer)], 4096, packed=False).item()
        for prompt, answer in ((pair.prompt, longer), ((*pair.prompt, *longer[:-1]), longer[-1:]))
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_pairs_that_cannot_be_read_to_their_ends_are_dropped_and_counted(answer_pairs, pair_maker, tiny):
    longer = pair_maker(9, chosen=(Message("assistant", "x" * 400),), granularity="trajectory")
    length = max(len(side.input_ids) for side in AnswerPairPlan(new_reward_model(tiny), answer_pairs, CONFIG).pairs[0])
    plan = AnswerPairPlan(new_reward_model(tiny), [*answer_pairs, longer], replace(CONFIG, max_length=length + 20))
    assert plan.counts == {"pairs": 16, "dropped": 1, "held_out": 4}
    with pytest.raises(DataError, match="max_length 20"):
        AnswerPairPlan(new_reward_model(tiny), answer_pairs, replace(CONFIG, max_length=20))


def test_its_values_are_not_taken_for_rewards_of_steps(fitted):
    with pytest.raises(ConfigError, match="fitted to preferences"):
        LearnedStepRewards.load(fitted[0])
