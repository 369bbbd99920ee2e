"""Guesses ahead: they follow what was written, stop where it is unsure, and decide passes, never words."""

import random
from contextlib import contextmanager

import pytest
from conversations import TINY, play, policy
from hypothesis import given, settings
from hypothesis import strategies as st

from icto_gym.errors import ConfigError
from trainers.models.config import LoRAConfig
from trainers.policies import drafts, make_policy
from trainers.policies.decoding import Reply, Request, Words
from trainers.policies.drafts import Drafts


class Wild(Drafts):
    """Guesses of anything, as many as fit; now and then what was written before."""

    def __init__(self, seed):
        super().__init__(most=9)
        self.draw = random.Random(seed)

    def guess(self, written, room):
        count = self.draw.randint(0, min(self.most, room))
        others = [self.draw.randrange(len(TINY.tokenizer)) for _ in range(count)]
        return (super().guess(written, self.draw.randint(0, count)) + others)[:count]


@contextmanager
def counted_passes(acting):
    calls = []
    hook = acting.model.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    hook.remove()


def test_a_response_is_guessed_from_its_beginning_to_its_end():
    store = Drafts(most=8)
    assert store.guess([], 8) == []
    store.learn([5, 6, 7, 1])
    assert store.guess([], 8) == [5, 6, 7, 1]
    assert store.guess([5], 8) == [6, 7, 1]
    assert store.guess([5], 2) == [6, 7] and store.guess([5], 0) == []
    assert store.guess([9, 9, 6], 8) == [7, 1]  # the longest ending that is known
    assert Drafts(most=2).guess([], 8) == [] and len(store) > 0


def test_at_most_so_many_tokens_are_guessed():
    store = Drafts(most=3)
    store.learn([5] * 30)
    assert store.guess([5, 5, 5, 5, 5, 5, 5], 60) == [5, 5, 5]


def test_a_guess_ends_where_the_policy_went_this_way_and_that():
    store = Drafts(most=8)
    for last in (7, 8, 7, 8):
        store.learn([5, 6, last])
    assert store.guess([], 8) == [5, 6]
    for _ in range(8):
        store.learn([5, 6, 7])
    assert store.guess([], 8) == [5, 6, 7]


def test_a_policy_that_changes_its_ways_is_followed():
    store = Drafts(most=1)
    for word in (*[7] * 4, *[8] * 40):
        store.learn([word])
    assert store.guess([], 1) == [8]


def test_the_store_is_bounded(monkeypatch):
    monkeypatch.setattr(drafts, "KEPT", 200)
    store = Drafts(most=4)
    for first in range(0, 1000, 10):
        store.learn(range(first, first + 10))
        assert 0 < len(store) <= 200
    store.learn(range(2000, 9000))
    assert len(store) <= 200
    store.learn(range(990, 1000))
    assert store.guess([990, 991], 4) == [992, 993, 994, 995]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=6), st.lists(st.integers(0, 3), max_size=9))
def test_guesses_are_of_what_was_seen_and_fit(responses, written):
    store = Drafts(most=5)
    for response in responses:
        store.learn(response)
    for room in (0, 3, 60):
        found = store.guess(written, room)
        assert len(found) <= min(room, 5)
        assert set(found) <= {token for response in responses for token in response}
        assert found == store.guess(written, 60)[: len(found)]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("pads", [False, True])
def test_whatever_is_guessed_the_responses_are_the_same(temperature, seed, pads, monkeypatch):
    monkeypatch.setattr("trainers.policies.ragged.PADS", pads)  # as on a GPU
    expected = play(policy(draft_tokens=0), turns=4, temperature=temperature)
    assert play(policy(), turns=4, temperature=temperature) == expected
    for size in (8, 2):
        acting = policy(batch_size=size)
        acting._drafts = Wild(seed)
        assert play(acting, turns=4, temperature=temperature) == expected
        assert acting._drafts.guessed > acting._drafts.right
        assert acting._drafts.right or temperature  # sampled from a random model, no token can be foreseen


def test_what_is_said_again_takes_fewer_passes():
    passes = {}
    for ahead in (0, 8):
        acting = policy(draft_tokens=ahead)
        first = play(acting)
        with counted_passes(acting) as calls:
            assert play(acting) == first
        passes[ahead] = len(calls)
    assert passes[8] < 0.5 * passes[0]
    assert acting._drafts.right == pytest.approx(acting._drafts.guessed, rel=0.3)


def test_no_pass_grows_with_what_may_be_guessed(monkeypatch):
    monkeypatch.setattr("trainers.policies.decoding.DECODED_TOKENS", 20)
    acting = policy(draft_tokens=1 << 40)
    first = play(acting)
    widths = []
    advance = acting._engine.advance

    def watched(kept, written):
        logits = advance(kept, written)
        widths.append(len(logits))
        return logits

    acting._engine.advance = watched
    assert play(acting) == first
    assert 5 < max(widths) <= 20


def test_no_response_grows_beyond_its_limit():
    acting = policy(max_new_tokens=3)
    for _ in range(2):
        play(acting)
        assert all(usage.response_tokens <= 3 for usage in acting.last_usage)
    assert acting._drafts.right


def test_a_response_ends_where_it_ends_whatever_was_guessed_behind():
    reply = Reply(Request("", [], 0.0, 0), Words(TINY.tokenizer, [1]), 3)
    assert reply.room == 3 and reply.take(70) and reply.room == 2 and not reply.complete
    assert not reply.take(1) and reply.complete


def test_adapters_are_guessed_for_as_well():
    from trainers.models.config import ModelConfig
    from trainers.models.loading import load_model

    loaded = load_model(ModelConfig(name="tiny-random", lora=LoRAConfig()), trainable=True)
    assert play(policy(loaded)) == play(policy(loaded, draft_tokens=0))


def test_drafts_can_be_left_out_and_need_the_cache():
    assert policy()._drafts.most == 8 and policy(draft_tokens=3)._drafts.most == 3
    assert policy(draft_tokens=0)._drafts is None and policy(cache=False)._drafts is None
    for wrong in (-1, "8", 2.5, True, None):
        with pytest.raises(ConfigError, match=f"draft_tokens is {wrong!r}; give a whole number"):
            policy(draft_tokens=wrong)
    assert make_policy("hf:tiny-random", draft_tokens=0)._drafts is None
