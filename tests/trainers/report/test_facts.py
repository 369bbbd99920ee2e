"""The report's tables of facts: what a run recorded is said, what it did not is not."""

from __future__ import annotations

import html
import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from icto_gym.files import write_json, write_text
from trainers.report import read_run, write_report
from trainers.report.facts import demonstrated, explored, imitated, paired, trained
from trainers.report.training import training

_spec = importlib.util.spec_from_file_location("report_runs", Path(__file__).with_name("runs.py"))
runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runs)


@pytest.fixture
def run(tmp_path):
    return read_run(runs.make_run(tmp_path / "run", tasks=8, iterations=1))


def rows(source):
    """Name and value of every row."""
    found = re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', source)
    return {html.unescape(name): html.unescape(value) for name, value in found}


def test_every_method_says_in_the_same_words_who_was_chosen(run):
    (iteration,) = run.iterations
    counts, shown = iteration.counts, rows(paired(run, iteration))
    assert counts["own chosen"] and counts["own chosen"] + counts.get("expert chosen", 0) == len(iteration.pairs)
    assert shown["pairs with the policy's own chosen"] == str(counts["own chosen"])
    iteration.facts["pairs"]["counts"] = {"agent won": 2, "expert won": 5, "expert won at a step": 3}
    shown = rows(paired(run, iteration))
    assert shown["pairs with the policy's own chosen"] == "2" and shown["pairs with the expert chosen"] == "5"
    assert shown["step pairs with the expert chosen"] == "3"


def test_rlcds_labels_are_set_beside_the_outcomes(run):
    (iteration,) = run.iterations
    agreement = {"pairs": 30, "agrees": 12, "disagrees": 5, "ties": 13, "agreement": 0.7059}
    iteration.facts |= {
        "pairs": {"counts": {"malformed": 3}, "label_agreement": agreement, "played_on": 32},
        "answered": {"turns": 90, "broken": 2},
    }
    shown = rows(paired(run, iteration))
    assert shown["chosen side ended better"] == "12 of 30" and shown["chosen side ended worse"] == "5 of 30"
    assert shown["both sides ended alike"] == "13 of 30" and shown["played on, but broken"] == "2"
    assert shown["left out: without a command"] == "3"
    shown = rows(explored(iteration))
    assert shown["turns answered under either instruction"] == "90" and shown["episodes left out: broken"] == "2"
    iteration.facts["pairs"]["label_agreement"] = {**agreement, "pairs": 0}
    assert "chosen side ended better" not in rows(paired(run, iteration))


def finished(run, stage, facts, *lines):
    """The run with one more training, which has ended."""
    return replace(
        run, stages=[*run.stages, {"stage": stage, "facts": facts}], training={**run.training, stage: list(lines)}
    )


def test_what_a_training_left_out_is_told_by_reason(run):
    facts = {"pairs": 40, "held_out": 5, "truncated": 7, "dropped": 3, "dropped: identical": 3, "trained_tokens": 999}
    source = trained(finished(run, "iteration-01/dpo", facts), "iteration-01/dpo")
    assert "<h4>contrast: samples</h4>" in source
    assert rows(source) == {
        "pairs": "40", "of them held out": "5", "cut to length": "7", "left out": "3", "left out: identical": "3",
    }  # fmt: skip
    assert trained(run, "iteration-01/dpo") == ""  # which has not ended


def test_a_reward_model_is_told_by_its_error_on_what_was_held_out(run):
    stage, facts = "iteration-01/reward", {"trajectories": 96, "held_out": 12}
    lines = {"step": 0, "holdout/mse": 0.5}, {"step": 9, "holdout/mse": 0.01234, "holdout/baseline_mse": 0.0456}
    shown = rows(trained(finished(run, stage, facts, *lines), stage))
    assert shown["squared error on held-out steps"] == "0.0123" and shown["that of always saying the mean"] == "0.0456"
    assert shown["of them held out"] == "12" and "held-out pairs ranked as labelled" not in shown
    ranked = finished(run, stage, {"pairs": 16}, {"step": 9, "holdout/accuracy": 0.8125})
    assert rows(trained(ranked, stage)) == {"pairs": "16", "held-out pairs ranked as labelled": "81%"}


def test_what_is_imitated_is_counted(run):
    (iteration,) = run.iterations
    assert imitated(iteration) == ""
    iteration.facts["imitated"] = {"own": 70, "others": 24, "below the threshold": 50, "repeated": 6, "broken": 0}
    assert rows(imitated(iteration)) == {
        "successes of the policy": "70", "demonstrations": "24", "left out: below the threshold": "50",
        "left out: repeated": "6",
    }  # fmt: skip
    iteration.facts["imitated"] = {"own": 70, "others": 24, "best": 30}
    assert rows(imitated(iteration)) == {
        "episodes of the policy": "70", "of these no success, but the best at the task": "30", "demonstrations": "24",
    }  # fmt: skip
    iteration.facts = {"marked": {"positives": 24, "negatives": 48, "failures": 60, "malformed": 9, "broken": 1,
                                  "classes": {"[Correct]": 24, "[Wrong]": 48}}}  # fmt: skip
    shown = rows(imitated(iteration))
    assert [shown[name] for name in ("demonstrations", "failures explored", "failures drawn")] == ["24", "60", "48"]
    assert shown["of them not to be imitated"] == "9" and shown["of these broken"] == "1"
    assert shown["marked [Correct]"] == "24" and shown["marked [Wrong]"] == "48"


def test_demonstrations_that_were_not_taken_are_counted(run):
    assert demonstrated(run) == ""
    facts = {"episodes": 12, "kept": 9, "broken": 1, "below the threshold": 2}
    shown = rows(demonstrated(replace(run, stages=[{"stage": "demonstrations", "facts": facts}])))
    assert shown == {
        "episodes of the expert": "12", "kept": "9", "left out: broken": "1", "left out: below the threshold": "2",
    }  # fmt: skip


# ---- probes
def charted(source, title):
    """The rows of the table below the chart of that title, as lists of texts; none if there is no such chart."""
    figure = next((one for one in source.split("<figure") if f"<b>{title}</b>" in one), "")
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", figure)]


def test_what_probes_say_of_commands_and_failures_is_drawn(tmp_path):
    folder = runs.make_run(tmp_path / "run", tasks=4, iterations=1)
    failed = {"failures/ran out of steps": 0.5, "failures/broken": 0.25}
    probes = [
        {"step": 0, "dev/success_rate": 0.25, "dev/invalid_action_share": 0.4, **failed},
        {"step": 8, "dev/success_rate": 0.5, "dev/invalid_action_share": 0.1, "failures/ran out of steps": 0.5},
        {"step": 16, "dev/success_rate": 1.0, "dev/invalid_action_share": 0.0},
    ]
    write_text(folder / "iteration-01" / "dpo" / "probes.jsonl", "".join(json.dumps(one) + "\n" for one in probes))
    source = training(read_run(folder))
    found = charted(source, "commands not understood, on dev while training")
    assert found[1:] == [["0", "40 %"], ["8", "10 %"], ["16", "0 %"]]
    found = charted(source, "how episodes fail on dev while training")
    assert found[0][1:] == ["ran out of steps", "broken"]
    assert found[1:] == [["0", "50 %", "25 %"], ["8", "50 %", "0 %"], ["16", "0 %", "0 %"]]
    write_text(folder / "iteration-01" / "dpo" / "probes.jsonl", json.dumps(probes[1]) + "\n")
    source = training(read_run(folder))
    assert charted(source, "how episodes fail on dev while training: ran out of steps")[1:] == [["8", "50 %"]]


def test_each_trainings_curves_stand_below_its_name(tmp_path):
    folder = runs.make_run(tmp_path / "run", tasks=4, iterations=1)
    with open(folder / "metrics.jsonl", "a") as handle:
        for line in runs.training_lines("iteration-01/sft", 4, contrast=False):
            handle.write(json.dumps(line) + "\n")
    source = training(read_run(folder)).partition("iteration 1")[2]
    assert re.findall(r"<h4>(imitation|contrast)</h4>", source) == ["contrast", "imitation"]


def test_what_no_probe_measured_is_not_drawn(run):
    source = training(run)
    assert charted(source, "success on dev while training")
    assert not charted(source, "commands not understood, on dev while training")
    assert not charted(source, "how episodes fail on dev while training")


def test_records_that_are_no_objects_are_passed_over(tmp_path):
    folder = runs.make_run(tmp_path / "run", tasks=4, iterations=1)
    odd = {key: [1] for key in ("pairs", "answered", "imitated", "marked")}
    write_json(folder / "iteration-01" / "metrics.json", odd)
    write_json(folder / "stages" / "iteration-01.dpo.json", {"stage": "iteration-01/dpo", "facts": [1]})
    assert "What training did" in write_report(folder, tmp_path / "page.html").read_text()
