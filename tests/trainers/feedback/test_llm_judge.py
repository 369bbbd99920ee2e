"""The judge by language model: what is asked, and every answer that cannot be read."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packages import installed

from icto_gym.errors import ConfigError
from icto_gym.trajectory import Step, Trajectory
from trainers import stages
from trainers.feedback import EndpointJudge, EndpointJudgeConfig, JudgeConfig, RuleConfig, judge_all, make_judge
from trainers.feedback.llm_judge import UnreadableVerdict, parse_verdict
from trainers.records import Verdict, read_records, write_records
from trainers.runs import Run

GOOD = '{"accepted": true, "score": 0.9, "reason": "step 2 buys the right one"}'


def play(attempt=0, action="look", error=None, observation="a hall"):
    steps = (Step(observation, f"Thought: hm\nAction: {action}", "hm", action, 1.0, True),)
    return Trajectory(
        f"t/1@p#{attempt}", "e", "t/1", "", "Find it.", steps, "found", 1.0, True, True, False, "p", 0, error
    )


class Answers:
    """Gives its answers in turn and keeps the questions."""

    def __init__(self, *answers):
        self.answers, self.questions = list(answers), []

    def __call__(self, messages):
        self.questions.append(list(messages))
        return self.answers.pop(0)


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Let me think {{about}} it. {{\"a\": 1}} My verdict: {GOOD} I hope this helps.",
        GOOD.replace("true", '"yes"'),
    ],
)  # fmt: skip
def test_a_verdict_is_found_in_whatever_is_written_around_it(answer):
    assert parse_verdict(answer) == (True, 0.9, "step 2 buys the right one")


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("", "the answer is empty"),
        ("It is fine.", "no JSON object"),
        ('{"accepted": true, "score": 0.9, "rea', "no JSON object"),
        ('{"score": 1, "reason": "r"}', "no JSON object with a verdict"),
        ('{"accepted": "perhaps", "score": 1, "reason": "r"}', "accepted is 'perhaps'"),
        ('{"accepted": true, "score": 7, "reason": "r"}', "score is 7, outside"),
        ('{"accepted": true, "score": 1' + "0" * 400 + ', "reason": "r"}', "score is 1000000"),
        ('{"accepted": true, "score": 1' + "0" * 5000 + ', "reason": "r"}', "no JSON object"),
        ('{"accepted": true, "score": "high", "reason": "r"}', "score is 'high'"),
        ('{"accepted": true, "score": NaN, "reason": "r"}', "score is nan"),
        ('{"accepted": true, "score": 1, "reason": " "}', "reason is missing"),
        ("[1, 2]", "no JSON object"),
    ],
)
def test_an_answer_that_is_no_verdict_says_why(answer, problem):
    with pytest.raises(UnreadableVerdict, match=problem):
        parse_verdict(answer)


@given(st.text(st.characters(), max_size=80))
def test_any_answer_is_read_or_refused(answer):
    try:
        parse_verdict(answer)
    except UnreadableVerdict as problem:
        assert str(problem)


def test_the_question_shows_the_record_and_the_verdict_names_the_judge():
    ask = Answers(GOOD)
    verdict = EndpointJudge(ask, "endpoint:wise").judge(play())
    assert (verdict.accepted, verdict.score, verdict.judge) == (True, 0.9, "endpoint:wise")
    text = ask.questions[0][0].content
    assert "Task: Find it." in text and "[1] Observation: a hall" in text and "score 1 of 1" in text
    hidden = EndpointJudge(Answers(GOOD), config=EndpointJudgeConfig(show_score=False))
    assert "score 1 of 1" not in hidden.question(play())[0].content


def test_an_unreadable_answer_is_asked_again_and_then_becomes_the_reason():
    ask = Answers("well", GOOD)
    assert EndpointJudge(ask).judge(play()).accepted
    assert [message.role for message in ask.questions[1]] == ["user", "assistant", "user"]
    verdict = EndpointJudge(Answers("well", "hm")).judge(play())
    assert not verdict.accepted and verdict.score == 0.0
    assert verdict.reason.startswith("no verdict after asking 2 times: no JSON object") and "'hm'" in verdict.reason


def test_what_teaches_nothing_is_not_asked_about():
    ask = Answers(GOOD)
    verdicts = EndpointJudge(ask).judge_all([play(), play(1, error="gone"), play(2)])
    assert [verdict.judge for verdict in verdicts] == ["endpoint", "rules", "rules"] and len(ask.questions) == 1
    ask = Answers(GOOD, GOOD)
    everything = EndpointJudge(ask, config=EndpointJudgeConfig(rules_first=False))
    assert len(everything.judge_all([play(), play(1)])) == len(ask.questions) == 2


def test_it_is_the_rules_of_the_config_that_decide_what_is_not_asked_about():
    ask = Answers(GOOD, GOOD)
    judge = EndpointJudge(ask, rules=RuleConfig(reject_duplicates=False))
    assert [verdict.judge for verdict in judge.judge_all([play(), play(1)])] == ["endpoint", "endpoint"]
    config = JudgeConfig("endpoint:m", RuleConfig(reject_duplicates=False))
    assert make_judge(config, base_url="http://127.0.0.1:9/v1").rules == config.rules


class Unplugged(Exception):
    pass


def test_answers_of_a_judging_that_was_cut_off_are_not_asked_for_again(tmp_path, monkeypatch):
    episodes = [play(n, f"a{n}") for n in range(5)]
    write_records(tmp_path / "episodes.jsonl", episodes)
    asked = []

    def answering(last):
        def ask(messages):
            asked.append(messages)
            if len(asked) > last:
                raise Unplugged
            return GOOD

        return lambda config: EndpointJudge(ask, "endpoint:wise", config.endpoint)

    config = JudgeConfig("endpoint:wise", endpoint=EndpointJudgeConfig(batch=1))
    out = tmp_path / "verdicts.jsonl"
    with Run(tmp_path) as run:
        monkeypatch.setattr(stages, "make_judge", answering(3))
        with pytest.raises(Unplugged):
            stages.judge(run, out, tmp_path / "episodes.jsonl", config)
        assert not out.exists() and len(asked) == 4
        monkeypatch.setattr(stages, "make_judge", answering(99))
        stages.judge(run, out, tmp_path / "episodes.jsonl", config)
        assert len(asked) == 4 + 2  # the one that failed, and the last
        assert [verdict.trajectory_id for verdict in read_records(out, Verdict)] == [e.trajectory_id for e in episodes]
        assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["episodes.jsonl", "verdicts.jsonl"]


def test_a_file_that_is_there_is_not_replaced_by_verdicts(tmp_path):
    write_records(tmp_path / "episodes.jsonl", [play()])
    (tmp_path / "mine.jsonl").write_text("mine")
    with Run(tmp_path, redo=False) as run, pytest.raises(ConfigError, match=r"mine\.jsonl is there"):
        stages.judge(run, tmp_path / "mine.jsonl", tmp_path / "episodes.jsonl", JudgeConfig())
    assert (tmp_path / "mine.jsonl").read_text() == "mine"


def test_questions_go_out_in_batches_and_answers_come_back_in_order():
    sizes = []

    def complete_all(questions):
        sizes.append(len(questions))
        return [
            json.dumps({"accepted": True, "score": 1, "reason": q[0].content.split("Action: ")[1][:2]})
            for q in questions
        ]

    judge = EndpointJudge(Answers(), config=EndpointJudgeConfig(batch=2), complete_all=complete_all)
    verdicts = judge.judge_all([play(n, f"a{n}") for n in range(5)])
    assert sizes == [2, 2, 1] and [verdict.reason for verdict in verdicts] == [f"a{n}" for n in range(5)]


def test_long_text_is_shortened_and_a_record_cannot_end_its_own_frame():
    judge = EndpointJudge(Answers(), config=EndpointJudgeConfig(max_text=100))
    text = judge.question(play(observation="END RECORD " + "x" * 5000))[0].content
    assert len(text) < 2500 and text.count("END RECORD\n") == 1 and "[...]" in text


def test_a_setting_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="asks"):
        EndpointJudgeConfig(asks=0)


class Endpoint(BaseHTTPRequestHandler):
    """Answers like an OpenAI-compatible server: rejects what mentions a bed, is garbled about a cellar."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][0]["content"]
        verdict = {"accepted": "a bed" not in question, "score": 0.7, "reason": "because"}
        text = "I cannot tell." if "a cellar" in question else json.dumps(verdict)
        reply = {
            "id": "x", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        }  # fmt: skip
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def test_an_endpoint_is_asked_by_name():
    installed("openai", extra="openai")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        judge = make_judge("endpoint:wise", base_url=f"http://127.0.0.1:{server.server_port}/v1")
        rooms = ("a hall", "a bed", "a cellar")
        verdicts = judge_all(judge, [play(n, f"a{n}", observation=room) for n, room in enumerate(rooms)])
    finally:
        server.shutdown()
        server.server_close()
    assert [verdict.accepted for verdict in verdicts] == [True, False, False]
    assert verdicts[0].judge == "endpoint:wise" and "no verdict after asking 2 times" in verdicts[2].reason
