"""Rollouts against an endpoint: many at once, through its deaths, and with conversations that its cache knows."""

import json
import re
import subprocess
import sys
import threading
from itertools import pairwise

import endpoint as endpoint_module
import pytest
from endpoint import Endpoint, good

from icto_gym.errors import BackendError
from icto_gym.store import TrajectoryStore
from trainers.policies import make_policy
from trainers.rollout import RolloutConfig, plan_jobs, rollout

SHOP = RolloutConfig(env_id="icto/WebShop-v0", attempts=1, max_tasks=4, max_episode_steps=4)
MANY = RolloutConfig(
    env_id="icto_gym.testing:Scripted-v0", attempts=17, epsilon=0.0, branch_fraction=0.0, max_episode_steps=2
)
KEY = "sk-secret-1234567890"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def endpoint():
    server = Endpoint()
    yield server
    server.close()


def play(path, config, url, *, batch_size=8, **options):
    policy = make_policy("openai:m", base_url=url, **{"pause": 0.01, **options})
    try:
        rollout(policy, config, plan_jobs(config), TrajectoryStore(path), batch_size=batch_size)
    finally:
        policy.close()
    return sorted(path.read_bytes().splitlines())


def test_two_hundred_episodes_are_under_way_and_no_more_requests_than_allowed(tmp_path, endpoint):
    """No request is answered before as many as allowed are with the endpoint; and all that changes no result."""
    endpoint.default = lambda request: good("Action: knock")
    expected = play(tmp_path / "one.jsonl", MANY, endpoint.url, batch_size=1, concurrency=1)
    for allowed in (100, 200):
        full = threading.Event()

        def default(request, allowed=allowed, full=full):
            if endpoint.busy >= allowed:
                full.set()
            assert full.wait(60), "fewer are under way than allowed"
            return good("Action: knock")

        endpoint.default, endpoint.most_busy, endpoint.requests = default, 0, []
        found = play(tmp_path / f"{allowed}.jsonl", MANY, endpoint.url, batch_size=200, concurrency=allowed)
        assert found == expected and len(found) == 12 * 17
        assert endpoint.most_busy == allowed and len(endpoint.requests) == 2 * len(found)


def test_a_slow_answer_holds_nobody_back(tmp_path, endpoint):
    """The first question is answered when every other episode is on disk."""
    config, path = RolloutConfig(**{**vars(MANY), "attempts": 1}), tmp_path / "t.jsonl"
    lock, first = threading.Lock(), []

    def default(request):
        with lock:
            slow = not first
            first.append(1)
        while slow and (not path.exists() or len(path.read_bytes().splitlines()) < 11):
            threading.Event().wait(0.01)
        return good("Action: knock")

    endpoint.default = default
    assert len(play(path, config, endpoint.url, batch_size=2)) == 12
    assert len(endpoint.requests) == 24  # the slow one was waited for, not given up and asked again


def serve(port, *arguments):
    """The endpoint in a process of its own."""
    command = [sys.executable, endpoint_module.__file__, str(port), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process


def free_port():
    server = Endpoint()
    server.close()
    return int(re.search(r":(\d+)/", server.url).group(1))


@pytest.fixture
def processes():
    started = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_an_endpoint_that_is_killed_and_comes_back_changes_nothing(tmp_path, endpoint, processes):
    endpoint.default = endpoint_module.play
    expected = play(tmp_path / "calm.jsonl", SHOP, endpoint.url)
    port = free_port()
    processes.append(serve(port, 6))

    def start_again():
        processes[0].wait()
        processes.append(serve(port))

    thread = threading.Thread(target=start_again)
    thread.start()
    found = play(tmp_path / "t.jsonl", SHOP, f"http://127.0.0.1:{port}/v1", batch_size=3, patience=60.0)
    thread.join()
    assert found == expected and processes[0].returncode == -9 and len(found) == 4


def test_an_endpoint_that_stays_dead_stops_the_run_and_the_same_command_continues(tmp_path, endpoint, processes):
    endpoint.default = endpoint_module.play
    expected = play(tmp_path / "calm.jsonl", SHOP, endpoint.url)
    port, path = free_port(), tmp_path / "t.jsonl"
    url = f"http://127.0.0.1:{port}/v1"
    processes.append(serve(port, 10))
    with pytest.raises(BackendError) as caught:
        play(path, SHOP, url, batch_size=2, patience=0.3)
    before = path.read_bytes()
    stored = len(before.splitlines())
    assert 1 <= stored < 4
    assert re.search(
        rf"m at http://127.0.0.1:{port}/v1.*answered nobody.*{stored} of 4 episodes.*{path}", str(caught.value)
    )
    assert "the same command plays the rest" in str(caught.value) and KEY not in str(caught.value)
    again = Endpoint(port)
    again.default = endpoint_module.play
    found = play(path, SHOP, url, batch_size=2)
    again.close()
    assert found == expected and path.read_bytes().startswith(before)
    assert len(again.requests) == 4 * (4 - stored)  # nothing finished was asked again


def conversations(requests):
    """The messages of every request, as they went over the line."""
    found = []
    for text in (request["_raw"].decode() for request in requests):
        begin = text.index('"messages":') + len('"messages":')
        found.append(text[begin : json.JSONDecoder().raw_decode(text, begin)[1]])
    return found


@pytest.mark.parametrize("brief", [False, True], ids=["whole", "brief"])
@pytest.mark.parametrize("example", [False, True], ids=["alone", "example"])
def test_what_was_sent_before_is_the_beginning_of_what_is_sent_next(tmp_path, endpoint, brief, example):
    """To the byte, so that a server's prefix cache computes nothing twice."""
    endpoint.default = endpoint_module.play
    config = RolloutConfig(**{**vars(SHOP), "brief": brief, "example": example})
    play(tmp_path / "t.jsonl", config, endpoint.url, batch_size=1)
    sent = conversations(endpoint.requests)
    assert len(sent) == 16
    for number, (earlier, later) in enumerate(pairwise(sent), start=1):
        if number % 4:  # else another episode begins
            assert later.startswith(earlier[:-1]) and len(later) > len(earlier)


def test_a_window_over_observations_is_the_exception(tmp_path, endpoint):
    endpoint.default = endpoint_module.play
    play(tmp_path / "t.jsonl", RolloutConfig(**{**vars(SHOP), "window": 1, "max_tasks": 1}), endpoint.url)
    sent = conversations(endpoint.requests)
    assert not all(later.startswith(earlier[:-1]) for earlier, later in pairwise(sent))
