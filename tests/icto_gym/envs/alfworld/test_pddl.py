"""Reading problems: what is refused, and where it says the fault is."""

from __future__ import annotations

import pytest

from icto_gym.envs.alfworld.goal import CHANGING
from icto_gym.envs.alfworld.pddl import PREDICATES, UnsupportedGame, parse_problem
from icto_gym.envs.alfworld.world import build_world, entity_names
from icto_gym.errors import DataError

PROBLEM = """(define (problem plan_x)
(:domain alfred)
(:objects
agent1 - agent
Mug - object
MugType - otype
DeskType - rtype
DrawerType - rtype
Mug_bar_1 - object
Mug_bar_2 - object
Desk_bar_1 - receptacle
Drawer_bar_1 - receptacle
loc_bar_0 - location
loc_bar_1 - location
loc_bar_2 - location
)
(:init
(= (distance loc_bar_0 loc_bar_1) 3)
(atLocation agent1 loc_bar_0)
(receptacleType Desk_bar_1 DeskType)
(receptacleType Drawer_bar_1 DrawerType)
(receptacleAtLocation Desk_bar_1 loc_bar_1)
(receptacleAtLocation Drawer_bar_1 loc_bar_2)
(openable Drawer_bar_1)
(objectType Mug_bar_1 MugType)
(objectType Mug_bar_2 MugType)
(pickupable Mug_bar_1)
(pickupable Mug_bar_2)
(canContain DrawerType MugType)
(canContain DeskType MugType)
(inReceptacle Mug_bar_1 Desk_bar_1)
(inReceptacle Mug_bar_2 Desk_bar_1)
(objectAtLocation Mug_bar_1 loc_bar_1)
)
(:goal (and (exists (?r - receptacle) (exists (?o - object)
  (and (objectType ?o MugType) (receptacleType ?r DrawerType) (inReceptacle ?o ?r))))))
)
"""


def refused(text: str) -> str:
    with pytest.raises(DataError) as caught:
        build_world(parse_problem(text, "game.tw-pddl"), "task", source="game.tw-pddl")
    return str(caught.value)


def test_a_problem_is_read_lower_cased_and_named_from_the_highest_number_down() -> None:
    world = build_world(parse_problem(PROBLEM, "x"), "put a mug in drawer")
    assert world.objects == ["", "mug 2", "mug 1"]  # the generic `Mug` is in no fact and has no name
    assert world.receptacles == ["desk 1", "drawer 1"]


def test_names_know_basins_and_ids_without_a_position() -> None:
    names = entity_names({"sink_bar_1", "sink_bar_1_bar_sinkbasin", "apple", "pen_bar_1", "pencil_bar_1"})
    assert names == {
        "sink_bar_1": "sink 1", "sink_bar_1_bar_sinkbasin": "sinkbasin 1", "apple": "apple ",
        "pen_bar_1": "pen 1", "pencil_bar_1": "pencil 1",
    }  # fmt: skip


def test_comments_and_costs_are_passed_over() -> None:
    commented = PROBLEM.replace("(:init", "; (a remark\n(:init (= (totalCost) 0)")
    assert parse_problem(commented, "x").facts == parse_problem(PROBLEM, "x").facts


@pytest.mark.parametrize(
    ("before", "after", "where", "what"),
    [
        ("(openable Drawer_bar_1)", "(openable Drawer_bar_1", "line", "not closed"),
        ("(openable Drawer_bar_1)", "(openable Drawer_bar_1))", "line 37", "closes nothing"),
        ("(openable Drawer_bar_1)", "(openabel Drawer_bar_1)", "line 24", "Did you mean 'openable'?"),
        ("(openable Drawer_bar_1)", "(openable Drawer_bar_7)", "line 24", "Did you mean 'drawer_bar_1'?"),
        ("(openable Drawer_bar_1)", "(openable Drawer_bar_1 Desk_bar_1)", "line 24", "takes 1 names, found 2"),
        ("(openable Drawer_bar_1)", "(openable (Drawer_bar_1))", "line 24", "bracket"),
        ("Desk_bar_1 - receptacle", "Desk_bar_1 - furniture", "line 11", "unknown type 'furniture'"),
        ("loc_bar_2 - location", "loc_bar_2", "line 15", "without a type"),
        ("(:init", "(:start", "line 1", "':init' is missing"),
        ("(define (problem plan_x)", "(describe (problem plan_x)", "line 1", "expected '(define"),
    ],
)
def test_a_broken_problem_is_refused_with_file_and_line(before: str, after: str, where: str, what: str) -> None:
    message = refused(PROBLEM.replace(before, after))
    assert message.startswith("game.tw-pddl: ")
    assert where in message
    assert what in message


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        ("(inReceptacle ?o ?r)", "(inReceptacle ?o ?q)", "'?q' is not bound"),
        ("(inReceptacle ?o ?r)", "(inReceptcle ?o ?r)", "Did you mean 'inreceptacle'?"),
        ("(inReceptacle ?o ?r)", "(inReceptacle ?o)", "takes 2 names, found 1"),
        ("(?r - receptacle)", "(?r - furniture)", "unknown type 'furniture'"),
        ("(canContain DrawerType MugType)", "", "can never be reached"),
        ("(objectType ?o MugType)", "(objectType ?o DeskType)", "can never be reached"),
    ],
)
def test_a_broken_goal_is_refused(before: str, after: str, what: str) -> None:
    message = refused(PROBLEM.replace(before, after))
    assert message.startswith("game.tw-pddl: goal: ")
    assert what in message


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("agent1 - agent", "agent1 - agent\nagent2 - agent"),
        ("(openable Drawer_bar_1)", "(openable Mug_bar_1)"),
        ("(openable Drawer_bar_1)", "(receptacleAtLocation Desk_bar_1 loc_bar_2)"),
        ("(inReceptacle ?o ?r)", "(inReceptacle ?o ?r) (checked ?r)"),
    ],
)
def test_what_the_native_engine_does_not_cover_is_told_apart_from_what_is_broken(before: str, after: str) -> None:
    with pytest.raises(UnsupportedGame):
        build_world(parse_problem(PROBLEM.replace(before, after), "x"), "task")


def test_goals_may_use_every_connective() -> None:
    goal = PROBLEM[PROBLEM.index("(:goal") :]
    forms = {
        "(:goal (not (inReceptacle Mug_bar_1 Desk_bar_1)))": False,
        "(:goal (or (holds agent1 Mug_bar_1) (inReceptacle Mug_bar_1 Desk_bar_1)))": True,
        "(:goal (forall (?o - object) (imply (objectType ?o MugType) (inReceptacle ?o Desk_bar_1))))": True,
        "(:goal (exists (?a ?b - object) (and (not (= ?a ?b)) (inReceptacle ?a Desk_bar_1)"
        " (inReceptacle ?b Desk_bar_1))))": True,
        "(:goal (exists (?a - object) (and (isHot ?a) (inReceptacle ?a Desk_bar_1))))": None,
    }
    for form, holds in forms.items():
        text = PROBLEM.replace(goal, form + ")")
        if holds is None:
            assert "can never be reached" in refused(text)
        else:
            world = build_world(parse_problem(text, "x"), "task")
            assert world.goal.holds(world.start) is holds, form


def test_a_goal_of_two_things_of_which_there_is_one_is_played_and_never_won() -> None:
    goal = PROBLEM[PROBLEM.index("(:goal") :]
    two = (
        "(:goal (exists (?a ?b - object) (and (not (= ?a ?b)) (objectType ?a MugType) (objectType ?b MugType)"
        " (inReceptacle ?a Desk_bar_1) (inReceptacle ?b Desk_bar_1)))))"
    )
    text = PROBLEM.replace(goal, two).replace("(objectType Mug_bar_2 MugType)", "")
    world = build_world(parse_problem(text, "x"), "task")
    assert world.goal.formula is False and not world.goal.holds(world.start)


def test_every_changing_predicate_is_one_of_the_domain() -> None:
    assert set(PREDICATES) >= CHANGING
