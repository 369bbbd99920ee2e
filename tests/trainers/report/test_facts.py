"""The report's tables of facts: what a run recorded is said, what it did not is not."""

from __future__ import annotations

import html
import importlib.util
import re
from pathlib import Path

import pytest

from trainers.report import read_run
from trainers.report.facts import paired

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
