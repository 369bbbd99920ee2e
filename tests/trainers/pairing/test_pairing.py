"""Pairing worked by hand: where episodes part, what is ahead when, and who is set against whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
from episodes import play
from hypothesis import given
from hypothesis import strategies as st

from icto_gym.errors import ConfigError, DataError
from icto_gym.trajectory import Step
from trainers.pairing import (
    PairingConfig,
    Unpaired,
    build_pairs,
    contrast,
    cumulative_contrast,
    divergence,
    make_pairing,
    step_pair,
    trajectory_pair,
    weights_from_contrast,
)
from trainers.records import StepRewards, Verdict

WON = play(["search", "open a", "buy"], [0, 0, 1.0])
LOST = play(["search", "open b", "back", "buy"], [0, 0, 0, 0.4], attempt=1)


def test_episodes_part_where_their_commands_first_differ():
    assert divergence(WON, LOST) == 1


def test_where_equal_commands_led_elsewhere_the_step_before_is_the_first_paired_one():
    other = play(["search", "open a", "buy"], view=["start", "after search", "a burglar", "end"])
    assert divergence(WON, other) == 1


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (play(["search", "open a", "buy"]), "identical"),
        (play(["search", "open a"]), "nothing trainable"),
        (play([]), "nothing trainable"),
        (play(["search"], view=["elsewhere", "end"]), "different start"),
    ],
)
def test_episodes_that_make_no_pair_say_why(other, reason):
    with pytest.raises(Unpaired, match=reason):
        divergence(WON, other)


def test_an_empty_response_is_nothing_to_imitate():
    silent = play(["search", "open c", "buy"], [0, 0, 1.0])
    steps = (*silent.steps[:2], Step("o", "  ", "", "", 0.0, False))
    with pytest.raises(Unpaired, match="nothing trainable"):
        contrast(replace(silent, steps=steps), LOST)


def test_the_shared_prefix_is_prompt_and_both_sides_start_with_a_response():
    pair = trajectory_pair(contrast(WON, LOST))
    assert [message.role for message in pair.prompt] == ["user", "assistant", "user", "assistant", "user"]
    assert pair.prompt[3].content == "Thought: so\nAction: search"
    assert pair.prompt[4].content == "Observation: after search"
    assert [m.content for m in pair.chosen if m.role == "assistant"] == [s.response for s in WON.steps[1:]]
    assert len(pair.rejected) == 5 and pair.margin == pytest.approx(0.6)


def test_a_long_failure_is_cut_to_the_success_and_some_steps():
    loop = play(["search", *["knock"] * 9])
    assert len(trajectory_pair(contrast(WON, loop)).rejected) == 17
    assert len(trajectory_pair(contrast(WON, loop), max_extra_steps=1).rejected) == 5  # 2 chosen steps + 1


def test_a_failure_can_be_cut_to_the_deciding_step():
    assert len(trajectory_pair(contrast(WON, LOST), max_rejected_steps=1).rejected) == 1
    assert len(trajectory_pair(contrast(WON, LOST), 0, max_rejected_steps=3).rejected) == 3  # two steps are chosen


def test_a_failure_is_set_against_the_best_of_the_closest_and_the_closest_pairs_are_kept():
    worse = play(["search", "open b", "back", "ask"], [0, 0, 0, 0.6], attempt=2)
    near = play(["search", "open b", "back", "leave"], [0, 0, 0, 0.9], attempt=3)
    early = play(["find", "buy"], [0, 0.1], attempt=4)
    closest = PairingConfig(success_threshold=None, max_pairs_per_task=1, closest_first=True)

    def kept(config):
        (pair,) = build_pairs([early, LOST, WON, worse, near], config=config).pairs
        return pair.chosen_id, pair.rejected_id

    assert kept(closest) == (near.trajectory_id, LOST.trajectory_id)
    assert kept(replace(closest, closest_first=False))[1] == early.trajectory_id


def test_copies_of_one_contrast_do_not_fill_the_limit_of_a_task():
    good = play(["search", "back", "leave"], [0, 0, 1.0], attempt=9)
    same = [play(["search", "oops", f"then {n}"], attempt=n) for n in range(3)]
    late = play(["search", "back", "ask"], [0, 0, 0.5], attempt=4)
    config = PairingConfig(success_threshold=None, max_pairs_per_task=2, max_rejected_steps=1, closest_first=True)
    result = build_pairs([*same, late, good], config=config)
    assert {pair.rejected_id for pair in result.pairs} >= {late.trajectory_id} and len(result.pairs) == 2
    assert result.counts["repeated"] == 2


def test_pairs_can_be_kept_to_where_episodes_were_taken_up_again():
    again = replace(play(["search", "open b", "leave"], [0, 0, 0.9], attempt=7), extra={"retried_step": 2})
    config = PairingConfig(success_threshold=None, retries_only=True)
    result = build_pairs([WON, LOST, again], config=config)
    assert [(pair.chosen_id, pair.rejected_id) for pair in result.pairs] == [(again.trajectory_id, LOST.trajectory_id)]
    assert result.counts["parts elsewhere than at a retry"] == 2


def test_step_pairs_keep_to_the_same_limit_of_steps():
    config = PairingConfig(success_threshold=None, granularity="step", max_rejected_steps=1)
    (pair,) = build_pairs([WON, LOST], config=config).pairs
    assert len(pair.chosen) == len(pair.rejected) == 1


def test_eq_2_by_hand():
    # success pays .2 .0 .8, failure .1 .3: after its end the failure earns nothing more
    assert cumulative_contrast([0.2, 0.0, 0.8], [0.1, 0.3]) == pytest.approx([0.1, -0.2, 0.6])
    assert cumulative_contrast([1.0], [0.0, 0.0, 0.5]) == pytest.approx([1.0, 1.0, 0.5])
    assert cumulative_contrast([], []) == []


def test_weights_are_the_lead_or_uniform():
    assert weights_from_contrast([0.1, -0.2, 0.6]) == pytest.approx((0.1, 0.0, 0.6))
    assert weights_from_contrast([-0.4, 0.0]) == (1.0, 1.0)
    assert weights_from_contrast([1e-17, 0.0]) == (1.0, 1.0)


def test_step_pairs_end_with_the_last_weighted_step():
    good = play(["a", "b", "c", "d"], [0.5, 0.0, 0.0, 0.5])
    bad = play(["x", "y", "z"], [0.0, 0.5, 0.1], attempt=1)
    pair = step_pair(contrast(good, bad), [0.5, 0, 0, 0.5], [0, 0.5, 0.1])
    assert pair.step_weights == pytest.approx((0.5,))  # R = .5, 0, -.1
    assert len(pair.chosen) == len(pair.rejected) == 1


def test_the_lead_counts_from_the_first_step_of_the_episode():
    rewards = ([0.3, 0.0, 0.7], [0.1, 0.0, 0.0, 0.4])
    pair = step_pair(contrast(WON, LOST), *rewards)
    assert pair.step_weights == pytest.approx((0.2, 0.9))


def test_a_horizon_of_one_pairs_the_deciding_step_alone():
    pair = step_pair(contrast(WON, LOST), [0, 0, 1.0], [0, 0, 0, 0.4], horizon=1)
    assert pair.step_weights == (1.0,) and len(pair.chosen) == 1


@given(st.lists(st.floats(-1, 1), max_size=6), st.lists(st.floats(-1, 1), max_size=6))
def test_the_last_lead_is_the_difference_of_the_returns(success, failure):
    lead = cumulative_contrast(success, failure)
    assert len(lead) == max(len(success), len(failure))
    assert not lead or lead[-1] == pytest.approx(sum(success) - sum(failure), abs=1e-9)


def test_an_expert_prefix_is_never_rejected():
    branched = replace(LOST, extra={"prefix_steps": 2})
    with pytest.raises(Unpaired, match="expert's steps"):
        contrast(WON, branched)
    assert contrast(WON, replace(LOST, extra={"prefix_steps": 1})).start == 1


def test_commands_drawn_at_random_are_not_trained_unless_asked_for():
    lucky = replace(WON, extra={"random_steps": [1]})
    with pytest.raises(Unpaired, match="random steps on the chosen side"):
        contrast(lucky, LOST)
    with pytest.raises(Unpaired, match="a random step decides"):
        contrast(WON, replace(LOST, extra={"random_steps": [1]}))
    assert len(trajectory_pair(contrast(WON, replace(LOST, extra={"random_steps": [0, 2]}))).rejected) == 1
    assert contrast(lucky, LOST, train_random_steps=True).rejected_steps == 3


# ---- who is set against whom


EXPERT = play(["search", "open a", "buy"], [0, 0, 1.0], who="expert", thought="expertly")


def test_own_successes_are_chosen_before_the_expert():
    own = play(["search", "open a", "read", "buy"], [0, 0, 0, 1.0], attempt=2)
    result = build_pairs([LOST, own], expert=[EXPERT])
    assert [pair.chosen_id for pair in result.pairs] == [own.trajectory_id]
    swapped = build_pairs([LOST, own], expert=[EXPERT], config=PairingConfig(prefer_own_success=False))
    assert [pair.chosen_id for pair in swapped.pairs] == [EXPERT.trajectory_id]
    assert [result.counts[name] for name in ("own chosen", "expert chosen")] == [1, 0]
    assert [swapped.counts[name] for name in ("own chosen", "expert chosen")] == [0, 1]


def test_the_expert_is_a_success_of_its_own_task_only():
    other = play(["x"], task="t/2")
    result = build_pairs([LOST, other], expert=[EXPERT])
    assert [pair.task_id for pair in result.pairs] == ["t/1"]
    assert result.counts["without a success"] == 1 and result.counts["tasks paired"] == 1


def test_the_expert_is_a_success_whatever_its_score():
    weak = play(["search", "open a", "buy"], [0, 0, 0.9], who="expert")
    assert [pair.chosen_id for pair in build_pairs([LOST], expert=[weak]).pairs] == [weak.trajectory_id]
    better = play(["search", "open b", "buy"], [0, 0, 0.95])
    assert build_pairs([better], expert=[weak]).counts["ties"] == 1  # no lead, no pair


def test_every_task_has_one_outcome_and_the_words_say_it():
    episodes = [
        LOST, WON,
        play(["a"], [1.0], task="t/2"),  # without a failure
        play(["a"], [0.2], task="t/3"),  # without a success
        play(["a"], [0.995], task="t/4"), play(["b"], [1.0], task="t/4", attempt=1),  # a tie
        play(["a"], [0.0], task="t/5", error="server died"),
        play(["a", "b"], [0.0, 0.0], task="t/6"), play(["a"], [1.0], task="t/6", attempt=1),  # one begins the other
    ]  # fmt: skip
    result = build_pairs(episodes)
    outcomes = {"tasks paired": 1, "without a failure": 1, "without a success": 2, "ties": 1}
    assert {name: result.counts[name] for name in outcomes} == outcomes
    assert result.counts["broken"] == 1 and result.counts["without a usable contrast"] == 1
    assert result.words.startswith("paired 6 tasks: 1 pairs, 1 ties, 2 without a success")


def test_the_smallest_margin_is_inclusive_and_the_threshold_too():
    config = PairingConfig(success_threshold=0.5, min_margin=0.1)
    near = [play(["a"], [0.5]), play(["b"], [0.4], attempt=1)]
    assert len(build_pairs(near, config=config).pairs) == 1


def test_without_a_threshold_the_better_episode_wins_even_against_the_expert():
    weak = play(["look"], [0.3], who="expert")
    config = PairingConfig(success_threshold=None)
    result = build_pairs([play(["a"], [0.6])], config=config, expert=[weak])
    assert [(pair.chosen_id, pair.rejected_id) for pair in result.pairs] == [("t/1@p#0", "t/1@expert#0")]


def verdict(trajectory, accepted=True, score=1.0):
    return Verdict(trajectory.trajectory_id, accepted, score, "because", "test")


def test_a_judge_can_keep_an_episode_from_being_chosen_and_a_worthless_one_from_being_rejected():
    won, lost = verdict(WON), verdict(LOST, accepted=False, score=0.3)
    assert len(build_pairs([WON, LOST], [won, lost]).pairs) == 1
    assert build_pairs([WON, LOST], [verdict(WON, False, 0.5), lost]).counts["not to be chosen"] == 1
    worthless = build_pairs([WON, LOST], [won, verdict(LOST, False, 0.0)])
    assert not worthless.pairs and worthless.counts["not to be rejected"] == 1
    strict = PairingConfig(rejected_verdict="accepted")
    assert not build_pairs([WON, LOST], [won, lost], config=strict).pairs
    anyone = PairingConfig(rejected_verdict="any")
    assert len(build_pairs([WON, LOST], [won, verdict(LOST, False, 0.0)], config=anyone).pairs) == 1


def test_an_episode_without_a_verdict_is_an_error_that_names_it():
    with pytest.raises(DataError, match="t/1@p#1"):
        build_pairs([WON, LOST], [verdict(WON)])


def test_limits_hold_and_failures_spread_over_the_successes():
    wins = [play([f"w{n}"], [1.0], attempt=n) for n in range(2)]
    losses = [play([f"l{n}"], attempt=10 + n) for n in range(5)]
    result = build_pairs(wins + losses, config=PairingConfig(max_pairs_per_task=4))
    assert len(result.pairs) == 4 and result.counts["over the limit per task"] == 1
    chosen = [pair.chosen_id for pair in result.pairs]
    assert {chosen.count(win.trajectory_id) for win in wins} == {2}
    twice = PairingConfig(max_pairs_per_task=99, max_pairs_per_failure=2)
    assert len(build_pairs(wins + losses, config=twice).pairs) == 10


def test_mixed_granularity_makes_both_kinds_of_every_contrast():
    result = build_pairs([WON, LOST], config=PairingConfig(granularity="mixed"))
    assert [pair.granularity for pair in result.pairs] == ["trajectory", "step"]


def test_given_step_rewards_enter_the_weights_and_missing_ones_are_counted():
    scored = [StepRewards(WON.trajectory_id, (0.1, 0.6, 0.3), "learned")]
    result = build_pairs([WON, LOST], step_rewards=scored)
    assert result.pairs[0].step_weights == pytest.approx((0.7, 1.0))  # one for each of the two paired steps
    assert result.counts["rewards as recorded"] == 1
    with pytest.raises(DataError, match="3 steps and 1 step rewards"):
        build_pairs([WON, LOST], step_rewards=[StepRewards(WON.trajectory_id, (0.1,), "learned")])


def test_step_pairs_that_train_everything_but_the_decision_are_counted_and_warned_of(caplog):
    good, bad = play(["look", "a", "buy"], [0, 0, 1.0]), play(["look", "b", "buy"], [0, 0, 0.2], attempt=1)
    step = PairingConfig(granularity="step")
    sparse = build_pairs([good, bad], config=step)
    assert sparse.pairs[0].step_weights == pytest.approx((0.0, 0.8))  # "a" or "b" was the difference
    assert sparse.counts["deciding step without weight"] == 1 and "step_horizon" in caplog.text
    caplog.clear()
    values = [StepRewards(good.trajectory_id, (0.5, 0.4, 0.1), "x"), StepRewards(bad.trajectory_id, (0.5, 0, 0), "x")]
    for result in (
        build_pairs([good, bad], step_rewards=values, config=step),
        build_pairs([good, bad], config=PairingConfig(granularity="step", step_horizon=1)),
    ):
        assert not result.counts["deciding step without weight"] and result.pairs[0].step_weights[0] > 0
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"granularity": "stepp"}, {"max_pairs_per_task": 0}, {"min_margin": 0.0}, {"max_extra_steps": -1},
        {"max_one_sided_share": 1.5}, {"use_expert": False, "use_own_success": False}, {"rejected_verdict": "all"},
        {"step_horizon": 0},
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PairingConfig(**wrong)


episodes = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.sampled_from("abc"), max_size=4), st.sampled_from([0.0, 0.5, 1.0])),
    max_size=12,
)


@given(episodes, st.sampled_from(["trajectory", "step", "mixed"]), st.sampled_from([None, 1.0]))
def test_whatever_was_played_pairs_share_their_task_and_the_better_side_is_chosen(played, granularity, threshold):
    made = [
        play(actions, [0.0] * (len(actions) - 1) + [score] if actions else None, task=f"t/{task}", attempt=n)
        for n, (task, actions, score) in enumerate(played)
    ]
    by_id = {item.trajectory_id: item for item in made}
    result = build_pairs(made, config=PairingConfig(granularity=granularity, success_threshold=threshold))
    for pair in result.pairs:
        good, bad = by_id[pair.chosen_id], by_id[pair.rejected_id]
        assert good.task_id == bad.task_id == pair.task_id
        assert pair.margin == pytest.approx(good.score - bad.score) and pair.margin > 0
    outcomes = ("tasks paired", "ties", "without a success", "without a failure", "without a usable contrast")
    assert sum(result.counts.get(name, 0) for name in outcomes) == result.counts["tasks"]


def test_a_pairing_of_ones_own_plugs_in_by_its_dotted_path(tmp_path, monkeypatch):
    (tmp_path / "own_pairing.py").write_text(
        "from trainers.pairing import PairingConfig, PairingResult, build_pairs\n"
        "def steps(trajectories, verdicts=None, step_rewards=None, config=None, *, expert=()):\n"
        "    return build_pairs(trajectories, verdicts, step_rewards, PairingConfig('step'), expert=expert)\n"
        "def bare(*episodes, **others):\n"
        "    return list(steps(*episodes, **others).pairs)\n"
        "def wrong(*episodes, **others):\n"
        "    return ['pair']\n"
        "def wrapped(*episodes, **others):\n"
        "    return PairingResult((1,))\n"
        "nothing = 5\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("steps", "bare"):
        config = PairingConfig(granularity=f"own_pairing:{name}")
        result = make_pairing(config)([LOST], None, None, config, expert=iter([EXPERT]))
        assert [pair.granularity for pair in result.pairs] == ["step"]
        assert result.counts["pairs"] == result.counts["expert chosen"] == result.balance.expert_chosen == 1
        assert result.counts["own chosen"] == 0
    assert make_pairing(PairingConfig()) is build_pairs
    for name, kind in (("wrong", "str"), ("wrapped", "int")):
        with pytest.raises(ConfigError, match=f"own_pairing:{name}' gave a {kind}"):
            make_pairing(PairingConfig(granularity=f"own_pairing:{name}"))([LOST])
    for path, words in (
        ("own_pairing:nothing", "of type int"),
        ("own_pairing:x", "could not be loaded"),
        (":", "loaded"),
        (".x:y", "loaded"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_pairing(PairingConfig(granularity=path))
