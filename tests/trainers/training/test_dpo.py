"""Preference training with the tiny model: objectives, reference, diagnostics."""

import shutil
from dataclasses import replace

import pytest
import torch

from icto_gym.dialogue import Message
from icto_gym.errors import ConfigError, DataError
from icto_gym.files import read_json, write_json
from trainers.losses import dpo_loss
from trainers.markers import MarkerConfig, start_markers
from trainers.models import LoRAConfig, ModelConfig
from trainers.models.loading import load_model, read_checkpoint
from trainers.records import PreferencePair
from trainers.tokenization import encode_conversation
from trainers.training.config import DPOConfig
from trainers.training.dpo import PairPlan, preference_loss, train_dpo
from trainers.training.engine import prepare

CONFIG = DPOConfig(learning_rate=3e-3, epochs=4, batch_size=3, save_every=3, sft_weight=0.0)
STEPS = replace(CONFIG, objective="step")
REASONS = {"dropped: nothing trainable": 3, "dropped: identical": 2}
"""Of the pairs, cut to 92 tokens."""


def train(pairs, tiny, folder, **settings):
    log: list[dict] = []
    checkpoint = train_dpo(pairs, tiny, replace(CONFIG, **settings), folder, log=log.append)
    return checkpoint, log


@pytest.mark.parametrize("objective", ["trajectory", "step", "mixed"])
def test_it_starts_at_log_two_and_learns_to_prefer(pairs, tiny, tmp_path, objective):
    checkpoint, log = train(pairs, tiny, tmp_path, objective=objective, epochs=6)
    assert log[0]["step"] == 0
    assert log[0]["pairs/chosen_logp_change"] == log[0]["pairs/rejected_logp_change"] == 0.0
    first, last = log[1], log[-1]
    assert first["train/loss"] == pytest.approx(0.693147, abs=1e-3)
    assert first["train/chosen_logp_change"] == pytest.approx(0.0, abs=1e-2)
    assert last["train/loss"] < 0.6
    assert last["pairs/reward_accuracy"] == 1.0
    assert last["pairs/log_ratio_margin"] > 1.0
    assert read_checkpoint(checkpoint)["config"]["objective"] == objective


def test_bars_show_the_reference_and_the_training_where_asked(pairs, tiny, tmp_path, capsys, monkeypatch):
    train(pairs, tiny, tmp_path / "quiet", epochs=1)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("ICTO_PROGRESS", "1")
    train(pairs, tiny, tmp_path / "shown", epochs=1)
    shown = capsys.readouterr().err
    assert "reference: 100%" in shown and "step" in shown.partition("reference: 100%")[2]


def test_the_literal_objective_pushes_the_sides_apart_without_a_reference(pairs, tiny, tmp_path):
    _, log = train(pairs, tiny, tmp_path, objective="log_ratio", learning_rate=1e-3)
    assert log[-1]["pairs/log_ratio_margin"] > 1.0
    assert log[1]["train/loss"] == pytest.approx(log[1]["train/rejected_logp"] - log[1]["train/chosen_logp"], rel=1e-4)


def test_the_anchor_and_the_penalty_keep_the_chosen_side_up(pairs, tiny, tmp_path):
    changes = {
        name: train(pairs, tiny, tmp_path / name, **settings)[1][-1]["pairs/chosen_logp_change"]
        for name, settings in {
            "plain": {},
            "anchor": {"sft_weight": 1.0},
            "penalty": {"chosen_penalty": 5.0},
        }.items()
    }
    assert changes["anchor"] > changes["plain"]
    assert changes["penalty"] > changes["plain"]


@pytest.mark.parametrize("objective", ["trajectory", "step"])
def test_packed_and_plain_rows_give_the_same_training(pairs, tiny, tmp_path, objective):
    logs = [train(pairs, tiny, tmp_path / str(on), objective=objective, packing=on)[1] for on in (True, False)]
    losses = [[record["train/loss"] for record in log[1:]] for log in logs]
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)
    assert logs[0][1]["train/tokens"] < logs[1][1]["train/tokens"]


def test_the_loss_is_that_of_the_models_own_logits(pairs, tiny):
    """Nothing of ours between the logits of the whole model and the formula."""
    loaded = load_model(tiny, trainable=True)
    plan = PairPlan.make(loaded.tokenizer, pairs[:2], CONFIG)
    plan.packed = prepare(loaded.model, CONFIG, dropout=False)
    plan.reference = torch.randn(plan.reference.shape) - 90.0
    got, metrics = preference_loss(loaded.model, plan.batch([0, 1]), CONFIG)

    def own(pair, side):
        encoded = encode_conversation(loaded.tokenizer, [*pair.prompt, *side], trainable_from=len(pair.prompt))
        ids = torch.tensor([encoded.input_ids])
        logps = torch.log_softmax(loaded.model(ids).logits[0, :-1].float(), -1).gather(1, ids[0, 1:, None])[:, 0]
        return logps[torch.tensor(encoded.turns[1:]) >= 0].sum()

    sides = [torch.stack([own(pair, getattr(pair, side)) for pair in pairs[:2]]) for side in ("chosen", "rejected")]
    references = plan.reference[:2].sum(-1).unbind(1)
    wanted = dpo_loss(*sides, *references, beta=CONFIG.beta).losses.mean()
    assert got.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert metrics["chosen_logp"] == pytest.approx(sides[0].mean().item(), rel=1e-4)


def test_tokens_before_the_first_differing_step_are_not_trained(pair_maker, tiny):
    pair = pair_maker(0)
    history = (Message("assistant", "Action: look"), Message("user", "Observation: a shop"))
    longer = replace(pair, prompt=(*pair.prompt, *history))
    loaded = load_model(tiny)
    plan = PairPlan.make(loaded.tokenizer, [longer], CONFIG)
    ids = [i for i, turn in zip(plan.pairs[0].chosen.input_ids, plan.pairs[0].chosen.turns, strict=True) if turn == 0]
    assert loaded.tokenizer.decode(ids) == pair.chosen[0].content + "<|im_end|>"


def test_step_weights_follow_the_pair_and_are_uniform_where_there_are_none(pair_maker, tiny):
    tokenizer = load_model(tiny).tokenizer
    pair = pair_maker(0)
    steps = min(sum(m.role == "assistant" for m in side) for side in (pair.chosen, pair.rejected))
    given = tuple(0.5 + place for place in range(steps))
    plan = PairPlan.make(tokenizer, [pair, replace(pair, granularity="step", step_weights=given)], STEPS)
    assert plan.pairs[0].weights == (1.0,) * steps
    assert plan.pairs[1].weights == given
    assert plan.batch([1]).weights[0, :steps].tolist() == list(given)


def test_pairs_without_tokens_or_without_a_difference_are_dropped_and_counted(pairs, tiny, tmp_path):
    tokenizer = load_model(tiny).tokenizer
    plan = PairPlan.make(tokenizer, pairs, replace(CONFIG, max_length=92))
    assert plan.counts == {"truncated": 6, "pairs": 1, "dropped": 5, "held_out": 0, **REASONS}
    with pytest.raises(DataError, match="max_length 80"):
        PairPlan.make(tokenizer, pairs, replace(CONFIG, max_length=80))


def test_only_an_objective_that_weighs_steps_drops_a_pair_whose_preferred_step_is_cut_off(pair_maker, tiny):
    tokenizer = load_model(tiny).tokenizer
    said = [Message("assistant", f"Action: {letter}") for letter in "abcd"]
    seen = Message("user", "Observation: page")
    pair = replace(
        pair_maker(0), chosen=(said[0], seen, said[1]), rejected=(said[2], seen, said[3]), step_weights=(0.0, 1.0)
    )
    side = PairPlan.make(tokenizer, [pair], CONFIG).pairs[0].chosen
    short = side.turns.index(1)  # before the second reply
    for objective in ("trajectory", "log_ratio"):
        plan = PairPlan.make(tokenizer, [pair], replace(CONFIG, objective=objective, max_length=short))
        assert plan.counts["pairs"] == plan.counts["truncated"] == 1 and plan.pairs[0].weights == (1.0,)
    for objective in ("step", "mixed"):
        with pytest.raises(DataError, match="None of 1 pairs"):
            PairPlan.make(tokenizer, [pair], replace(CONFIG, objective=objective, max_length=short))


def test_a_loss_that_is_not_there_is_found_before_anything_is_read(pairs, tiny, tmp_path):
    with pytest.raises(ConfigError, match=r"dpo\.objective 'json:nothing' could not be loaded"):
        train_dpo(pairs, tiny, replace(CONFIG, objective="json:nothing"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": float("inf")}, "beta is inf"),
        ({"sft_weight": float("nan")}, "sft_weight is nan"),
        ({"chosen_penalty": float("nan")}, "chosen_penalty is nan"),
        ({"chosen_penalty": 1.0, "objective": "log_ratio"}, "objective 'log_ratio' has no such penalty"),
        ({"chosen_penalty": 1.0, "objective": "my.module:loss"}, "objective 'my.module:loss' has no such penalty"),
    ],
)
def test_settings_that_cannot_be_or_would_do_nothing_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **changes)


def test_what_tells_the_sides_apart_must_lie_before_the_cut(pair_maker, tiny):
    tokenizer = load_model(tiny).tokenizer
    said = [Message("assistant", text) for text in ("Action: a", "Action: b", "Action: c", "Action: d")]
    seen = Message("user", "Observation: page")
    pair = replace(pair_maker(0), chosen=(said[0], seen, said[1]), rejected=(said[2], seen, said[3]))
    weighed = replace(pair, granularity="step", step_weights=(0.0, 1.0))  # the first step is not preferred
    late = replace(pair, rejected=(said[0], seen, said[3]))  # only the second differs
    other = pair_maker(1)
    length = len(encode_conversation(tokenizer, [*pair.prompt, said[0]]).input_ids)
    for cut in (weighed, late):
        assert PairPlan.make(tokenizer, [cut], STEPS).counts["dropped"] == 0
        with pytest.raises(DataError, match="None of 1 pairs"):
            PairPlan.make(tokenizer, [cut], replace(STEPS, max_length=length))
    counts = PairPlan.make(tokenizer, [weighed, late, pair], replace(STEPS, max_length=length)).counts
    reasons = {"dropped: no preferred step": 1, "dropped: identical": 1}
    assert counts == {"pairs": 1, "truncated": 3, "dropped": 2, "held_out": 0, **reasons}
    assert PairPlan.make(tokenizer, [weighed, other], STEPS).pairs[0].weights == (0.0, 1.0)
    assert PairPlan.make(tokenizer, [replace(weighed, step_weights=(0.0, 0.0))], STEPS).pairs[0].weights == (1.0, 1.0)


def test_a_side_may_say_ok_where_nothing_was_said_before(tiny):
    pair = PreferencePair("t", (Message("user", "Yes?"),), (Message("assistant", "OK"),), (Message("assistant", "no"),),
                          1.0, "trajectory", "a", "b")  # fmt: skip
    plan = PairPlan.make(load_model(tiny).tokenizer, [pair], CONFIG)
    assert plan.pairs[0].chosen.n_turns == 1


def test_no_more_is_trained_than_the_model_can_read(pairs, tiny, tmp_path):
    folder = tmp_path / "short"
    loaded = load_model(replace(tiny, lora=None))
    loaded.model.config.max_position_embeddings = 92
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    checkpoint, _ = train(pairs, replace(tiny, name=str(folder)), tmp_path / "run", epochs=1)
    data = read_checkpoint(checkpoint)["data"]
    assert data.pop("scoring_tokens") > 0
    assert data == {"truncated": 6, "pairs": 1, "dropped": 5, "held_out": 0, **REASONS}


def test_the_reference_is_the_start_even_when_an_adapter_goes_on_learning(pairs, tiny, tmp_path):
    first, _ = train(pairs, tiny, tmp_path / "one")
    _, log = train(pairs, first, tmp_path / "two")
    assert log[1]["train/preference_loss"] == pytest.approx(0.693147, abs=1e-3)
    base = load_model(tiny)
    without = PairPlan.make(base.tokenizer, pairs, CONFIG).score(base.model, range(len(pairs)))
    assert log[0]["pairs/chosen_logp"] != pytest.approx(without[:, 0].sum(-1).mean().item(), abs=0.1)


def test_a_stopped_reference_pass_goes_on_where_it_was(tmp_path):
    from trainers.models.reference import cached_logps

    calls: list[list[int]] = []

    def score(group):
        calls.append(group)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return torch.tensor([[float(item), 1.0] for item in group])

    groups = [[0, 3], [1], [2, 4], [5]]
    with pytest.raises(KeyboardInterrupt):
        cached_logps(tmp_path / "r.safetensors", 6, 3, groups, score, save_every=2)
    table = cached_logps(tmp_path / "r.safetensors", 6, 3, groups, score, save_every=2)
    assert calls == [[0, 3], [1], [2, 4], [5], [2, 4], [5]]
    assert table.tolist() == [[float(item), 1.0, 0.0] for item in range(6)]
    assert torch.equal(cached_logps(tmp_path / "r.safetensors", 6, 3, groups, score), table)
    assert len(calls) == 6


def test_iprs_term_is_a_sum_over_the_chosen_tokens_of_the_pairs_in_scope(pair_maker, tiny):
    """L = mean over pairs of  -log sigma(beta * delta) - log pi(chosen), the second term for the pairs in scope."""
    whole, step = pair_maker(0), pair_maker(1)
    weights = (1.0,) * min(sum(m.role == "assistant" for m in side) for side in (step.chosen, step.rejected))
    pairs = [whole, replace(step, granularity="step", step_weights=weights)]
    loaded = load_model(tiny, trainable=True)

    def loss(**settings):
        config = replace(CONFIG, sft_weight=1.0, **settings)
        plan = PairPlan.make(loaded.tokenizer, pairs, config)
        plan.packed = prepare(loaded.model, config, dropout=False)
        plan.reference = plan.score(loaded.model, [0, 1])
        value, metrics = preference_loss(loaded.model, plan.batch([0, 1]), config)
        lengths = [sum(turn >= 0 for turn in pair.chosen.turns) for pair in plan.pairs]
        return value.item(), metrics["preference_loss"], plan.reference[:, 0].sum(-1), torch.tensor(lengths)

    log_two = 0.693147
    total, preference, chosen, lengths = loss(sft_reduction="sum")
    assert preference == pytest.approx(log_two, abs=1e-3)
    assert total == pytest.approx(log_two - chosen.mean().item(), rel=1e-4)
    assert loss(sft_reduction="mean")[0] == pytest.approx(log_two - (chosen / lengths).mean().item(), rel=1e-4)
    only_whole = loss(sft_reduction="sum", sft_scope="trajectory")[0]
    assert only_whole == pytest.approx(log_two - chosen[0].item() / 2, rel=1e-4)


def test_another_reference_than_the_start_is_what_the_policy_is_compared_with(pairs, tiny, tmp_path):
    moved, _ = train(pairs, tiny, tmp_path / "one")
    first = train_dpo(pairs, moved, replace(CONFIG, epochs=1), tmp_path / "two", reference=tiny, log=(log := []).append)
    base = load_model(tiny)
    plan = PairPlan.make(base.tokenizer, pairs, CONFIG)
    expected = plan.score(base.model, plan.sample)[:, 0].sum(-1).mean().item()
    start = log[0]["pairs/chosen_logp"] - log[0]["pairs/chosen_logp_change"]
    assert start == pytest.approx(expected, abs=1e-2)
    assert log[0]["pairs/log_ratio_margin"] > 0.5  # the start has already learned what the reference has not
    assert read_checkpoint(first)["reference"]["model"]["name"] == "tiny-random"


def test_a_reference_given_by_name_is_the_start_in_16_bits_too(pairs, tmp_path):
    """An adapter folded into bfloat16 weights is rounded, so a reference that acts would differ from its own start."""
    start = ModelConfig(name="tiny-random", dtype="bfloat16", lora=LoRAConfig(r=4, alpha=8))
    moved, _ = train(pairs, start, tmp_path / "one")
    copy = shutil.copytree(moved, tmp_path / "copy")
    record = read_json(copy / "checkpoint.json")
    write_json(copy / "checkpoint.json", {**record, "weights_digest": "another"})  # so that it is loaded by itself
    train_dpo(pairs, moved, replace(CONFIG, epochs=1), tmp_path / "two", reference=copy, log=(log := []).append)
    assert log[0]["pairs/chosen_logp_change"] == log[0]["pairs/rejected_logp_change"] == 0.0


def test_what_is_trained_from_a_model_with_markers_keeps_and_reads_them(pairs, trajectories, tiny, tmp_path):
    from trainers.training.config import SFTConfig
    from trainers.training.sft import train_sft

    markers = MarkerConfig()
    sft = SFTConfig(epochs=1, batch_size=4)
    marked = train_sft(trajectories, tiny, sft, tmp_path / "marked", markers=markers)
    again = train_sft(trajectories, marked, sft, tmp_path / "sft")
    contrasted = train_dpo(pairs, marked, replace(CONFIG, epochs=1), tmp_path / "dpo", log=(log := []).append)
    assert start_markers(again) == start_markers(contrasted) == markers
    assert start_markers(tiny) is None
    loaded = load_model(marked)
    plan = PairPlan.make(loaded.tokenizer, pairs, CONFIG, markers.best)
    assert "[Correct] Buy 0." in loaded.tokenizer.decode(plan.pairs[0].chosen.input_ids)
    expected = plan.score(loaded.model, plan.sample)[:, 0].sum(-1).mean().item()
    assert log[0]["pairs/chosen_logp"] == pytest.approx(expected, abs=1e-2)
    with pytest.raises(DataError, match="no place"):
        markers.best.apply_to_prompt(pairs[0].prompt[2:])


def test_whole_tasks_are_held_out_and_measured_beside_the_trained_pairs(pair_maker, tiny, tmp_path):
    pairs = [replace(pair_maker(number), task_id=f"shop/{number // 2}") for number in range(10)]
    checkpoint, log = train(pairs, tiny, tmp_path, holdout=0.25, epochs=1)
    data = read_checkpoint(checkpoint)["data"]
    assert data.pop("scoring_tokens") > sum(line["train/tokens"] for line in log[1:])  # all ten, not eight
    assert data == {"pairs": 10, "truncated": 0, "dropped": 0, "held_out": 2}
    assert log[0]["held_out/chosen_logp_change"] == 0.0
    assert log[-1]["held_out/log_ratio_margin"] != 0.0 and "pairs/log_ratio_margin" in log[-1]
    assert len(log) == 1 + 3  # eight pairs in batches of three


def test_a_loss_of_ones_own_takes_the_place_of_the_objective(pairs, tiny, tmp_path, monkeypatch):
    (tmp_path / "my_losses.py").write_text(
        "import torch\n"
        "from trainers.losses import PreferenceLoss\n"
        "def hinge(chosen, rejected, chosen_reference, rejected_reference, weights, *, beta):\n"
        "    ratios = chosen.sum(-1) - chosen_reference.sum(-1), rejected.sum(-1) - rejected_reference.sum(-1)\n"
        "    losses = torch.relu(1 - beta * (ratios[0] - ratios[1]))\n"
        "    return PreferenceLoss(losses, *(beta * ratio.detach() for ratio in ratios))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    _, log = train(pairs, tiny, tmp_path / "out", objective="my_losses:hinge", epochs=2)
    assert log[1]["train/loss"] == pytest.approx(1.0, abs=1e-2) and log[-1]["train/loss"] < 0.9
    with pytest.raises(ConfigError, match="could not be loaded"):
        train(pairs, tiny, tmp_path / "wrong", objective="my_losses:nothing")


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("chosen.sum()", "gave a Tensor; it must give a trainers.losses.PreferenceLoss"),
        ("PreferenceLoss(chosen.sum(), *rewards)", r"losses is of shape \(\); it must give"),
        ("PreferenceLoss(chosen.sum(-1).detach(), *rewards)", "its losses have no gradient; do not detach them"),
    ],
)
def test_a_loss_of_ones_own_that_would_be_averaged_in_silence_is_refused(
    pairs, tiny, tmp_path, monkeypatch, returned, words
):
    name = f"odd_losses_{abs(hash(returned))}"
    (tmp_path / f"{name}.py").write_text(
        "from trainers.losses import PreferenceLoss\n"
        "def odd(chosen, rejected, *others, beta):\n"
        "    rewards = chosen.sum(-1).detach(), rejected.sum(-1).detach()\n"
        f"    return {returned}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=words):
        train(pairs, tiny, tmp_path / "out", objective=f"{name}:odd")
