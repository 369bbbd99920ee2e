"""The shop as a web site: what it lets in, what it keeps apart, and what a person can do there."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from packages import installed

if os.environ.get("CI") != "true":  # there the imports below fail
    for package in ("starlette", "uvicorn", "jinja2"):
        installed(package, extra="site")

from icto_gym import TrajectoryStore
from icto_gym.envs.webshop.site.app import STALE, Site
from icto_gym.envs.webshop.site.guard import BODY_LIMIT
from icto_gym.envs.webshop.site.serve import ServeConfig, SiteThread, Till, listening
from icto_gym.envs.webshop.site.visits import Visits
from icto_gym.errors import ConfigError, DataError, InvalidTask

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Client:
    """Sends what it is told to, as it is told to."""

    def __init__(self, address):
        self.address = urlsplit(address)

    def __call__(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=20)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            kind = FORM if body is not None else {}
            connection.request(method, path, body, {**kind, **given}, encode_chunked="Transfer-Encoding" in given)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()
        finally:
            connection.close()

    def post(self, path, **fields):
        return self("POST", path, urlencode(fields))

    def begin(self, index):
        return self.post("/visits", split="dev", index=index)[1]["location"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    record = tmp_path_factory.mktemp("site") / "by-hand.jsonl"
    server = SiteThread(Site(Visits(), Till(ServeConfig(record=record, split="dev"))))
    yield Client(server.address), record
    server.stop()
    server.stop()


@pytest.fixture
def client(served):
    return served[0]


def instruction(page):
    return re.search(r"Instruction: ?<br>(.*?)</h4>", page).group(1)


# ---- play ----------------------------------------------------------------------------------------
def test_a_task_is_played_by_forms_and_recorded_like_any_other(served):
    client, record = served
    visit = client.begin(3)
    assert 'id="search_input"' in client("GET", visit)[2]
    assert client.post(visit, step=0, search_query="fudge", thought="It is a kind of\n fudge.")[0] == 303
    page = client("GET", visit)[2]
    code = re.search(r'value="click\[(B0\w+)\]"', page).group(1)
    client.post(visit, step=1, action=f"click[{code}]")
    client.post(visit, step=2, action="click[Buy Now]")
    page = client("GET", visit)[2]
    assert "How the points came about" in page and "Another task" in page and 'id="act"' not in page
    [trajectory] = list(TrajectoryStore(record))
    assert trajectory.trajectory_id == "webshop-mini/dev/0003@person#0" and trajectory.env_id == "icto/WebShop-v0"
    assert [step.action for step in trajectory.steps] == ["search[fudge]", f"click[{code}]", "click[Buy Now]"]
    assert trajectory.steps[0].response == "Thought: It is a kind of fudge.\nAction: search[fudge]"
    assert trajectory.terminated and f"{trajectory.score:.3f}" in page
    client.post(visit, step=3, action="search[more]")
    assert len(TrajectoryStore(record)) == 1


def test_a_page_that_is_out_of_date_does_nothing(client):
    visit = client.begin(1)
    client.post(visit, step=0, search_query="lamp")
    client.post(visit, step=0, search_query="lamp")  # a double click
    page = client("GET", visit)[2]
    assert STALE in page and 'data-step="1"' in page and STALE not in client("GET", visit)[2]


def test_what_the_shop_does_not_understand_is_said_and_escaped(client):
    visit = client.begin(1)
    client.post(visit, step=0, action="click[<script>alert(1)</script>]")
    page = client("GET", visit)[2]
    assert "did not understand" in page and "<script" not in page


def test_the_step_limit_ends_a_visit(client):
    visit = client.begin(2)
    for step in range(10):
        client.post(visit, step=step, search_query="lamp")
    page = client("GET", visit)[2]
    assert "The step limit was reached" in page and "inert" in page and 'id="act"' not in page


@pytest.mark.parametrize(
    "split, index", [("tset", ""), ("../x.json", "1"), ("dev", "-1"), ("dev", "999999"), ("dev", "٣")]
)
def test_a_task_that_is_not_there_is_named(client, split, index):
    status, _, page = client.post("/visits", split=split, index=index)
    assert status == 400 and 'role="alert"' in page


# ---- security --------------------------------------------------------------------------------------
def test_every_answer_forbids_scripts_frames_and_other_places(client):
    for path in ("/", client.begin(0), "/static/shop.css", "/nowhere"):
        _, headers, page = client("GET", path)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "script-src" not in policy
        assert "form-action 'self'" in policy and headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store" and "server" not in headers
        assert "<script" not in page


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "", "127.0.0.1:x", "[::2]"]
)
def test_foreign_host_names_are_refused(client, host):
    status, headers, page = client("GET", "/", Host=host)
    assert status == 400 and "--allow-host" in page and "content-security-policy" in headers
    assert client("GET", "/", Host="LOCALHOST:81")[0] == 200


@pytest.mark.parametrize("headers", [
    {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"},
    {"Origin": "http://127.0.0.1"},
])  # fmt: skip
def test_forms_of_other_pages_are_refused(client, headers):
    visit = client.begin(0)
    assert client("POST", visit, "step=0&action=x", **headers)[0] == 403
    assert 'data-step="0"' in client("GET", visit)[2]


@pytest.mark.parametrize("path", [
    "/visits/0", "/visits/", "/visits/..%2f..%2fetc%2fpasswd", "/visits/%00", "/visits/%ff%fe", "/visits/a/b",
    "/visits/" + "A" * 32, "/visits/'%20or%201=1", "/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py",
    "/static//etc/passwd", "/static/%2fetc%2fpasswd", "/static/..%5capp.py", "/static/shop.css%00",
    "/templates/visit.html",
])  # fmt: skip
def test_odd_names_and_paths_lead_nowhere(client, path):
    status, _, page = client("GET", path)
    assert status in (400, 404, 405) and "def " not in page and "root:" not in page
    assert path not in page


def test_an_address_too_long_is_refused(client):
    assert client("GET", "/visits/" + "a" * 3_000)[0] == 414
    assert client("GET", "/?" + "a" * 3_000)[0] == 414


def test_one_visit_cannot_read_another_and_names_cannot_be_guessed(client):
    one, other = client.begin(5), client.begin(6)
    assert instruction(client("GET", one)[2]) != instruction(client("GET", other)[2])
    names = {client.begin(5).rpartition("/")[2] for _ in range(20)}
    assert len(names) == 20 and all(len(name) == 32 for name in names)
    assert not any(name[:6] == again[:6] for name in names for again in names if name != again)
    for changed in (one[:-1] + ("A" if one[-1] != "A" else "B"), one[:-1], one.upper(), one + "/"):
        assert client("GET", changed)[0] == 404
    assert other.rpartition("/")[2] not in client("GET", one)[2]


def test_forms_have_a_size_and_a_kind(client):
    visit = client.begin(0)
    large = "step=0&action=" + "x" * BODY_LIMIT
    assert client("POST", visit, large)[0] == 413
    assert client("POST", visit, iter([large.encode()] * 3), Transfer_Encoding="chunked")[0] == 413
    assert client("POST", visit, "{}", Content_Type="application/json")[0] == 415
    assert client("POST", visit, "&".join(f"a{n}=1" for n in range(30)))[0] == 400
    assert client("POST", visit, "action=%ff%fe&step=0")[0] == 400
    assert client("POST", visit, "step=0&exact=" + "[" * 40_000)[0] == 400
    assert client("POST", visit, "step=0&exact=5")[0] == 400
    assert client("PUT", visit, "step=0&action=x")[0] == 405
    assert 'data-step="0"' in client("GET", visit)[2]


def test_a_site_forgets_the_visit_longest_unused():
    class Env:
        closed = False

        def close(self):
            self.closed = True

    class Old:
        def __init__(self):
            self.env = Env()

    visits, kept = Visits(limit=2), [Old() for _ in range(3)]
    names = [visits.open(visit) for visit in kept[:2]]
    visits.find(names[0])
    visits.open(kept[2])
    assert visits.find(names[1]) is None and kept[1].env.closed and visits.find(names[0]) is kept[0]


# ---- the command -----------------------------------------------------------------------------------
def run_icto(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "trainers.cli", "serve", "webshop", "--port", "0", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


@pytest.mark.parametrize("host", [None, "0.0.0.0"])
def test_the_command_listens_on_loopback_only_unless_told_otherwise_and_then_warns(host):
    process = run_icto(*(("--host", host) if host else ()))
    try:
        address = urlsplit(re.search(r"http://\S+", process.stdout.readline()).group().rstrip("."))
        assert address.hostname == (host or "127.0.0.1")
        elsewhere = socket.socket()
        elsewhere.settimeout(5)
        with elsewhere:  # another address of this machine
            reached = elsewhere.connect_ex(("127.0.0.2", address.port)) == 0
        assert reached == (host is not None)
        assert Client(f"http://127.0.0.1:{address.port}")("GET", "/")[0] == 200
    finally:
        process.send_signal(signal.SIGINT)
        out, log = process.communicate(timeout=20)
    assert ("whoever reaches this machine" in log) == (host is not None)
    assert process.returncode == 0 and "Stopped." in out and "Traceback" not in log


def test_a_recording_that_cannot_be_used_is_named_before_anybody_plays(tmp_path):
    torn = tmp_path / "torn.jsonl"
    torn.write_text("{}\n")
    with pytest.raises(DataError, match=r"torn\.jsonl line 1"):
        Till(ServeConfig(record=torn))
    with pytest.raises(OSError):
        Till(ServeConfig(record=tmp_path))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_an_episode_that_cannot_be_written_says_so():
    server = SiteThread(Site(Visits(), Till(ServeConfig(record=Path("/dev/full"), max_episode_steps=1))))
    try:
        client = Client(server.address)
        visit = client.begin(0)
        status, _, page = client.post(visit, step=0, search_query="lamp")
        assert status == 507 and "could not be recorded" in page and "No space left" in page
    finally:
        server.stop()


def test_wrong_settings_are_named():
    with pytest.raises(ConfigError, match="port is 70000"):
        ServeConfig(port=70_000)
    with pytest.raises(ConfigError, match="unexpected keyword argument 'datta'"):
        Till(ServeConfig(env_kwargs={"datta": "mini"}))
    with pytest.raises(InvalidTask, match="Did you mean 'test'"):
        Till(ServeConfig(split="tset"))
    with pytest.raises(InvalidTask, match="Index 99999"):
        Till(ServeConfig(split="dev", index=99_999))
    with listening("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(ConfigError, match="Choose another --port"), listening("127.0.0.1", taken.getsockname()[1]):
            pass
    with pytest.raises(ConfigError, match=r"Cannot listen on 203\.0\.113\.7"), listening("203.0.113.7", 0):
        pass
