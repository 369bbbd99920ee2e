"""A local model as a policy: the same tokens as Transformers' own generation, whatever the batch."""

import logging

import pytest
import torch

from icto_gym.dialogue import OMITTED, Message
from icto_gym.errors import ConfigError
from icto_gym.wrappers import parse_response
from trainers.models.config import LoRAConfig, ModelConfig
from trainers.models.loading import load_model
from trainers.policies import make_policy
from trainers.policies.base import Turn, Usage
from trainers.policies.decoding import Reply, Request, Words, _sample, choose_token
from trainers.policies.hf import HFPolicy, shortened
from trainers.tokenization import encode_prompt, end_of_turn_ids

TINY = load_model("tiny-random")


def conversation(*texts):
    roles = ("user", "assistant")
    return [Message(roles[number % 2], text) for number, text in enumerate(("Act.", "OK", *texts))]


CONVERSATIONS = [
    conversation("Find a red shoe."),
    conversation("Find a red shoe.", "Action: search[shoe]", "Observation: three shoes, and a hat"),
    conversation("x"),
    conversation("Find " + "a very long thing " * 9),
]


def turns(temperature=0.0, count=4):
    return [
        Turn(CONVERSATIONS[number % 4], {}, f"episode {number}", temperature, seed=number) for number in range(count)
    ]


def policy(**options):
    return HFPolicy(TINY.model, TINY.tokenizer, **{"max_new_tokens": 24, **options})


def transformers_generate(model, tokenizer, messages, max_new_tokens):
    prompt = torch.tensor([encode_prompt(tokenizer, messages)])
    written = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.eos_token_id,
    )
    return tokenizer.decode(written[0, prompt.shape[1] :], skip_special_tokens=True)


def test_greedy_responses_are_those_of_transformers_generate():
    expected = [transformers_generate(TINY.model, TINY.tokenizer, messages, 24).strip() for messages in CONVERSATIONS]
    assert policy().act(turns()) == expected
    assert len(set(expected)) > 1


def test_a_policy_plays_in_another_precision_if_asked():
    half = make_policy("hf:tiny-random", dtype="bfloat16", max_new_tokens=24)
    assert {weight.dtype for weight in half.model.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in half.model.buffers()} == {torch.float32}
    assert half._engine is not None and all(half.act(turns()))
    with pytest.raises(ConfigError, match="Did you mean 'bfloat16'"):
        make_policy("hf:tiny-random", dtype="bfloat")
    with pytest.raises(ConfigError, match="Did you mean 'dtype'"):
        make_policy("hf:tiny-random", dtyp="bfloat16")


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_responses_do_not_depend_on_the_batch(temperature):
    asked = turns(temperature, 9)
    whole = policy().act(asked)
    assert policy(batch_size=2).act(asked) == whole
    assert policy().act(asked[::-1]) == whole[::-1]
    assert [policy().act([turn])[0] for turn in asked] == whole


def test_sampling_follows_the_seed_of_the_turn():
    asked = [turn._replace(seed=turn.seed + 100) for turn in turns(0.9)]
    assert policy().act(asked) == policy().act(asked) != policy().act(turns(0.9))


def test_sampled_tokens_have_the_probabilities_of_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0, -30.0])
    draws = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    counts = torch.bincount(torch.tensor([_sample(logits, 0.5, float(draw)) for draw in draws]), minlength=4)
    assert torch.allclose(counts / 1000, torch.softmax(logits / 0.5, -1), atol=2e-3)
    assert _sample(logits, 0.5, 1.0) == 3  # even where rounding reaches the end


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("Thought: a\nAction: look\n", True),
        ("Thought: a\nAction: look", False),
        ("Thought: a\nAction:\n", False),
        ("Thought: a\nAction:\nlook\n", True),
        ("Action:\n\n", False),
        ("Thought: no\nsuch thing\n", False),
        ("**Action:** `look`\n", True),
    ],
)
def test_a_response_ends_with_its_action_line(text, complete):
    words = Words(TINY.tokenizer, [1])
    reply = Reply(Request("", [], 0.0, 0), words, 1000)
    going_on = [reply.take(token) for token in TINY.tokenizer.encode(text)]
    assert going_on == [True] * (len(going_on) - 1) + [not complete]
    if complete:
        assert parse_response(words.text(reply.ids)).problem == ""


def test_a_response_ends_at_the_end_of_turn_and_at_the_limit():
    words = Words(TINY.tokenizer, [1])
    reply = Reply(Request("", [], 0.0, 0), words, 3)
    assert [reply.take(token) for token in (70, 71, 72)] == [True, True, False] and reply.cut
    reply = Reply(Request("", [], 0.0, 0), words, 3)
    assert [reply.take(70), reply.take(1)] == [True, False]
    assert reply.ids == [70] and reply.written == 2 and not reply.cut


@pytest.mark.parametrize(("text", "cut"), [("Action: look\n", False), ("Action: look", True)])
def test_a_response_is_cut_at_the_limit_unless_its_action_line_is_complete(text, cut):
    tokens = TINY.tokenizer.encode(text)
    reply = Reply(Request("", [], 0.0, 0), Words(TINY.tokenizer, [1]), len(tokens))
    assert not [reply.take(token) for token in tokens][-1] and reply.cut == cut


class Scripted(Words):
    """Words whose text is that of made-up tokens."""

    def text(self, ids):
        return "".join({7: "Thought:", 8: " a", 9: " b"}.get(token, "?") for token in ids)


def test_a_branch_begins_the_thought_with_a_less_likely_word_once():
    reply = Reply(Request("", [], 0.0, 0, branch=2), Scripted(TINY.tokenizer, [1]), 9)
    logits = torch.zeros(16)
    logits[[7, 9, 8]] = torch.tensor([3.0, 2.0, 1.0])
    for _ in range(3):
        reply.take(choose_token(logits, 7, reply))
    assert reply.ids == [7, 8, 7]


def test_equally_likely_words_are_all_tried_once():
    logits = torch.zeros(16)
    logits[[3, 7]] = 5.0
    found = []
    for rank in (0, 1, 99):
        reply = Reply(Request("", [], 0.0, 0, branch=rank), Scripted(TINY.tokenizer, [1]), 9)
        reply.take(7)
        found.append(choose_token(logits, 3, reply))
    assert found == [3, 7, 15]


def test_a_response_without_a_thought_does_not_branch():
    asked = [turn._replace(branch=3) for turn in turns()]
    assert policy().act(asked) == policy().act(turns())


def test_branches_of_a_model_begin_with_different_words():
    """A model that is made to begin with a thought."""
    acting = policy(max_new_tokens=4)
    prefix = TINY.tokenizer.encode("Thought:", add_special_tokens=False)
    acting._words = Words(TINY.tokenizer, end_of_turn_ids(TINY.tokenizer))
    seen = acting._words.text
    acting._words.text = lambda ids: seen([*prefix, *ids])  # as if every response began so
    (messages, *_) = CONVERSATIONS
    found = [acting.act([Turn(messages, {}, f"b{rank}", branch=rank)])[0] for rank in range(4)]
    assert len(set(found)) == 4 and all(text.startswith("Thought:") for text in found)


def test_tokens_are_counted_per_turn():
    acting = policy(max_new_tokens=5)
    acting.act(turns())
    read = [len(encode_prompt(TINY.tokenizer, messages)) for messages in CONVERSATIONS]
    assert acting.last_usage == [Usage(tokens, 5, cut=True) for tokens in read]


def test_old_observations_leave_a_conversation_that_is_too_long(caplog):
    texts = ["Find it."] + [text for number in range(9) for text in (f"Action: {number}", f"Observation: {number}" * 9)]
    messages = conversation(*texts)
    whole = len(encode_prompt(TINY.tokenizer, messages))
    asked = [Turn(messages, {}, "long"), turns()[0]]
    with caplog.at_level(logging.WARNING):
        acting = policy(max_context=whole)
        answers = acting.act(asked)
        policy(max_context=24 + 20).act(asked[:1])
    assert answers[1] == policy().act(asked[1:])[0]
    assert [usage.shortened for usage in acting.last_usage] == [True, False]
    assert "its 4 oldest observations are left out" in caplog.text
    assert "answered with an empty response" in caplog.text


def test_a_conversation_that_cannot_fit_is_answered_with_nothing():
    acting = policy(max_context=30)
    answers = acting.act(turns())
    assert answers == [""] * 4 and acting.last_usage == [Usage(0, 0, overflowed=True)] * 4


def test_shortening_keeps_the_task_and_what_is_seen_now():
    messages = conversation("task", "a", "Observation: 1", "b", "Observation: 2")
    found = list(shortened(messages))
    assert [count for count, _ in found] == [0, 1]
    assert [message.content for message in found[1][1]][2:] == ["task", "a", OMITTED, "b", "Observation: 2"]


def test_act_leaves_the_model_as_it_was():
    model = load_model(ModelConfig("tiny-random", lora=LoRAConfig(r=2)), trainable=True).model
    model.train()
    needed = [parameter.requires_grad for parameter in model.parameters()]
    HFPolicy(model, TINY.tokenizer, max_new_tokens=2).act(turns())
    assert model.training and [parameter.requires_grad for parameter in model.parameters()] == needed


def test_an_adapter_changes_what_is_said_as_merging_it_does():
    adapted = load_model(ModelConfig("tiny-random", lora=LoRAConfig(r=4)), trainable=True).model
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    adapted.eval()
    said = HFPolicy(adapted, TINY.tokenizer, max_new_tokens=24).act(turns())
    merged = HFPolicy(adapted.merge_and_unload(), TINY.tokenizer, max_new_tokens=24).act(turns())
    assert said == merged != policy().act(turns())


def test_a_policy_is_loaded_by_name_and_named_after_its_folder(tmp_path):
    assert make_policy("hf:tiny-random", max_new_tokens=3).name == "tiny-random"
    folder = tmp_path / "iteration-01" / "checkpoint"
    TINY.model.save_pretrained(folder)
    TINY.tokenizer.save_pretrained(folder)
    loaded = make_policy(f"hf:{folder}", max_new_tokens=24)
    assert loaded.name == "iteration-01" and loaded.act(turns()) == policy().act(turns())


@pytest.mark.parametrize(
    ("options", "words"), [({"max_new_token": 3}, "max_new_tokens"), ({"max_new_tokens": 0}, "from 1")]
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        make_policy("hf:tiny-random", **options)
