"""Which pairs the viewer shows: RLCD's, of whole episodes and of turns that were played on to the end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from icto_gym.files import write_json
from icto_gym.store import TrajectoryStore
from trainers.diagnostics import SIDES, iteration_facts
from trainers.method_stages import explore_prompted, pair_trajectories, pair_turns
from trainers.pairing.prompt import PromptContrast, PromptPairingConfig
from trainers.records import write_records
from trainers.report import read_run, write_report
from trainers.report.contrasts import choose_contrasts
from trainers.report.episodes import Packing, parting
from trainers.report.facts import explored
from trainers.rollout import RolloutConfig
from trainers.runs import SUPERSEDED, Run
from trainers.stages import explore, named_player

ENVIRONMENT = RolloutConfig(env_id="icto_gym.testing:Scripted-v0", max_tasks=3, attempts=1, max_episode_steps=3)
PLAYER = named_player("random")


def paired_by_turn(folder):
    """Every first turn answered alike; the episodes of all pairs are played on."""
    pairing = PromptPairingConfig(agreement_pairs=3)
    with Run(folder) as run:
        here = run.iteration(1)
        episodes = explore(run, here / "trajectories.jsonl", PLAYER, ENVIRONMENT)
        answers = "Thought: Which bowl?\nAction: look", "Thought: Why not.\nAction: knock"
        answered = [PromptContrast(item.trajectory_id, 0, 0, *answers) for item in TrajectoryStore(episodes)]
        write_records(here / "contrasts.jsonl", answered)
        pair_turns(run, here / "pairs.jsonl", episodes, here / "contrasts.jsonl", PLAYER, pairing, ENVIRONMENT)
    return here


def paired_by_episode(folder):
    with Run(folder) as run:
        here, config = run.iteration(1), PromptPairingConfig(unit="trajectory")
        sides = []
        for number, side in enumerate(SIDES):
            environment = replace(ENVIRONMENT, seed=number)  # else the random policy would do the same on both
            out = here / side / "trajectories.jsonl"
            sides.append(explore_prompted(run, out, PLAYER, config, environment, number))
        pair_trajectories(run, here / "pairs.jsonl", *sides)
        return here, iteration_facts(run, 1, [])


def test_pairs_of_turns_are_shown_as_they_went_on_from_either_response(tmp_path):
    paired_by_turn(tmp_path)
    run = read_run(tmp_path)
    shown = choose_contrasts(run)
    assert [item.group for item in shown] == ["iteration 1: pairs of turns, played on to the end (3 of 3)"] * 3
    for item in shown:
        assert item.left.task_id == item.right.task_id and parting(item.left, item.right) == 0
        assert (item.left.actions[0], item.right.actions[0]) == ("look", "knock")
        assert item.left_name == "chosen · on from the response to the positive instruction"
        assert item.right_name == "rejected · on from the response to the negative instruction"
    gaps = [abs(item.left.score - item.right.score) for item in shown]
    assert gaps == sorted(gaps, reverse=True)


def test_an_explored_episode_of_the_same_name_is_another(tmp_path):
    here = paired_by_turn(tmp_path)
    names = [
        {item.trajectory_id for item in TrajectoryStore(here / f"{name}.jsonl")}
        for name in ("trajectories", "agreement")
    ]
    assert names[0] & names[1]
    packing = Packing()
    packing.add_run(read_run(tmp_path), 100)
    assert len(packing.episodes) == 3 + 6 and packing.contrasts
    texts = list(packing.texts)
    for contrast in packing.contrasts:
        first = [texts[packing.episodes[contrast[side]]["steps"][0][1]] for side in ("left", "right")]
        assert first == ["look", "knock"]
    assert write_report(tmp_path, tmp_path / "page.html").exists()


def test_what_broke_when_it_was_played_on_is_left_out(tmp_path):
    here = paired_by_turn(tmp_path)
    ended = list(TrajectoryStore(here / "agreement.jsonl"))
    write_records(here / "agreement.jsonl", [ended[0], replace(ended[1], error="broke"), *ended[2:]])
    shown = choose_contrasts(read_run(tmp_path))
    assert len(shown) == 2 and all(item.left.task_id != ended[0].task_id for item in shown)


def test_what_is_still_played_on_is_not_shown_since_its_order_is_not_known(tmp_path):
    paired_by_turn(tmp_path)
    record = tmp_path / "stages" / "iteration-01.pairs.json"
    record.rename(record.with_name("iteration-01.pairs.started.json"))
    assert not read_run(tmp_path).iterations[0].played_on


def test_pairs_of_whole_episodes_are_shown_and_both_sides_counted(tmp_path):
    _, facts = paired_by_episode(tmp_path)
    assert facts["explored_positive"]["episodes"] == facts["explored_negative"]["episodes"] == 3
    assert facts["pairs"]["pairs"] and "explored" not in facts
    run = read_run(tmp_path)
    assert run.iterations[0].facts["explored_positive"] == facts["explored_positive"]  # of stages, as it goes on
    shown = choose_contrasts(run)
    assert len(shown) == facts["pairs"]["pairs"]
    assert {(item.left_name, item.right_name) for item in shown} == {
        ("chosen · random-positive", "rejected · random-negative")
    }
    assert "episodes under the negative instruction" in explored(run.iterations[0])
    assert write_report(tmp_path, tmp_path / "page.html").exists()


@pytest.mark.parametrize("side", SIDES)
def test_episodes_of_a_config_that_was_given_up_are_no_part_of_it(tmp_path, side):
    paired_by_episode(tmp_path)
    write_json(tmp_path / SUPERSEDED, [f"iteration-01/{side}/trajectories"])
    (iteration,) = read_run(tmp_path).iterations
    assert not iteration.prompted[side] and not choose_contrasts(read_run(tmp_path))
