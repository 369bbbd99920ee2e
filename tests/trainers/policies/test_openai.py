"""Endpoints as policies, tested against a server that answers, errs, dawdles and babbles."""

import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from email.utils import formatdate
from pathlib import Path

import pytest
from endpoint import Endpoint, bad, good

from icto_gym.dialogue import Message
from icto_gym.errors import BackendError, ConfigError
from trainers.policies import make_policy
from trainers.policies.base import Turn, Usage
from trainers.policies.openai import _retry_after

KEY = "sk-secret-1234567890"


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    server = Endpoint()
    yield server
    server.close()


def policy(endpoint, **options):
    return make_policy("openai:m", **{"base_url": endpoint.url, "pause": 0.01, **options})


def turns(*texts, temperature=0.0):
    return [
        Turn([Message("user", text)], {}, f"e{number}", temperature, seed=number) for number, text in enumerate(texts)
    ]


def test_answers_keep_their_order_and_tokens_add_up(endpoint):
    def default(request):
        number = int(request["messages"][-1]["content"])
        return good(f"Action: {number}", (10, number), delay=0.05 * (number % 2))

    endpoint.default = default
    acting = policy(endpoint, concurrency=4)
    assert acting.act(turns(*map(str, range(12)))) == [f"Action: {number}" for number in range(12)]
    assert acting.last_usage[3] == Usage(10, 3) and acting.usage == Usage(120, 66)
    acting.act(turns("5"))
    assert acting.usage == Usage(130, 71)
    assert 1 < endpoint.most_busy <= 4
    assert acting.act([]) == []


def test_an_interrupted_run_does_not_wait_for_a_silent_endpoint(endpoint):
    """Ctrl-C while an answer is awaited that would take two minutes."""
    endpoint.default = lambda request: good("too late", delay=120.0)
    script = (
        "import sys; from trainers.policies import make_policy; from trainers.policies.base import Turn, Message\n"
        "make_policy('openai:m', base_url=sys.argv[1], timeout=300).act([Turn([Message('user', 'hm')], {})])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    process = subprocess.Popen([sys.executable, "-c", script, endpoint.url], env=environment, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not endpoint.requests and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) != 0 and len(endpoint.requests) == 1
    finally:
        process.kill()


def test_a_key_that_a_long_message_ends_in_the_middle_of_is_not_told(endpoint):
    for length in range(400, 501, 8):
        endpoint.answers = [bad(401, "x" * length + KEY)]
        with pytest.raises(BackendError, match="refused: HTTP 401") as caught:
            policy(endpoint).act(turns("hm"))
        assert KEY[:5] not in str(caught.value)


def test_what_is_asked_reaches_the_endpoint(endpoint):
    acting = policy(endpoint, max_new_tokens=9, extra_body={"top_p": 0.5})
    acting.act(
        [Turn([Message("user", "ö \ud800"), Message("assistant", "OK"), Message("user", "go")], {}, "", 0.7, 42)]
    )
    (request,) = endpoint.requests
    assert request["messages"][0] == {"role": "user", "content": "ö ?"} and len(request["messages"]) == 3
    assert (request["model"], request["temperature"], request["seed"]) == ("m", 0.7, 42)
    assert (request["max_tokens"], request["top_p"]) == (9, 0.5)
    assert request["_path"] == "/v1/chat/completions" and request["_authorization"] == f"Bearer {KEY}"


def test_the_address_may_stand_in_the_environment_and_the_key_under_another_name(endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    monkeypatch.setenv("MY_KEY", "other")
    acting = make_policy("openai:m", key_variable="MY_KEY", limit_field="max_completion_tokens", name="mine")
    acting.act(turns("x"))
    assert endpoint.requests[0]["_authorization"] == "Bearer other" and acting.name == "mine"
    assert "max_completion_tokens" in endpoint.requests[0] and "max_tokens" not in endpoint.requests[0]


def test_a_key_is_needed_only_for_openai_itself(endpoint, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert policy(endpoint).act(turns("x")) == ["Action: x"]
    with pytest.raises(ConfigError, match="OPENAI_API_KEY holds no key"):
        make_policy("openai:m")


@pytest.mark.parametrize(
    "trouble",
    [
        bad(429),
        bad(500),
        bad(503),
        bad(502),
        bad(408),
        (200, b'{"choices": [{"mess', {}, 0.0),
        (200, b"{}", {}, 0.0),
        (200, b'{"choices": []}', {}, 0.0),
        (200, b'{"choices": [{"message": {"content": 5}}]}', {}, 0.0),
        (200, b"<html>busy</html>", {"Content-Type": "text/html"}, 0.0),
        good("late", delay=1.0),
    ],
    ids=["429", "500", "503", "502", "408", "torn json", "no choices", "empty choices", "no text", "html", "slow"],
)
def test_a_passing_trouble_is_tried_again(endpoint, trouble):
    endpoint.answers = [trouble, trouble]
    assert policy(endpoint, timeout=0.3).act(turns("x")) == ["Action: x"]
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_is_not_tried_again(endpoint, status):
    endpoint.default = lambda request: bad(status, "no such thing")
    with pytest.raises(BackendError, match=f"refused: HTTP {status}.*no such thing"):
        policy(endpoint).act(turns("x"))
    assert len(endpoint.requests) == 1


def test_an_endpoint_that_stays_broken_ends_the_run(endpoint):
    endpoint.default = lambda request: bad(500, "oops")
    with pytest.raises(BackendError, match=r"m at http://127.*no usable answer in 3 tries; the latest: HTTP 500"):
        policy(endpoint, retries=2).act(turns("x"))
    assert len(endpoint.requests) == 3


def test_an_endpoint_that_is_not_there_ends_the_run(endpoint):
    endpoint.close()
    with pytest.raises(BackendError, match=r"answered nobody for \d+ s \(patience=0.2\).*APIConnectionError"):
        policy(endpoint, patience=0.2).act(turns("x", "y"))


def test_patience_begins_anew_with_the_next_run(endpoint):
    endpoint.answers = [bad(503)] * 40
    acting = policy(endpoint, patience=0.05)
    with pytest.raises(BackendError, match="answered nobody"):
        acting.act(turns("x"))
    time.sleep(0.1)
    endpoint.answers = [bad(503)]
    assert acting.act(turns("x")) == ["Action: x"]


def test_a_question_that_alone_is_turned_away_ends_the_run(endpoint):
    def default(request):
        return bad(429, "too large") if request["messages"][-1]["content"] == "big" else good("ok")

    endpoint.default = default
    acting = policy(endpoint, retries=2, patience=0.3)
    others = [acting.submit(turn) for turn in turns(*"abcdef")]
    assert {future.result().text for future in others} == {"ok"}
    with pytest.raises(BackendError, match=r"(turned one question away|answered nobody) for .*too large"):
        acting.act(turns("big"))
    assert len(endpoint.requests) > 6 + 2


def test_a_spent_quota_and_a_wish_beyond_patience_end_the_run_at_once(endpoint):
    endpoint.answers = [bad(429, "pay", code="insufficient_quota"), bad(503, headers={"Retry-After": "3600"})]
    with pytest.raises(BackendError, match=r"refused: HTTP 429: .*pay"):
        policy(endpoint).act(turns("x"))
    with pytest.raises(BackendError, match="asks to wait 3600 s, more than patience=600"):
        policy(endpoint).act(turns("x"))
    assert len(endpoint.requests) == 2


def test_an_answer_nobody_waits_for_is_not_asked_for_again(endpoint, caplog):
    endpoint.default = lambda request: bad(500)
    acting = policy(endpoint, pause=60.0)
    (turn,) = turns("x")
    future = acting.submit(turn)
    while "asking again" not in caplog.text:
        time.sleep(0.01)
    acting.forget(turn.episode)
    with pytest.raises(BackendError, match="Nobody waits"):
        future.result(timeout=10)
    acting.close()


def test_an_endpoints_wish_holds_for_every_question(endpoint):
    endpoint.answers = [bad(503, headers={"Retry-After": "0.4"})]
    acting = policy(endpoint)
    begin = time.monotonic()
    first = acting.submit(turns("x")[0])
    while acting._gate.silent() == 0.0:
        assert not first.done()
        time.sleep(0.005)
    second = acting.submit(turns("y")[0])
    assert (first.result().text, second.result().text) == ("Action: x", "Action: y")
    assert time.monotonic() - begin >= 0.4  # a lower bound: neither could go out before
    assert len(endpoint.requests) == 3


def test_a_wish_may_be_a_date_and_counts_from_the_endpoints_own_clock(endpoint):
    endpoint.answers = [bad(429, headers={"Retry-After": formatdate(time.time() + 86400, usegmt=True)})]
    with pytest.raises(BackendError, match=r"asks to wait 8\d{4} s, more than patience"):
        policy(endpoint).act(turns("x"))
    headers = {"date": "Wed, 21 Oct 2015 07:28:00 GMT", "retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}
    assert _retry_after(headers) == 30.0


@pytest.mark.parametrize("wish", ["", "nan", "inf", "soon", "Wed, 99 Oct 2015 07:28:00 GMT", "9" * 400])
def test_a_wish_that_makes_no_sense_is_none(wish):
    assert _retry_after({"retry-after": wish}) is None and _retry_after({"retry-after": "-3"}) == 0.0


def test_a_conversation_too_long_is_answered_with_nothing(endpoint, caplog):
    endpoint.answers = [bad(400, "This model's maximum context length is 10 tokens", code="context_length_exceeded")]
    with caplog.at_level(logging.WARNING):
        acting = policy(endpoint)
        assert acting.act(turns("x")) == [""] and acting.last_usage == [Usage(0, 0, overflowed=True)]
    assert "too long" in caplog.text and "e0" in caplog.text


def test_an_answer_without_text_or_counts_is_empty_and_uncounted(endpoint):
    endpoint.answers = [good(None, usage=None)]
    acting = policy(endpoint)
    assert acting.act(turns("x")) == [""] and acting.last_usage == [None] and acting.usage == Usage(0, 0)


@pytest.mark.parametrize(
    ("text", "usage", "expected"),
    [
        ("Thought: a", (7, 3), Usage(7, 3, cut=True)),
        ("Action: look", None, Usage(0, 0, cut=True)),
        ("Action: look\nThought: b", (7, 3), Usage(7, 3)),
        ("Action: look\nThought: b", None, None),
    ],
)
def test_an_answer_that_reached_the_longest_length_is_cut_unless_its_action_line_is_complete(
    endpoint, text, usage, expected
):
    endpoint.answers = [good(text, usage, reason="length")]
    acting = policy(endpoint)
    assert acting.act(turns("x")) == [text] and acting.last_usage == [expected]


@pytest.mark.parametrize("status", [401, 500])
def test_the_key_is_in_no_log_error_or_traceback(endpoint, caplog, status):
    def default(request):  # a server that echoes what it got
        return bad(status, f"Incorrect key {request['_authorization']}")

    endpoint.default = default
    acting = policy(endpoint, retries=1)
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx", "httpcore", "trainers"):
        caplog.set_level(logging.DEBUG, logger=name)
    with pytest.raises(BackendError) as caught:
        acting.act(turns("x"))
    shown = "".join(traceback.format_exception(caught.value))
    told = [str(caught.value), repr(caught.value), shown, repr(acting)]
    told += [record.getMessage() for record in caplog.records]
    assert not [text for text in told if KEY in text] and len(told) > 5
    assert "[key]" in str(caught.value)
    error = caught.value
    while error is not None:
        assert KEY not in repr(error.args)
        error = error.__cause__ or error.__context__


def test_a_key_with_a_line_break_loses_it_and_an_impossible_one_is_not_shown(endpoint, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")  # as `$(cat key.txt)` in other shells leaves it
    policy(endpoint).act(turns("x"))
    assert endpoint.requests[0]["_authorization"] == f"Bearer {KEY}"
    for wrong in (f"{KEY}\n{KEY}", f"{KEY}ü"):
        monkeypatch.setenv("OPENAI_API_KEY", wrong)
        with pytest.raises(ConfigError, match="OPENAI_API_KEY holds characters that no key has") as caught:
            policy(endpoint)
        assert KEY not in str(caught.value) + caplog.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"concurrency": 0}, "concurrency=0"),
        ({"patience": -1.0}, "patience=-1"),
        ({"limit_field": "max_token"}, "Did you mean 'max_tokens'"),
    ],
)
def test_wrong_settings_are_named(endpoint, options, words):
    with pytest.raises(ConfigError, match=words):
        policy(endpoint, **options)
