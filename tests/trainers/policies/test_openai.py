"""Endpoints as policies, tested against a server that answers, errs, dawdles and babbles."""

import json
import logging
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from types import SimpleNamespace

import pytest

from icto_gym.dialogue import Message
from icto_gym.errors import BackendError, ConfigError
from trainers.policies import make_policy
from trainers.policies.base import Turn, Usage

KEY = "sk-secret-1234567890"


class Endpoint:
    """A real HTTP server; ``answers`` are given in turn, then ``default`` (a function of the request)."""

    def __init__(self):
        self.requests, self.answers, self.busy, self.most_busy = [], [], 0, 0
        self.default = lambda request: good(f"Action: {request['messages'][-1]['content']}")
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                request["_path"], request["_authorization"] = self.path, self.headers["Authorization"]
                with outer._lock:
                    outer.requests.append(request)
                    outer.busy += 1
                    outer.most_busy = max(outer.most_busy, outer.busy)
                    answer = outer.answers.pop(0) if outer.answers else outer.default
                status, body, headers, delay = answer(request) if callable(answer) else answer
                time.sleep(delay)
                with outer._lock:
                    outer.busy -= 1
                try:
                    self.send_response(status)
                    for name, value in {"Content-Type": "application/json", **headers}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # the client gave up waiting

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def good(text, usage=(7, 3), delay=0.0):
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
    body["choices"] = [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}]
    if usage:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return 200, json.dumps(body).encode(), {}, delay


def bad(status, message="no", headers=None, code=None, delay=0.0):
    body = {"error": {"message": message, "type": "error", "code": code}}
    return status, json.dumps(body).encode(), headers or {}, delay


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
        bad(408),
        (200, b'{"choices": [{"mess', {}, 0.0),
        (200, b"{}", {}, 0.0),
        (200, b'{"choices": []}', {}, 0.0),
        (200, b'{"choices": [{"message": {"content": 5}}]}', {}, 0.0),
        (200, b"<html>busy</html>", {"Content-Type": "text/html"}, 0.0),
        good("late", delay=1.0),
    ],
    ids=["429", "500", "503", "408", "torn json", "no choices", "empty choices", "no text", "html", "slow"],
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
    endpoint.default = lambda request: bad(502, "gateway")
    with pytest.raises(BackendError, match=r"m at http://127.*no usable answer in 3 tries; the latest: HTTP 502"):
        policy(endpoint, retries=2).act(turns("x"))
    assert len(endpoint.requests) == 3


def test_an_endpoint_that_is_not_there_ends_the_run(endpoint):
    endpoint.close()
    with pytest.raises(BackendError, match="APIConnectionError"):
        policy(endpoint, retries=1).act(turns("x", "y"))


def test_pauses_double_and_the_endpoints_wish_holds_for_every_thread(endpoint, monkeypatch):
    pauses = []
    clock = SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic)
    monkeypatch.setattr("trainers.policies.openai.time", clock)
    endpoint.answers = [bad(500)] * 4
    acting = policy(endpoint, pause=1.0)
    acting.act(turns("x"))
    assert [round(pause / 2**number, 6) <= 1.0 for number, pause in enumerate(pauses)] == [True] * 4
    assert all(later > earlier for earlier, later in pairwise(pauses))
    pauses.clear()
    endpoint.answers = [bad(429, headers={"Retry-After": "30"})]
    acting.act(turns("x"))
    assert pauses[0] == 30.0 and pauses[1] > 29.0  # the pause itself, then the check before the next request
    pauses.clear()
    acting.act(turns("another thread"))
    assert pauses[0] > 29.0


def test_a_conversation_too_long_is_answered_with_nothing(endpoint, caplog):
    endpoint.answers = [bad(400, "This model's maximum context length is 10 tokens", code="context_length_exceeded")]
    with caplog.at_level(logging.WARNING):
        assert policy(endpoint).act(turns("x")) == [""]
    assert "too long" in caplog.text and "e0" in caplog.text


def test_an_answer_without_text_or_counts_is_empty_and_uncounted(endpoint):
    endpoint.answers = [good(None, usage=None)]
    acting = policy(endpoint)
    assert acting.act(turns("x")) == [""] and acting.last_usage == [None] and acting.usage == Usage(0, 0)


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
    [({"concurrency": 0}, "concurrency=0"), ({"limit_field": "max_token"}, "Did you mean 'max_tokens'")],
)
def test_wrong_settings_are_named(endpoint, options, words):
    with pytest.raises(ConfigError, match=words):
        policy(endpoint, **options)
