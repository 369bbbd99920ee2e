"""Keys and values kept over the turns: the tokens are those of reading everything anew, and memory is bounded."""

import logging
import random

import pytest
import torch
from conversations import TINY, play, policy

from icto_gym.dialogue import Message
from trainers.models.config import LoRAConfig, ModelConfig
from trainers.models.loading import load_model, merged_for_generation
from trainers.policies.base import Turn
from trainers.policies.cached import CachedEngine, cache_shape, reproduces
from trainers.policies.decoding import ReencodingEngine
from trainers.policies.hf import HFPolicy
from trainers.policies.kv_cache import ENDED_KEPT, CacheShape, KVCache, common_prefix, shared_beginning
from trainers.tokenization import encode_prompt
from trainers.training.config import DPOConfig
from trainers.training.engine import prepare


def generate_all(loaded, episodes=5, turns=3, **options):
    """The same conversations by Transformers' own generation, one at a time, read anew every turn."""

    class Plain:
        def act(self, questions):
            return [self.answer(question.messages) for question in questions]

        def answer(self, messages):
            prompt = torch.tensor([encode_prompt(loaded.tokenizer, messages)])
            written = loaded.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                max_new_tokens=10,
                pad_token_id=loaded.tokenizer.eos_token_id,
            )
            return loaded.tokenizer.decode(written[0, prompt.shape[1] :], skip_special_tokens=True).strip()

    return play(Plain(), episodes, turns, **options)


def test_the_cached_engine_is_the_default():
    assert isinstance(policy()._engine, CachedEngine)
    assert isinstance(policy(cache=False)._engine, ReencodingEngine)


def test_greedy_tokens_over_many_turns_are_those_of_transformers_generate():
    assert play(policy()) == generate_all(TINY)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_that_move_with_the_longest_row_are_not_kept(kind):
    class Rotary(torch.nn.Module):
        rope_type = kind

    loaded = load_model("tiny-random")
    loaded.model.add_module("another", Rotary())
    engine = CachedEngine(loaded.model, max_bytes=1 << 20)
    assert reproduces(engine, loaded.model) == f"positions of kind {kind} change with the longest row"
    loaded.model.another.rope_type = {"full_attention": "default", "sliding_attention": kind}
    assert kind in reproduces(engine, loaded.model)
    loaded.model.another.rope_type = {"full_attention": "default", "sliding_attention": "linear"}
    assert reproduces(engine, loaded.model) == ""


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_keeping_changes_nothing_at_any_batch_size(temperature):
    expected = play(policy(cache=False), temperature=temperature)
    assert play(policy(), temperature=temperature) == expected
    assert play(policy(batch_size=2), temperature=temperature) == expected
    assert play(policy(batch_size=1), temperature=temperature) == expected


def test_episodes_that_are_not_asked_in_some_turns_stay_right():
    def leave_out(turn, episode):
        return (turn + episode) % 3 == 0

    assert play(policy(), leave_out=leave_out) == play(policy(cache=False), leave_out=leave_out)


def test_only_new_tokens_are_computed():
    acting, plain = policy(), policy(cache=False)
    play(acting, episodes=4, turns=5)
    read = []
    act = plain.act
    plain.act = lambda turns: act(turns) + (read.extend(plain.last_usage) or [])
    play(plain, episodes=4, turns=5)
    anew = sum(usage.prompt_tokens + usage.response_tokens for usage in read)
    assert acting._engine.encoded_tokens < 0.5 * anew


def test_a_shared_beginning_is_computed_once():
    instruction = [Message("user", "You act. " * 20), Message("assistant", "OK")]
    turns = [
        Turn([*instruction, Message("user", text)], {}, str(n)) for n, text in enumerate(["task a", "task b", "task b"])
    ]
    acting = policy(max_new_tokens=1)
    acting.act(turns)
    lengths = [len(encode_prompt(TINY.tokenizer, turn.messages)) for turn in turns]
    assert acting._engine.encoded_tokens < lengths[0] + 45 < sum(lengths)
    assert acting._engine.cache.reused_tokens > 2 * 180


def test_an_ended_episode_still_serves_the_next_attempt_at_its_task():
    acting = policy(max_new_tokens=2)
    question = [Message("user", "You act. " * 20), Message("assistant", "OK"), Message("user", "task a")]
    acting.act([Turn(question, {}, "first")])
    acting.forget("first")
    before = acting._engine.encoded_tokens
    acting.act([Turn(question, {}, "second")])
    assert acting._engine.encoded_tokens - before <= 3


def test_memory_is_bounded_and_what_was_evicted_is_read_anew():
    expected = play(policy(cache=False))
    one_row = 512 * cache_shape(TINY.model).bytes_per_token
    for rows in (4, 1):
        acting = policy(cache_bytes=rows * 2 * one_row)
        assert play(acting) == expected
        assert acting._engine.cache.bytes <= rows * 2 * one_row
    assert acting._engine.cache.evictions > 0


def test_few_rows_of_ended_episodes_stay():
    acting = policy(max_new_tokens=2)
    for number in range(20):
        acting.act([Turn([Message("user", f"task {number}")], {}, str(number))])
        acting.forget(str(number))
    assert len(acting._engine.cache) <= ENDED_KEPT + 1


def test_new_weights_are_noticed():
    adapted = load_model(ModelConfig("tiny-random", lora=LoRAConfig(r=4)), trainable=True)
    adapted.model.eval()
    acting = policy(adapted)
    before = play(acting)
    with torch.no_grad():
        for name, parameter in adapted.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    assert play(acting) == play(policy(adapted, cache=False)) != before
    with merged_for_generation(adapted.model):
        assert play(acting) == play(policy(adapted, cache=False))


def test_a_response_that_was_written_down_otherwise_is_read_anew():
    acting = policy()
    start = [Message("user", "You act."), Message("assistant", "OK"), Message("user", "task")]
    acting.act([Turn(start, {}, "e")])
    changed = [*start, Message("assistant", "Action: something else"), Message("user", "Observation: x")]
    assert acting.act([Turn(changed, {}, "e")]) == policy(cache=False).act([Turn(changed, {}, "e")])


def test_turns_without_an_episode_or_with_the_same_one_do_not_mix():
    texts = ["a", "b b b", "c", "b b b and more"]
    for names in (["", "", "", ""], ["e", "e", "", "e"]):
        acting = policy()
        turns = [Turn([Message("user", text)], {}, name) for text, name in zip(texts, names, strict=True)]
        assert acting.act(turns) == acting.act(turns) == policy(cache=False).act(turns)
        assert acting.act(turns[::-1]) == policy(cache=False).act(turns)[::-1]


def test_long_prompts_are_read_in_packs(monkeypatch):
    monkeypatch.setattr("trainers.policies.cached.PACKED_TOKENS", 50)
    monkeypatch.setattr("trainers.policies.ragged.QUERY_BLOCK", 16)
    assert play(policy(), turns=2) == play(policy(cache=False), turns=2)


def test_a_model_that_attends_otherwise_is_read_anew_every_turn(caplog):
    from transformers import MistralConfig, MistralForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = MistralConfig(
            vocab_size=259, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, sliding_window=16, eos_token_id=1, bos_token_id=0, pad_token_id=2,
        )  # fmt: skip
        model = MistralForCausalLM(config).eval()
    with caplog.at_level(logging.INFO):
        acting = HFPolicy(model, TINY.tokenizer, max_new_tokens=20)
    assert isinstance(acting._engine, ReencodingEngine) and "sliding_window" in caplog.text
    assert acting.act([Turn([Message("user", "x " * 30)], {}, "e")])


@pytest.mark.parametrize("kind", ["Qwen2", "GPTNeoX", "Phi3"])
def test_other_architectures_are_reproduced_too(kind):
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=259, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, eos_token_id=1, bos_token_id=0, pad_token_id=2,
    )  # fmt: skip
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.inference_mode():
        assert reproduces(CachedEngine(model, max_bytes=1 << 20), model) == ""


def test_rows_keep_their_tokens_when_buffers_grow_and_move():
    shape = CacheShape(layers=2, heads=1, width=2, dtype=torch.float32, device=torch.device("cpu"))
    cache = KVCache(shape, max_bytes=shape.bytes_per_token * 256 * 6)
    (row,) = cache.open(["a"], 10)
    row.ids = [5, 6, 7]
    cache.keys[1][row.slot, :, :3] = 3.0
    cache.open(["b", "c"], 300)
    assert cache.capacity >= 300 and bool((cache.keys[1][row.slot, :, :3] == 3.0).all())
    cache.forget("a")
    names = ["d", "e", "f"]
    rows = cache.open(names, 300)
    assert len({one.slot for one in rows}) == 3 and cache.bytes <= cache.max_bytes


def test_the_common_prefix_of_two_sequences():
    for _ in range(200):
        draw = random.Random(_)
        first, second = ([draw.randint(0, 1) for _ in range(draw.randint(0, 9))] for _ in range(2))
        expected = 0
        while expected < min(len(first), len(second)) and first[expected] == second[expected]:
            expected += 1
        assert common_prefix(first, second) == expected
        assert shared_beginning(first, second, 3) == (expected if expected >= 3 else 0)


@pytest.mark.model
def test_smollm2_says_the_same_as_transformers_generate():
    loaded = load_model("smollm2-135m-instruct")
    assert play(policy(loaded), episodes=3, turns=3) == generate_all(loaded, episodes=3, turns=3)


@pytest.mark.parametrize("lora", [LoRAConfig(r=4), None])
@pytest.mark.parametrize("dropout", [True, False])
def test_a_policy_in_training_is_watched_over_kept_keys_and_values(lora, dropout):
    """Without dropout its layers read a configuration of their own; reading every turn anew takes far longer."""
    loaded = load_model(ModelConfig(name="tiny-random", lora=lora), trainable=True)
    assert prepare(loaded.model, DPOConfig(), dropout=dropout)
    with merged_for_generation(loaded.model) as merged:
        assert isinstance(HFPolicy(merged, loaded.tokenizer)._engine, CachedEngine)
    assert {item.config._attn_implementation for item in loaded.model.modules() if hasattr(item, "layer_idx")} == {
        "icto_segments"
    }
