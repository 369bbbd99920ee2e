"""The gate before an endpoint: how many pass, who pauses, and how it opens again."""

import pytest

from icto_gym.errors import BackendError
from trainers.policies import gate as module
from trainers.policies.gate import Gate


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    monkeypatch.setattr(module, "time", clock := Clock())
    return clock


def enter(gate, number=1):
    tickets = [gate.issue() for _ in range(number)]
    for ticket in tickets:
        gate.enter(ticket)
    return tickets


def test_those_that_went_out_together_and_come_back_busy_halve_the_number_once(clock):
    gate = Gate(64, pause=1.0, patience=600.0)
    together = enter(gate, 64)
    pauses = [gate.turned_away(ticket, away=False, wish=None) for ticket in together]
    assert gate.limit == 32 and 0.75 <= pauses[0] <= 1.0 and set(pauses[1:]) == {0.0}
    clock.now += 1.0
    gate.turned_away(*enter(gate), away=False, wish=None)
    assert gate.limit == 16


def test_a_busy_endpoint_is_given_one_more_for_each_round_of_answers(clock):
    gate = Gate(10, pause=1.0, patience=600.0)
    gate.turned_away(*enter(gate), away=False, wish=None)
    clock.now += 1.0
    limits = []
    for _ in range(60):
        enter(gate)
        gate.answered()
        limits.append(gate.limit)
    assert limits[0] == 5 and limits[5] == 6 and limits[-1] == 10 and limits == sorted(limits)


def test_behind_an_absent_endpoint_one_tries_and_its_answer_lets_twice_as_many_go(clock):
    gate = Gate(64, pause=1.0, patience=600.0)
    for ticket in enter(gate, 64):
        gate.turned_away(ticket, away=True, wish=None)
    pauses = []
    for _ in range(4):
        assert gate.limit == 1
        clock.now += 60.0
        pauses.append(gate.turned_away(*enter(gate), away=True, wish=None))
    assert all(0.75 * 2**n <= pause <= 2**n for n, pause in enumerate(pauses, start=1))
    clock.now += 60.0
    limits = []
    for _ in range(6):
        for _ in enter(gate, gate.limit):
            gate.answered()
        limits.append(gate.limit)
    assert limits == [2, 4, 8, 16, 32, 32] or limits == [2, 4, 8, 16, 32, 33]


def test_a_wish_is_heeded_by_all_and_no_pause_of_ours_outlasts_patience(clock):
    gate = Gate(4, pause=1.0, patience=5.0)
    assert 90.0 <= gate.turned_away(*enter(gate), away=False, wish=90.0) <= 91.0
    gate = Gate(4, pause=60.0, patience=5.0)
    assert gate.turned_away(*enter(gate), away=True, wish=None) == 5.0
    clock.now += 5.0
    assert gate.silent() == 5.0
    enter(gate)
    gate.answered()
    assert gate.silent() == 0.0


def test_pauses_never_pass_a_minute_nor_overflow():
    assert Gate(1, pause=1.0, patience=1.0).backoff(10_000) <= module.LONGEST_PAUSE


def test_what_was_stopped_goes_no_further_and_what_comes_later_begins_anew(clock):
    gate = Gate(4, pause=60.0, patience=600.0)
    old, under_way = gate.issue(), enter(gate)[0]
    gate.stop("It is dead.")
    assert gate.turned_away(under_way, away=True, wish=900.0) == 0.0
    with pytest.raises(BackendError, match=r"^It is dead\.$"):
        gate.enter(old)
    with pytest.raises(BackendError, match=r"^It is dead\.$"):
        gate.rest(old, 600.0)
    enter(gate, 4)
    assert gate.silent() == 0.0
