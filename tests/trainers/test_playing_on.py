"""Episodes that are taken up again: what the stage leaves, counts, and resumes."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import pytest

from icto_gym.errors import BackendError, ConfigError
from icto_gym.store import TrajectoryStore
from icto_gym.testing import ScriptedEnv
from trainers.pairing import PairingConfig, build_pairs
from trainers.playing_on import retry, understood
from trainers.policies.base import Usage
from trainers.policies.players import Player
from trainers.policies.prompted import Shown
from trainers.records import read_records
from trainers.retries import Branches, RetryConfig, ask_branches, choose_places, retry_jobs
from trainers.rollout import RolloutConfig
from trainers.runs import Run
from trainers.stages import explore, facts_of

ENVIRONMENT = RolloutConfig(
    env_id="icto_gym.testing:Scripted-v0", max_tasks=3, attempts=1, max_episode_steps=4, batch_size=1
)
CONFIG = RetryConfig(branches=4)


class Fetcher:
    """Looks, then says what is no command, for ever; its second thought finds the fruit, its third nothing."""

    name, branches = "fetcher", True

    def __init__(self, acts=10**6, last="swim"):
        self.left, self.last, self.last_usage = acts, last, []

    def act(self, turns):
        if self.left < len(turns):
            raise KeyboardInterrupt
        self.left -= len(turns)
        self.last_usage = [Usage(10, 1)] * len(turns)
        return [self._answer(turn) for turn in turns]

    def _answer(self, turn):
        page = turn.messages[-1].content
        if "lies in bowl" not in page:
            return "Thought: first\nAction: look" if len(turn.messages) == 3 else "Thought: hm\nAction: fly"
        fruit, bowl = page.split()[2], int(page.rstrip(".")[-1])
        ways = ["fly", f"take {fruit} from bowl {bowl}", f"take {fruit} from bowl {bowl % 3 + 1}", self.last]
        return f"Thought: {turn.branch}\nAction: {ways[turn.branch]}"


def player(policy):
    return Player(policy.name, policy.name, lambda: policy)


def explored(folder):
    with Run(folder) as run:
        return run, explore(run, run.iteration(1) / "trajectories.jsonl", player(Fetcher()), ENVIRONMENT)


def retried(run, episodes, policy=None, config=CONFIG):
    out = run.iteration(1) / "with-retries.jsonl"
    with Run(run.folder) as run:
        retry(run, out, episodes, player(policy or Fetcher()), config, ENVIRONMENT, 5)
    return facts_of(run, out), list(TrajectoryStore(out))


def test_what_is_understood_and_new_is_followed_to_its_end(tmp_path):
    run, episodes = explored(tmp_path)
    facts, found = retried(run, episodes)
    before = list(TrajectoryStore(episodes))
    assert [item.score for item in before] == [0.0] * 3 and found[:3] == before
    again = found[3:]
    assert [item.score for item in again] == [1.0, 0.0] * 3  # "swim" is none of the game's commands
    assert all(item.actions[0] == "look" and len(item.steps) == 2 for item in again)
    assert all(item.extra["prefix_steps"] == 0 and item.extra["retried_step"] == 1 for item in again)
    assert len({item.trajectory_id for item in found}) == 9
    assert (facts["places"], facts["episodes"], facts["successes"]) == (3, 6, 3)


def test_what_was_said_instead_and_all_tokens_are_on_record(tmp_path):
    run, episodes = explored(tmp_path)
    facts, _ = retried(run, episodes)
    said = read_records(run.iteration(1) / "branches.jsonl", Branches)
    assert [item.responses[3] for item in said] == ["Thought: 3\nAction: swim"] * 3
    assert facts["response_tokens"] == 3 * 4 and facts["prompt_tokens"] == 3 * 4 * 10


def test_its_pairs_part_at_the_mistake_and_reject_that_alone(tmp_path):
    _, found = retried(*explored(tmp_path))
    config = PairingConfig(success_threshold=None, closest_first=True, max_rejected_steps=1)
    pairs = build_pairs(found, config=config).pairs
    assert len(pairs) == 6
    for pair in pairs:
        assert len(pair.prompt) == 5 and "lies in bowl" in pair.prompt[-1].content
        assert pair.chosen[0].content.startswith("Thought: 1\nAction: take") and len(pair.rejected) == 1
    assert {pair.rejected[0].content.split("Action: ")[1][:4] for pair in pairs} == {"fly", "take"}


def test_the_others_are_taken_up_only_where_asked(tmp_path):
    run, episodes = explored(tmp_path)
    good = [replace(item, success=True, score=1.0) for item in TrajectoryStore(episodes)]
    (run.iteration(1) / "good.jsonl").write_text("".join(item.to_json() + "\n" for item in good))
    facts, found = retried(run, run.iteration(1) / "good.jsonl")
    assert facts["places"] == 0 and facts["episodes"] == 0 and found == good


@pytest.mark.parametrize("acts", [0, 4, 8, 11, 12, 13, 15])
def test_a_stage_that_was_killed_goes_on_and_ends_alike(tmp_path, monkeypatch, acts):
    """While places are asked (12 answers, four for each), and while their knocks are played on (2 answers each)."""
    monkeypatch.setattr("trainers.retries.TOGETHER", 1)
    expected = retried(*explored(tmp_path / "quiet"), Fetcher(last="knock"))
    run, episodes = explored(tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        retried(run, episodes, Fetcher(acts, last="knock"))
    asked = run.iteration(1) / "branches.jsonl"
    assert (len(read_records(asked, Branches)) if asked.exists() else 0) == min(acts // 4, 3)
    assert retried(run, episodes, Fetcher(12 + 6 - min(acts // 4, 3) * 4, last="knock")) == expected


def test_places_that_were_asked_are_not_asked_again(tmp_path):
    run, episodes = explored(tmp_path)
    retried(run, episodes)
    (run.folder / "stages" / "iteration-01.with-retries.json").unlink()
    facts, _ = retried(run, episodes, Fetcher(acts=0))  # nothing is left to ask
    assert facts["episodes"] == 6


class Fragile(ScriptedEnv):
    """Breaks the third time it begins, and whenever somebody reaches into the second bowl."""

    begun = 0

    def _begin(self, task):
        Fragile.begun += 1
        if Fragile.begun == 3:
            raise BackendError("the simulator hiccupped")
        return super()._begin(task)

    def _advance(self, action):
        if action.endswith("bowl 2"):
            raise BackendError("the bowl is stuck")
        return super()._advance(action)


def test_a_branch_in_which_the_environment_breaks_is_played_and_recorded(tmp_path):
    gym.register("Fragile-v0", entry_point=Fragile, max_episode_steps=4)
    _, episodes = explored(tmp_path)
    places = choose_places(TrajectoryStore(episodes), CONFIG, 5)
    found = list(ask_branches(Fetcher(), places, 4, Shown()))
    planned = retry_jobs(places, found, TrajectoryStore(episodes))
    kept = understood(replace(ENVIRONMENT, env_id="Fragile-v0"), planned)
    assert len(planned) == 9 and Fragile.begun == 9
    swims = [job for _, job in planned if job.prefix[-1].endswith("swim")]
    assert [job for _, job in planned if (_, job) not in kept] == [job for job in swims if job != planned[2][1]]


def test_a_policy_without_branches_is_refused_by_name(tmp_path):
    run, episodes = explored(tmp_path)
    policy = Fetcher()
    policy.branches = False
    with pytest.raises(ConfigError, match="'fetcher' cannot branch"):
        retried(run, episodes, policy)
