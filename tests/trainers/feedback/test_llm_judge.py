"""The judge by language model: what is asked, and every answer that cannot be read."""

from __future__ import annotations

import json

import pytest
from endpoint import Endpoint, good
from hypothesis import given
from hypothesis import strategies as st
from packages import installed

from icto_gym.errors import ConfigError
from icto_gym.trajectory import Step, Trajectory
from trainers import stages
from trainers.cli.main import main
from trainers.diagnostics import budget
from trainers.digests import digest
from trainers.feedback import EndpointJudge, EndpointJudgeConfig, JudgeConfig, RuleConfig, judge_all, make_judge
from trainers.feedback.llm_judge import UnreadableVerdict, parse_verdict
from trainers.policies.base import Answer, Usage
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


def test_tokens_of_a_judge_are_counted_once_over_a_kill_and_in_the_budget(tmp_path, monkeypatch):
    """Two tokens are written and ten read at every ask; the third episode's first answer cannot be read."""
    episodes = [play(n, f"a{n}") for n in range(3)]
    write_records(tmp_path / "episodes.jsonl", episodes)
    answers = [GOOD, Unplugged, GOOD, "well", GOOD]

    def ask(messages):
        if (text := answers.pop(0)) is Unplugged:
            raise Unplugged
        return Answer(text, Usage(10, 2))

    monkeypatch.setattr(stages, "make_judge", lambda config: EndpointJudge(ask, "endpoint:wise", config.endpoint))
    config, out = JudgeConfig("endpoint:wise", endpoint=EndpointJudgeConfig(batch=1)), tmp_path / "verdicts.jsonl"
    with Run(tmp_path) as run:
        with pytest.raises(Unplugged):
            stages.judge(run, out, tmp_path / "episodes.jsonl", config)
        stages.judge(run, out, tmp_path / "episodes.jsonl", config)
        found, spent = stages.facts_of(run, out), budget(run)
    assert [verdict.prompt_tokens for verdict in read_records(out, Verdict)] == [10, 10, 20]
    assert (found["prompt_tokens"], found["response_tokens"]) == (40, 8)
    assert (spent["sums"]["play"]["prompt_tokens"], spent["stages"]["verdicts"]["response_tokens"]) == (40, 8)


def test_a_judge_that_counts_no_tokens_says_nothing_of_them(tmp_path):
    assert EndpointJudge(lambda messages: Answer(GOOD, None)).judge(play()).prompt_tokens == 0
    write_records(tmp_path / "episodes.jsonl", [play()])
    with Run(tmp_path) as run:
        out = stages.judge(run, tmp_path / "verdicts.jsonl", tmp_path / "episodes.jsonl", JudgeConfig())
        assert "prompt_tokens" not in stages.facts_of(run, out) and "prompt_tokens" not in out.read_text()


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


def decide(request):
    """Rejects what mentions a bed, is garbled about a cellar."""
    question = request["messages"][0]["content"]
    verdict = {"accepted": "a bed" not in question, "score": 0.7, "reason": "because"}
    return good("I cannot tell." if "a cellar" in question else json.dumps(verdict), usage=(7, 3))


@pytest.fixture
def endpoint(monkeypatch):
    installed("openai", extra="openai")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = Endpoint()
    server.default = decide
    yield server
    server.close()


def test_an_endpoint_is_asked_by_name_at_the_address_of_the_config(endpoint):
    judge = make_judge(JudgeConfig("endpoint:wise", endpoint=EndpointJudgeConfig(base_url=endpoint.url)))
    assert not endpoint.requests  # making it asks nothing
    rooms = ("a hall", "a bed", "a cellar")
    verdicts = judge_all(judge, [play(n, f"a{n}", observation=room) for n, room in enumerate(rooms)])
    assert [verdict.accepted for verdict in verdicts] == [True, False, False]
    assert verdicts[0].judge == "endpoint:wise" and "no verdict after asking 2 times" in verdicts[2].reason
    assert [(item.prompt_tokens, item.response_tokens) for item in verdicts] == [(7, 3), (7, 3), (14, 6)]
    assert len(judge_all(make_judge("endpoint:wise", base_url=endpoint.url), [play()])) == 1


def test_the_verb_asks_the_endpoint_that_its_flags_name_and_shows_the_tokens(endpoint, tmp_path, capsys):
    write_records(tmp_path / "episodes.jsonl", [play(n, f"a{n}") for n in range(2)])
    words = ["judge", str(tmp_path / "episodes.jsonl"), "--judge", "endpoint:wise", "--out", str(tmp_path / "v.jsonl")]
    assert main([*words, "--endpoint.base-url", endpoint.url]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["accepted"], shown["prompt_tokens"], shown["response_tokens"]) == (2, 14, 6)


def test_an_address_decides_results_and_one_that_is_none_is_refused():
    assert digest(EndpointJudgeConfig(base_url="http://a/v1")) != digest(EndpointJudgeConfig())
    with pytest.raises(ConfigError, match="base_url is 'localhost:8000/v1'; give an address such as http://"):
        EndpointJudgeConfig(base_url="localhost:8000/v1")
