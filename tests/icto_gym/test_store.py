"""The trajectory file: round trips, torn lines, full disks, killed writers."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icto_gym import DataError, Step, Trajectory, TrajectoryStore

HERE = os.path.dirname(__file__)
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)  # lone surrogates and NUL included


def make(number: int = 0, **changes) -> Trajectory:
    step = Step("seen", "Thought: t\nAction: go", "t", "go", 0.5, True)
    values = {
        "trajectory_id": f"x/{number}@p#0", "env_id": "E", "task_id": f"x/{number}", "system_prompt": "s",
        "instruction": "i", "steps": (step,), "final_observation": "end", "score": 0.5, "success": False,
        "terminated": True, "truncated": False, "policy": "p", "seed": number,
    }  # fmt: skip
    return Trajectory(**{**values, **changes})


@given(text=ANY_TEXT, score=st.floats(0, 1), flag=st.booleans())
def test_any_text_survives_the_round_trip(text, score, flag):
    before = make(instruction=text, final_observation=text, score=score, success=flag, extra={"note": text})
    assert Trajectory.from_json(before.to_json()) == before


def test_the_store_gives_back_what_it_was_given_in_order(tmp_path):
    store = TrajectoryStore(tmp_path / "a" / "t.jsonl")
    assert list(store) == [] and len(store) == 0
    for number in range(5):
        store.append(make(number))
    assert list(TrajectoryStore(store.path)) == [make(number) for number in range(5)]
    assert store.ids() == {f"x/{number}@p#0" for number in range(5)}
    assert [t.seed for t in store.filter(lambda t: t.seed > 2)] == [3, 4]


@pytest.mark.parametrize("wrong", ["NaN", "Infinity", "[" * 200_000])
def test_a_line_that_is_no_json_is_named(tmp_path, wrong):
    lines = [make(0).to_json(), make(1).to_json().replace('"score": 0.5', f'"score": {wrong}')]
    (tmp_path / "t.jsonl").write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(DataError, match=r"t\.jsonl line 2: not valid JSON"):
        list(TrajectoryStore(tmp_path / "t.jsonl"))


@pytest.mark.parametrize("keep", [1, 20, -1])
def test_a_torn_last_line_is_skipped_then_set_aside_and_reported(tmp_path, keep, caplog):
    store = TrajectoryStore(tmp_path / "t.jsonl")
    store.append(make(0))
    torn = make(1).to_json().encode()[:keep]
    with open(store.path, "ab") as handle:
        handle.write(torn)
    assert list(store) == [make(0)]
    assert "torn" in caplog.text
    store.append(make(2))
    assert list(store) == [make(0), make(2)]
    assert (tmp_path / "t.jsonl.torn").read_bytes() == torn + b"\n"


def test_a_file_that_is_one_torn_line_recovers(tmp_path):
    store = TrajectoryStore(tmp_path / "t.jsonl")
    store.path.write_bytes(b'{"trajectory_id": "x')
    store.append(make(7))
    assert list(store) == [make(7)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.pop("score"), "field score is missing"),
        (lambda r: r.update(scoer=1), "field scoer is unknown"),
        (lambda r: r.update(score="high"), "field score is 'high', expected float"),
        (lambda r: r.update(success=1), "field success is 1, expected bool"),
        (lambda r: r["steps"][0].update(reward=True), r"field steps\[0\]\.reward is True"),
        (lambda r: r.update(steps=[3]), r"steps\[0\]\. is int"),
        (lambda r: r.update(format_version=9), "format_version is 9"),
    ],
)
def test_a_wrong_line_names_file_line_and_field(tmp_path, change, words):
    store = TrajectoryStore(tmp_path / "t.jsonl")
    store.append(make(0))
    record = json.loads(make(1).to_json())
    change(record)
    with open(store.path, "a") as handle:
        handle.write(json.dumps(record) + "\n")
    with pytest.raises(DataError, match=rf"t\.jsonl line 2: .*{words}"):
        list(store)


def test_a_full_disk_is_a_clear_error():
    with pytest.raises(OSError, match="free space"):
        TrajectoryStore("/dev/full").append(make())
    assert not list(TrajectoryStore("/dev/full"))  # read as a file it would be endless


def test_a_write_cut_by_a_size_limit_leaves_the_file_whole(tmp_path):
    """The limit stands for a disk that fills up within a line."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))\n"
        "sys.path.insert(0, sys.argv[2]); from test_store import make\n"
        "from icto_gym import TrajectoryStore\n"
        "store = TrajectoryStore(sys.argv[1])\n"
        "[store.append(make(n)) for n in range(9)]\n"
    )
    path = tmp_path / "t.jsonl"
    done = subprocess.run([sys.executable, "-c", code, str(path), HERE], capture_output=True, text=True)
    assert done.returncode == 1 and "free space" in done.stderr
    stored = list(TrajectoryStore(path))
    assert stored and stored == [make(number) for number in range(len(stored))]
    assert path.read_bytes().endswith(b"\n")


def test_a_read_only_folder_is_an_error_not_a_silence(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(OSError):
        TrajectoryStore(blocked / "t.jsonl").append(make())


def test_a_writer_killed_at_any_moment_loses_no_finished_line(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from test_store import make\n"
        "from icto_gym import TrajectoryStore; store = TrajectoryStore(sys.argv[1]); n = 0\n"
        "while True:\n"
        "    store.append(make(n, final_observation='x' * 20000)); print(n, flush=True); n += 1\n"
    )
    path = tmp_path / "t.jsonl"
    for _ in range(4):
        path.unlink(missing_ok=True)
        writer = subprocess.Popen([sys.executable, "-c", code, str(path), HERE], stdout=subprocess.PIPE, text=True)
        for _ in range(5):
            said = int(writer.stdout.readline())
        time.sleep(0.003)
        writer.send_signal(signal.SIGKILL)
        said = max([said, *(int(line) for line in writer.stdout.read().split())])
        writer.wait()
        TrajectoryStore(path).append(make(-1))
        seeds = [trajectory.seed for trajectory in TrajectoryStore(path)]
        assert seeds[:-1] == list(range(len(seeds) - 1)) and len(seeds) - 2 >= said and seeds[-1] == -1


def test_two_processes_may_append_to_one_file(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from test_store import make\n"
        "from icto_gym import TrajectoryStore; store = TrajectoryStore(sys.argv[1])\n"
        "[store.append(make(n)) for n in range(40)]\n"
    )
    path = tmp_path / "t.jsonl"
    command = [sys.executable, "-c", code, str(path), HERE]
    for process in [subprocess.Popen(command) for _ in range(2)]:
        assert process.wait() == 0
    assert len(TrajectoryStore(path)) == 80


def test_the_return_is_the_sum_of_rewards():
    steps = tuple(replace(make().steps[0], reward=reward) for reward in (0.25, 0.0, 0.5))
    assert make(steps=steps).episode_return == 0.75 and make(steps=steps).actions == ("go",) * 3


def test_a_last_line_that_lacks_only_its_newline_is_whole(tmp_path, caplog):
    store = TrajectoryStore(tmp_path / "t.jsonl")
    store.path.write_bytes(b"\xef\xbb\xbf" + make(0).to_json().encode() + b"\r\n" + make(1).to_json().encode())
    assert list(store) == [make(0), make(1)]
    store.append(make(2))
    assert list(store) == [make(0), make(1), make(2)]
    assert "torn" not in caplog.text and not store.path.with_name("t.jsonl.torn").exists()


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"chosen": [], "rejected": [], "prompt": []}, "this is a pair, and a trajectory is expected"),
        ({"accepted": True, "judge": "rules"}, "this is a verdict"),
        ({"messages": []}, "`icto import`"),
        ({"colour": 1}, "field colour is unknown\\."),
    ],
)
def test_a_file_of_another_kind_is_recognised(tmp_path, record, words):
    (tmp_path / "t.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(DataError, match=words):
        list(TrajectoryStore(tmp_path / "t.jsonl"))


def test_a_number_too_large_is_no_reward(tmp_path):
    with pytest.raises(DataError, match="field score is inf, expected a finite number"):
        Trajectory.from_json(make().to_json().replace('"score": 0.5', '"score": 1e999'))
