"""What pairs teach: kinds of decision, one-sided words, and limits to one-sidedness."""

from __future__ import annotations

from episodes import play
from hypothesis import given
from hypothesis import strategies as st

from icto_gym.dialogue import Message
from trainers.pairing import (
    PairingConfig,
    build_pairs,
    decision_kinds,
    describe_balance,
    limit_one_sided,
    one_sided_words,
)
from trainers.pairing.balance import deciding_responses, limit_expert_share, limit_lead
from trainers.records import PreferencePair


def pair(chosen, rejected, number=0, who="p"):
    return PreferencePair(
        f"t/{number}", (Message("user", "task"),), (Message("assistant", chosen),), (Message("assistant", rejected),),
        1.0, "trajectory", f"t/{number}@{who}#0", f"t/{number}@p#1",
    )  # fmt: skip


def act(command, thought="so"):
    return f"Thought: {thought}\nAction: {command}"


def test_a_common_command_is_a_kind_and_a_rare_one_is_named_by_its_verb():
    pairs = [pair(act("Press[Yes]"), act(f"open[item {n}]"), n) for n in range(3)]
    assert {str(kind) for kind in decision_kinds(pairs)} == {"press[yes] over open …"}


def test_a_response_without_a_command_is_malformed():
    assert str(decision_kinds([pair(act("look"), "I do not know")])[0]) == "look … over malformed"


def test_the_deciding_responses_are_the_first_that_differ():
    same = Message("assistant", act("look"))
    seen = Message("user", "Observation: a hall")
    longer = PreferencePair(
        "t", (Message("user", "task"),), (same, seen, Message("assistant", "a")),
        (same, seen, Message("assistant", "b")), 1.0, "trajectory", "x", "y",
    )  # fmt: skip
    assert deciding_responses(longer) == ("a", "b")


def test_words_that_all_chosen_sides_share_are_found():
    pairs = [pair(act("look", f"item {n} is over the limit"), act("look", f"item {n} is ok")) for n in range(4)]
    words = {word.word: (word.chosen_only, word.rejected_only) for word in one_sided_words(pairs)}
    assert words["over"] == (4, 0) and words["ok"] == (0, 4) and "item" not in words


def lead(pairs, command):
    kinds = [kind for kind in decision_kinds(pairs) if kind.chosen != kind.rejected]
    return sum(kind.chosen == command for kind in kinds) - sum(kind.rejected == command for kind in kinds)


def test_a_command_that_nearly_always_wins_is_limited_whatever_it_is_set_against():
    wins = [pair(act("back"), act(f"open {n}"), n) for n in range(12)] + [pair(act("back"), act("buy"), 12)]
    losses = [pair(act(f"open {n}"), act("back"), n) for n in range(13, 20)]
    kept = limit_lead(wins + losses, 0.1)
    assert lead(wins + losses, "back") == 6 and lead(kept, "back") == 2
    assert [item for item in kept if item in losses] == losses
    assert limit_lead(wins + losses, 0.1) == kept and limit_lead(wins, 1.0) == wins
    assert kept == [item for item in wins + losses if item in kept]


def test_a_command_that_nearly_always_loses_is_limited_too():
    pairs = [pair(act(f"open {n}"), act("buy"), n) for n in range(10)]
    assert len(limit_lead(pairs, 0.3)) == 3


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")).filter(lambda two: two[0] != two[1]), max_size=40
    ),
    st.floats(0, 1),
)
def test_no_command_keeps_a_lead(sides, share):
    pairs = [pair(act(chosen), act(rejected), n) for n, (chosen, rejected) in enumerate(sides)]
    kinds = decision_kinds(pairs)
    kept = limit_lead(pairs, share)
    numbers = [int(item.task_id[2:]) for item in kept]
    for command in {head for kind in kinds for head in kind if not head.endswith("…")}:
        mine = [kinds[n] for n in numbers if kinds[n].chosen != kinds[n].rejected]
        ahead = sum(kind.chosen == command for kind in mine) - sum(kind.rejected == command for kind in mine)
        assert share >= 1 or abs(ahead) <= share * len(pairs) + 1e-6


def test_what_a_lead_left_out_is_counted():
    episodes = []
    for n in range(6):
        episodes += [play(["go", "back"], [0, 1.0], task=f"t/{n}"), play(["go", f"open {n}"], task=f"t/{n}", attempt=1)]
    result = build_pairs(episodes, config=PairingConfig(max_command_lead=0.5))
    assert len(result.pairs) == 3 and result.counts["led by one command"] == 3
    assert "3 left out as led by one command" in result.words


def test_one_direction_is_limited_and_its_opposite_counts_against_it():
    forth = [pair(act("yes"), act("no"), n) for n in range(8)]
    back = [pair(act("no"), act("yes"), n) for n in range(2)]
    kept = limit_one_sided(forth + back, 0.2)
    kinds = [str(kind) for kind in decision_kinds(kept)]
    assert kinds.count("yes over no") - kinds.count("no over yes") == 2  # a fifth of ten
    assert kept == [item for item in forth + back if item in kept]  # order kept
    assert limit_one_sided(forth + back, 0.2) == kept
    assert limit_one_sided(forth, 1.0) == forth


def test_decisions_within_one_kind_have_no_direction():
    pairs = [pair(act(f"open[{n}]"), act(f"open[{n + 100}]"), n) for n in range(6)]
    assert limit_one_sided(pairs, 0.0) == pairs


def test_the_expert_is_limited_to_a_share_of_what_stays():
    own = [pair(act("a"), act("b"), n) for n in range(3)]
    theirs = [pair(act("a"), act("b"), n, "expert") for n in range(10, 20)]
    ids = [item.chosen_id for item in theirs]
    kept = limit_expert_share(own + theirs, ids, 0.5)
    assert len(kept) == 6 and kept[:3] == own
    assert limit_expert_share(own + theirs, ids, 1.0) == own + theirs
    assert limit_expert_share(theirs, ids, 0.5) == []


def test_the_summary_counts_pairs():
    found = describe_balance([pair(act("a", "a long thought"), act("b"), 1, "expert")], ["t/1@expert#0"])
    assert (found.pairs, found.expert_chosen, found.chosen_longer) == (1, 1, 1)
    assert describe_balance([]).kinds == {}


@given(st.lists(st.tuples(st.text(st.characters(), max_size=30), st.text(st.characters(), max_size=30)), max_size=6))
def test_any_text_has_a_kind(texts):
    pairs = [pair(left, right, n) for n, (left, right) in enumerate(texts) if left != right]
    assert len(decision_kinds(pairs)) == len(pairs)
    assert describe_balance(pairs).pairs == len(limit_one_sided(pairs, 1.0))


def test_what_one_limit_leaves_out_does_not_break_another():
    episodes = [play(["go", "buy"], [0, 1.0], task=f"t/{n}", thought=f"so {n}") for n in range(10)]
    episodes += [play(["go", "back"], task=f"t/{n}", thought=f"so {n}", attempt=1) for n in range(10)]
    experts = []
    for n in range(10):
        episodes.append(play(["go", f"{'hjklm'[n // 2]}{n}"], task=f"x/{n}"))
        experts.append(play(["go", f"{'abcde'[n // 2]}{n}"], [0, 1.0], task=f"x/{n}", who="expert"))
    config = PairingConfig(max_expert_share=0.5, max_one_sided_share=0.1)
    result = build_pairs(episodes, config=config, expert=experts)
    assert 0 < result.counts["expert chosen"] <= len(result.pairs) / 2
    assert result.counts["too often the expert"] + result.counts["one-sided"] == 20 - len(result.pairs)
