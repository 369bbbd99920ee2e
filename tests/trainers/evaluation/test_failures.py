"""Every episode has one cause."""

from __future__ import annotations

from dataclasses import replace

import pytest

from icto_gym.trajectory import Step, Trajectory
from trainers.evaluation.failures import CAUSES, count_causes, failure_cause


def step(number, response="Action: go", valid=True):
    return Step(f"o{number}", response, "", "go", 0.0, valid)


BASE = Trajectory("t@p#0", "e", "t", "", "", tuple(step(n) for n in range(4)), "end", 0.0, False, True, False, "p", 0)
CUT = replace(BASE, terminated=False, truncated=True)


@pytest.mark.parametrize(
    ("trajectory", "cause"),
    [
        (replace(BASE, success=True, score=1.0), "success"),
        (replace(BASE, score=0.4), "ended with a partial score"),
        (BASE, "ended with nothing"),
        (CUT, "ran out of steps"),
        (replace(CUT, steps=tuple(step(0) for _ in range(4)), final_observation="o0"), "went in circles"),
        (replace(CUT, steps=tuple(step(n, valid=False) for n in range(4))), "commands not understood"),
        (replace(CUT, steps=tuple(step(n, "hm", False) for n in range(4))), "responses without a command"),
        (replace(CUT, error="gone"), "broken"),
    ],
)
def test_the_cause_is_read_from_the_record(trajectory, cause):
    assert failure_cause(trajectory) == cause


def test_causes_are_counted_in_their_order():
    assert list(count_causes([CUT, BASE, BASE]).items()) == [("ended with nothing", 2), ("ran out of steps", 1)]
    assert len(set(CAUSES)) == 8
