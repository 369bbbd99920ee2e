"""PPO with the tiny model: what is sampled and what it is worth, what is learned, and what a killed one leaves."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from icto_gym.dialogue import Message
from icto_gym.errors import ConfigError, DataError
from icto_gym.files import read_json
from trainers.markers import MarkerConfig, start_markers
from trainers.models import LoRAConfig, ModelConfig
from trainers.models.actor_critic import ActorCritic
from trainers.models.loading import load_model, read_checkpoint
from trainers.models.reward_model import RewardModel
from trainers.training.answers import Prompts, Rollout, Sampler, answer_length
from trainers.training.checkpoint import TrainingError
from trainers.training.config import PPOConfig, RewardConfig
from trainers.training.engine import check_scoring, prepare
from trainers.training.ppo import PPOPlan, _of_policy, ppo_loss, train_ppo
from trainers.training.preference_reward import encode_answer, train_preference_reward

LORA = ModelConfig(name="tiny-random", lora=LoRAConfig(r=4, alpha=8))
FULL = ModelConfig(name="tiny-random", lora=None)
CONFIG = PPOConfig(
    learning_rate=3e-3, iterations=2, rollout_size=6, batch_size=3, epochs=2, max_new_tokens=4, kl_coef=0.1,
    save_every=3,
)  # fmt: skip


def make_sampler(prompts, reward, config=CONFIG, model=LORA, packed=True):
    loaded = load_model(model, trainable=True)
    module, reward_model = ActorCritic(loaded), RewardModel.load(reward)
    sampler = Sampler(module, loaded.tokenizer, Prompts.make(loaded, prompts, config), reward_model, config)
    sampler.packed = prepare(loaded.model, replace(config, packing=packed), dropout=False)
    sampler.reward_packed = check_scoring(reward_model.backbone, packed=packed)
    return sampler


def perturb(module):
    draw = torch.Generator().manual_seed(0)
    for value in module.parameters():
        if value.requires_grad:
            value.data += 0.05 * torch.randn(value.shape, generator=draw)


def own_logps(model, item):
    """Log-probabilities of an answer's tokens by the whole model's own logits."""
    ids = torch.tensor([item.input_ids])
    with torch.no_grad():
        logits = model(ids).logits[0, :-1]
    return torch.log_softmax(logits, -1).gather(1, ids[0, 1:, None])[-answer_length(item) :, 0]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("model", [LORA, FULL], ids=["lora", "full"])
def test_a_rollout_holds_the_numbers_of_the_formulas_for_policy_reference_and_reward(prompts, reward, model, packed):
    sampler = make_sampler(prompts, reward, model=model, packed=packed)
    start = load_model(model, trainable=True).model
    perturb(sampler.module)
    before = {name: value.clone() for name, value in sampler.module.state_dict().items()}
    rollout = sampler.roll_out(0)
    after = sampler.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    numbers, lengths = sampler.prompts.draw(0, CONFIG), rollout.lengths
    assert [item["prompt"] for item in rollout.texts] == numbers and max(lengths) <= 4
    kls, whole = [], []
    for row, (item, text) in enumerate(zip(rollout.answers, rollout.texts, strict=True)):
        policy, reference = own_logps(sampler.module.policy, item), own_logps(start, item)
        assert rollout.old_logps[row, : lengths[row]].tolist() == pytest.approx(policy.tolist(), abs=2e-3)
        read = encode_answer(sampler.tokenizer, prompts[numbers[row]], [Message("assistant", text["answer"])])
        judge = sampler.reward
        hidden = judge.backbone(torch.tensor([read.input_ids]), output_hidden_states=True).hidden_states[-1][0, -2]
        assert text["reward"] == pytest.approx(judge.head(hidden).item(), abs=2e-3)
        rewards = -CONFIG.kl_coef * (policy - reference)
        rewards[-1] += text["reward"]
        kls.append((policy - reference).sum().item())
        values = sampler.module.head(_states(sampler.module.policy, item)).squeeze(-1).tolist()
        whole.append((row, rewards.tolist(), values))
    assert rollout.facts["kl"] == pytest.approx(sum(kls) / len(kls), abs=5e-3) and abs(rollout.facts["kl"]) > 1e-3
    for row, rewards, values in whole:
        expected, advantage = [], 0.0
        for place in reversed(range(len(rewards))):
            following = values[place + 1] if place + 1 < len(rewards) else 0.0
            advantage = rewards[place] + following - values[place] + CONFIG.lam * advantage
            expected.insert(0, advantage + values[place])
        assert rollout.returns[row, : len(rewards)].tolist() == pytest.approx(expected, abs=5e-3)


def _states(model, item):
    """Hidden states before each token of an answer."""
    with torch.no_grad():
        hidden = model(torch.tensor([item.input_ids]), output_hidden_states=True).hidden_states[-1][0]
    return hidden[-answer_length(item) - 1 : -1]


def test_answers_follow_the_seed_the_iteration_and_the_weights_alone(prompts, reward):
    sampler = make_sampler(prompts, reward)
    texts = [item["answer"] for item in sampler.roll_out(0).texts]
    assert [item["answer"] for item in make_sampler(prompts, reward).roll_out(0).texts] == texts
    few = make_sampler(prompts, reward, replace(CONFIG, generation_batch=1))
    assert [item["answer"] for item in few.roll_out(0).texts] == texts
    assert [item["answer"] for item in sampler.roll_out(1).texts] != texts
    other = make_sampler(prompts, reward, replace(CONFIG, seed=1))
    assert [item["answer"] for item in other.roll_out(0).texts] != texts


def test_every_prompt_comes_once_before_any_comes_again(prompts):
    asked = Prompts([list(prompt) for prompt in prompts], 0)
    drawn = [number for iteration in range(8) for number in asked.draw(iteration, CONFIG)]
    assert sorted(drawn[:24]) == sorted(drawn[24:]) == list(range(24)) and drawn[:24] != drawn[24:]
    few = Prompts([list(prompts[0])] * 4, 0).draw(0, CONFIG)
    assert sorted(few[:4]) == list(range(4)) and len(few) == 6


def test_a_rollout_is_written_and_read_whole(prompts, reward, tmp_path):
    rollout = make_sampler(prompts, reward).roll_out(0)
    rollout.save(tmp_path / "one")
    found = Rollout.load(tmp_path / "one")
    assert found.answers == rollout.answers and found.texts == rollout.texts and found.facts == rollout.facts
    for name in ("old_logps", "advantages", "returns"):
        assert torch.equal(getattr(found, name), getattr(rollout, name))
    with pytest.raises(DataError, match="cannot go on from within it"):
        Rollout.load(tmp_path / "two")


def test_the_first_step_begins_at_ratio_one_and_its_gradient_is_the_policy_gradient(prompts, reward, tmp_path):
    sampler = make_sampler(prompts, reward)
    plan = PPOPlan(sampler, CONFIG, tmp_path)
    plan.collect(0)
    perturb(sampler.module.head)
    ((batch, _),) = plan.batches([0, 1, 2, 3, 4, 5])
    loss, metrics = ppo_loss(sampler.module, batch, CONFIG)
    assert metrics["clip_fraction"] == 0.0 and metrics["approx_kl"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["policy_loss"] == pytest.approx(0.0, abs=1e-4)  # minus the mean of whitened advantages
    names = [name for name, value in sampler.module.named_parameters() if value.requires_grad and "head" not in name]
    weights = [dict(sampler.module.named_parameters())[name] for name in names]
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    logps, _ = sampler.module.score(batch.tokens)
    wanted = torch.autograd.grad(-(batch.advantages * logps).mean(), weights, allow_unused=True)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-5)  # the value head's error does not reach the policy


def test_micro_batches_add_up_to_the_step(prompts, reward, tmp_path):
    sampler = make_sampler(prompts, reward)
    losses = []
    for limit in (2048, 100):
        plan = PPOPlan(sampler, replace(CONFIG, micro_batch_tokens=limit), tmp_path)
        plan.collect(0)
        parts = plan.batches(range(6))
        assert sum(share for _, share in parts) == pytest.approx(1.0) and (len(parts) > 1) == (limit == 100)
        losses.append(sum(share * ppo_loss(sampler.module, batch, CONFIG)[0].item() for batch, share in parts))
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


RAISES = replace(CONFIG, iterations=12, rollout_size=32, batch_size=16, kl_coef=0.0)


def test_it_raises_the_reward_of_its_answers_and_the_penalty_keeps_it_near_the_start(prompts, reward, tmp_path):
    """Seen by other answers than those that were learned from, and by what they are: readable."""
    found = {}
    for name, settings in {"free": {}, "held": {"kl_coef": 1.0}, "still": {"learning_rate": 1e-9}}.items():
        log: list[dict] = []
        checkpoint = train_ppo(prompts, reward, FULL, replace(RAISES, **settings), tmp_path / name, log=log.append)
        assert log[0]["rollout/kl"] == pytest.approx(0.0, abs=1e-3)
        model = make_sampler(
            prompts, reward, replace(RAISES, rollout_size=96, seed=7), ModelConfig(str(checkpoint), lora=None)
        )
        texts = model.roll_out(0).texts
        rewards = torch.tensor([item["reward"] for item in texts])
        readable = sum("�" not in item["answer"] for item in texts) / len(texts)
        found[name] = float(rewards.mean()), readable, log[-1]["final/kl"]
        error = float(rewards.std()) / len(texts) ** 0.5
        assert abs(log[-1]["final/reward"] - found[name][0]) < 5 * error
    assert found["free"][0] > found["still"][0] + 0.8
    assert found["free"][1] > found["still"][1] + 0.2
    assert abs(found["still"][2]) < 1e-2 < found["held"][2] < found["free"][2] / 2


@pytest.mark.parametrize("model", [LORA, FULL], ids=["lora", "full"])
def test_a_stopped_training_goes_on_to_the_same_weights_and_numbers(prompts, reward, tmp_path, monkeypatch, model):
    """Stopped within an iteration, before and after a saved state, and while answers are written."""
    straight: list[dict] = []
    whole = train_ppo(prompts, reward, model, CONFIG, tmp_path / "whole", log=straight.append)
    assert len(straight) == 8
    killed: list[dict] = []
    for last in (2, 4, 5, 7):

        def log(record, last=last):
            killed.append(record)
            if record["step"] == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train_ppo(prompts, reward, model, CONFIG, tmp_path / "killed", log=log)
    again = train_ppo(prompts, reward, model, CONFIG, tmp_path / "killed", log=killed.append)
    assert read_checkpoint(again)["weights_digest"] == read_checkpoint(whole)["weights_digest"]
    expected = {record["step"]: _timeless(record) for record in straight}
    assert all(expected[record["step"]] == _timeless(record) for record in killed)
    left = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("whole", "killed")]
    assert left == [["answers.jsonl", "checkpoint", "training.json"]] * 2
    answers = [(tmp_path / name / "answers.jsonl").read_text() for name in ("whole", "killed")]
    assert answers[0] == answers[1] and len(answers[0].splitlines()) == 6


def test_answers_say_what_they_took_though_they_were_saved_without_it(prompts, reward, tmp_path):
    """The token counts come from the answers, so those that older code saved have them too."""
    rollout = make_sampler(prompts, reward).roll_out(0)
    rollout.save(tmp_path / "rollout-000000")
    plan = PPOPlan(make_sampler(prompts, reward), CONFIG, tmp_path)
    logged = [plan.collect(step) for step in range(4)]
    tokens = {f"sampled/{name}": count for name, count in rollout.tokens.items()}
    assert tokens.items() <= logged[0].items() and not any(key in line for line in logged[1:] for key in tokens)
    assert rollout.tokens["response_tokens"] == sum(rollout.lengths)
    assert sum(rollout.tokens.values()) == sum(len(item.input_ids) for item in rollout.answers)


def _timeless(record):
    return {key: value for key, value in record.items() if not key.endswith("seconds")}


def test_within_an_iteration_no_other_answers_take_the_place_of_lost_ones(prompts, reward, tmp_path):
    def log(record):
        if record["step"] == 3:
            raise KeyboardInterrupt

    settings = replace(CONFIG, save_every=1)
    with pytest.raises(KeyboardInterrupt):
        train_ppo(prompts, reward, LORA, settings, tmp_path, log=log)
    shutil.rmtree(tmp_path / "rollout-000000")
    with pytest.raises(DataError, match="cannot go on from within it"):
        train_ppo(prompts, reward, LORA, settings, tmp_path)


def test_gathered_weights_go_into_the_checkpoint_without_the_value_head():
    assert _of_policy({"policy.a.b": 1, "head.weight": 2}) == {"a.b": 1}
    assert _of_policy(None) is None


def test_answers_that_a_saved_state_may_ask_for_are_kept(prompts, reward, tmp_path):
    """States every 3 steps, iterations of 4: after step 3 the answers of iteration 0 are needed, after 6 those of 1."""

    def log(record):
        kept.append(sorted(path.name for path in tmp_path.glob("rollout-*")))

    kept: list[list[str]] = []
    train_ppo(prompts, reward, LORA, replace(CONFIG, iterations=3), tmp_path, log=log)
    names = [f"rollout-00000{number}" for number in range(3)]
    assert kept == [names[:1]] * 4 + [names[:2]] * 4 + [names[1:]] * 4


def test_a_loss_that_is_not_finite_stops_the_training_and_keeps_the_batch(prompts, reward, tmp_path, monkeypatch):
    import trainers.training.ppo as module

    monkeypatch.setattr(module, "value_loss", lambda values, returns: values * float("nan"))
    with pytest.raises(TrainingError, match="loss became nan at optimiser step 1"):
        train_ppo(prompts, reward, LORA, CONFIG, tmp_path)
    kept = read_json(tmp_path / "nonfinite-step-000001" / "batch.json")
    assert all(name.startswith("iteration 0, answer ") for name in kept["items"])
    from safetensors.torch import load_file

    assert {"old_logps", "advantages", "returns", "tokens.input_ids"} <= load_file(
        tmp_path / "nonfinite-step-000001" / "batch.safetensors"
    ).keys()


def test_another_reward_model_is_another_training(prompts, reward, answer_pairs, tmp_path):
    train_ppo(prompts, reward, LORA, replace(CONFIG, iterations=1), tmp_path / "ppo")
    other = train_preference_reward(answer_pairs, LORA, RewardConfig(learning_rate=1e-3), tmp_path / "reward")
    with pytest.raises(ConfigError, match="another reward_model"):
        train_ppo(prompts, other, LORA, replace(CONFIG, iterations=1), tmp_path / "ppo")


def test_a_start_with_markers_is_asked_for_the_best_class_and_its_checkpoint_keeps_them(
    prompts, reward, trajectories, tmp_path
):
    from trainers.training.config import SFTConfig
    from trainers.training.sft import train_sft

    start = train_sft(trajectories, LORA, SFTConfig(epochs=1), tmp_path / "sft", markers=MarkerConfig())
    seen: list[str] = []

    def probe(step, model, tokenizer):
        saved = sorted((tmp_path / "ppo").glob("rollout-*"))[-1]
        seen.extend(tokenizer.decode(ids) for ids in read_json(saved / "rollout.json")["ids"])
        return {"dev/success_rate": 0.0}

    checkpoint = train_ppo(prompts, reward, start, replace(CONFIG, iterations=1), tmp_path / "ppo", probe=probe)
    assert start_markers(checkpoint) == MarkerConfig()
    assert seen and all("[Correct]" in text for text in seen)


def test_prompts_without_room_are_dropped_and_settings_that_make_no_sense_are_refused(prompts, tmp_path):
    loaded = load_model(LORA)
    longer = [*prompts[:2], [*prompts[0][:2], Message("user", "x" * 300)]]
    assert Prompts.make(loaded, longer, replace(CONFIG, max_length=200)).dropped == 1
    with pytest.raises(DataError, match="max_length 20"):
        Prompts.make(loaded, prompts, replace(CONFIG, max_length=20))
    for wrong in (
        {"epochs": 1.5}, {"clip": 0.0}, {"kl_coef": -1.0}, {"gamma": 1.1}, {"iterations": 0}, {"max_length": 4},
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            replace(CONFIG, **wrong)


def test_the_final_answers_are_those_of_the_checkpoint(prompts, reward, tmp_path):
    checkpoint = train_ppo(prompts, reward, FULL, CONFIG, tmp_path)
    assert read_checkpoint(checkpoint)["kind"] == "full" and not list(checkpoint.glob("head*"))
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    loaded = make_sampler(prompts, reward, model=ModelConfig(str(checkpoint), lora=None))
    assert [item["answer"] for item in loaded.roll_out(CONFIG.iterations).texts] == [item["answer"] for item in lines]
