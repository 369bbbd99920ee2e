"""Stages of single methods from file to file: what they record of what they made."""

from __future__ import annotations

from dataclasses import replace

import pytest
from episodes import play

from icto_gym.store import TrajectoryStore
from trainers.config import from_mapping
from trainers.markers import MarkerConfig
from trainers.method_stages import mark, pair_trajectories, pair_turns, sample_turns
from trainers.methods.nat import NATConfig
from trainers.pairing.prompt import NOTE, PromptContrast, PromptPairingConfig
from trainers.playing_on import played
from trainers.presets import fit_to, preset_values
from trainers.records import read_episodes, write_records
from trainers.rollout import RolloutConfig
from trainers.runs import Run
from trainers.stages import explore, facts_of, named_player

ENVIRONMENT = RolloutConfig(env_id="icto_gym.testing:Scripted-v0", max_tasks=2, attempts=1, max_episode_steps=3)
CAREFUL, CARELESS = "Thought: I check first.\nAction: look", "Thought: whatever\nAction: knock"


@pytest.fixture
def run(tmp_path):
    with Run(tmp_path / "run") as opened:
        yield opened


def turn_facts(run, pairing):
    """Every first turn answered alike, and paired."""
    here, player = run.iteration(1), named_player("random")
    episodes = explore(run, here / "trajectories.jsonl", player, ENVIRONMENT)
    answered = [PromptContrast(item.trajectory_id, 0, 0, CAREFUL, CARELESS) for item in TrajectoryStore(episodes)]
    write_records(here / "answered.jsonl", answered)
    pairs = pair_turns(run, here / "pairs.jsonl", episodes, here / "answered.jsonl", player, pairing, ENVIRONMENT)
    return facts_of(run, pairs)


def test_what_pairs_of_turns_teach_is_recorded(run):
    facts = turn_facts(run, PromptPairingConfig(agreement_pairs=0))
    assert facts["pairs"] == facts["balance"]["pairs"] == 2 and facts["note"] == NOTE
    assert facts["balance"]["kinds"] == {"look … over knock …": 2}
    assert {"word": "check", "chosen_only": 2, "rejected_only": 0} in facts["one_sided_words"]


def test_turns_of_broken_episodes_are_not_asked_and_counted(run):
    here, whole = run.iteration(1), play(["search", "buy"])
    write_records(here / "trajectories.jsonl", [whole, play(["search"], attempt=1, error="broke")])
    answered = [PromptContrast(whole.trajectory_id, step, 0, CAREFUL, CARELESS) for step in range(2)]
    out = write_records(here / "contrasts.jsonl", answered)  # as a session that was killed left them
    player, config = named_player("random"), PromptPairingConfig()
    facts = facts_of(run, sample_turns(run, out, here / "trajectories.jsonl", player, config, ENVIRONMENT))
    assert (facts["turns"], facts["broken"]) == (2, 1)


def test_pairs_that_are_played_on_are_counted_whether_they_break_or_not(run, monkeypatch):
    def breaking(*arguments):
        first, *others = played(*arguments)
        return [replace(first, error="broke"), *others]

    monkeypatch.setattr("trainers.method_stages.played", breaking)
    facts = turn_facts(run, PromptPairingConfig(agreement_pairs=2))
    assert facts["played_on"] == 2 and facts["label_agreement"]["pairs"] == 1


def test_failures_that_cannot_be_imitated_are_counted_and_the_broken_among_them(run):
    good, lost = play(["search", "buy"], [0, 1.0], who="expert"), play(["search"], attempt=1)
    mute = replace(lost, trajectory_id="mute", steps=(replace(lost.steps[0], response="no command", action=""),))
    write_records(run.path("shown.jsonl"), [good])
    write_records(run.path("explored.jsonl"), [lost, mute, replace(lost, trajectory_id="gone", error="broke")])
    marked = mark(
        run, run.path("marked.jsonl"), run.path("shown.jsonl"), run.path("explored.jsonl"), MarkerConfig(),
        negatives_per_positive=1.0, positives=None, seed=0,
    )  # fmt: skip
    facts = facts_of(run, marked)
    assert [facts[name] for name in ("failures", "malformed", "broken", "negatives")] == [3, 2, 1, 1]


@pytest.mark.parametrize("preset", ["nat-two-classes", "nat-alfworld"])
def test_of_two_classes_a_demonstration_has_the_good_one_whatever_it_scored(run, preset):
    good = play(["search", "buy"], [0, 0.7], who="expert")
    mute = replace(good, trajectory_id="mute", steps=(replace(good.steps[0], response="no command", action=""),))
    write_records(run.path("shown.jsonl"), [mute, good])
    write_records(run.path("explored.jsonl"), [play(["knock"], [0.9])])
    markers = from_mapping(NATConfig, preset_values(preset, fit_to("nat", NATConfig)), preset).markers
    marked = mark(
        run, run.path("marked.jsonl"), run.path("shown.jsonl"), run.path("explored.jsonl"), markers,
        negatives_per_positive=1.0, positives=None, seed=0,
    )  # fmt: skip
    told = {item.policy: item.extra["marker"]["text"] for item in read_episodes(marked)}
    assert told == {"expert": markers.markers[0], "p": markers.markers[1]}
    facts = facts_of(run, marked)
    assert (facts["positives"], facts["malformed demonstrations"], facts["negatives"]) == (1, 1, 1)


def test_what_pairs_of_whole_episodes_teach_is_recorded(run):
    good = [play(["search", "buy"], [0, 1.0], task=f"t/{n}", who="p-positive") for n in range(2)]
    bad = [play(["knock"], task=f"t/{n}", who="p-negative") for n in range(2)]
    files = [run.path(f"{name}.jsonl") for name in ("positive", "negative")]
    for file, episodes in zip(files, (good, [replace(bad[0], error="broke"), bad[1]]), strict=True):
        write_records(file, episodes)
    facts = facts_of(run, pair_trajectories(run, run.path("pairs.jsonl"), *files))
    assert facts["counts"] == {"broken": 1, "pairs": 1} and facts["balance"]["pairs"] == 1 and facts["note"] == NOTE
    assert facts["balance"]["kinds"] == {"search … over knock …": 1}
