"""What RLCD's sampling reads and writes is counted whole and once, in a run that was killed too."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from icto_gym.store import TrajectoryStore
from trainers.diagnostics import budget
from trainers.method_stages import pair_turns, sample_turns
from trainers.models.config import ModelConfig
from trainers.pairing.prompt import PromptContrast, PromptPairingConfig, unusable
from trainers.policies.players import ActingConfig, model_player
from trainers.policies.prompted import RETRIES
from trainers.records import read_records, write_records
from trainers.rollout import RolloutConfig
from trainers.runs import Run
from trainers.stages import explore, facts_of

ENVIRONMENT = RolloutConfig(
    env_id="icto_gym.testing:Scripted-v0", max_tasks=3, attempts=1, max_episode_steps=3, batch_size=1
)
PAIRING = PromptPairingConfig(agreement_pairs=2)
TINY = model_player(ModelConfig(name="tiny-random", lora=None), "tiny", ActingConfig(max_new_tokens=6))
TOKENS = ("prompt_tokens", "response_tokens")
ASKED = 1 + RETRIES
"""How often the policy acts for one step of all episodes: an answer of a random model does not end."""
OLD = ("trajectory_id", "step", "sentence", "positive", "negative")
"""What records held at first."""


class Mortal:
    """A policy whose process is stopped when it is asked once too often."""

    def __init__(self, policy, acts):
        self.policy, self.left, self.name = policy, acts, policy.name

    def act(self, turns):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        answers = self.policy.act(turns)
        self.last_usage = self.policy.last_usage
        return answers


def dying_after(acts):
    return replace(TINY, load=lambda: Mortal(TINY.load(), acts))


def opened(folder):
    """A run with a few episodes of three steps, whose commands do nothing."""
    with Run(folder) as run:
        return run, explore(run, run.iteration(1) / "trajectories.jsonl", TINY, ENVIRONMENT)


def sampled(run, episodes, player=TINY):
    out = run.iteration(1) / "contrasts.jsonl"
    with Run(run.folder) as run:
        sample_turns(run, out, episodes, player, PAIRING, ENVIRONMENT)
    return facts_of(run, out), read_records(out, PromptContrast)


def paired(run, episodes, player=TINY):
    """The agreement play of contrasts that are usable, which those of a random model are not."""
    here, (episode, *_) = run.iteration(1), TrajectoryStore(episodes)
    answers = "Action: knock", "Action: look"
    contrasts = [PromptContrast(episode.trajectory_id, step, 0, *answers) for step in range(2)]
    write_records(here / "usable.jsonl", contrasts)
    with Run(run.folder) as run:
        pair_turns(run, here / "pairs.jsonl", episodes, here / "usable.jsonl", player, PAIRING, ENVIRONMENT)
    return facts_of(run, here / "pairs.jsonl"), list(TrajectoryStore(here / "agreement.jsonl"))


def test_sampling_counts_all_answers_also_those_that_make_no_pair(tmp_path):
    run, episodes = opened(tmp_path)
    facts, contrasts = sampled(run, episodes)
    assert len(contrasts) == facts["turns"] == 9 and any(map(unusable, contrasts))
    for name in TOKENS:
        assert facts[name] == sum(getattr(item, name) for item in contrasts) > 0
        assert all(getattr(item, name) > 0 for item in contrasts)
    assert 6 * 2 * 9 < facts["response_tokens"] <= 6 * 2 * 9 * ASKED
    assert 0 < facts["asked_again"] == sum(item.asked_again for item in contrasts) <= 2 * 9 * RETRIES
    spent = budget(run)
    stages = [spent["stages"][f"iteration-01/{name}"] for name in ("trajectories", "contrasts")]
    assert all(spent["sums"]["play"][name] == sum(stage[name] for stage in stages) for name in TOKENS)


def test_sampling_that_was_killed_ends_with_the_tokens_of_one_that_was_not(tmp_path):
    expected = sampled(*opened(tmp_path / "quiet"))
    run, episodes = opened(tmp_path / "killed")
    for acts in (ASKED, 0, ASKED + 1):
        with pytest.raises(KeyboardInterrupt):
            sampled(run, episodes, dying_after(acts))
    assert len(read_records(run.iteration(1) / "contrasts.jsonl", PromptContrast)) == 6
    assert sampled(run, episodes) == expected


def test_records_without_tokens_and_retries_are_read_on_and_count_as_none(tmp_path):
    """As a stage that older code began left them."""
    run, episodes = opened(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        sampled(run, episodes, dying_after(ASKED))
    path = run.iteration(1) / "contrasts.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    old = [{key: value for key, value in line.items() if key in OLD} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in old))
    facts, contrasts = sampled(run, episodes)
    assert [item.response_tokens > 0 for item in contrasts] == [item.step > 0 for item in contrasts]
    assert all(facts[name] == sum(getattr(item, name) for item in contrasts if item.step) > 0 for name in TOKENS)


def test_agreement_play_is_counted_also_where_it_was_killed(tmp_path):
    facts, played = paired(*opened(tmp_path / "quiet"))
    assert len(played) == 4 and facts["label_agreement"]["pairs"] == 2
    assert all(facts[name] == sum(item.extra.get(name, 0) for item in played) > 0 for name in TOKENS)
    run, episodes = opened(tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        paired(run, episodes, dying_after(3))
    done = list(TrajectoryStore(run.iteration(1) / "agreement.jsonl"))
    assert 0 < len(done) < 4
    again, replayed = paired(run, episodes)
    assert again == facts and replayed == played


def test_agreement_that_is_not_played_costs_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.PAIRING", replace(PAIRING, agreement_pairs=0))
    facts, played = paired(*opened(tmp_path))
    assert played == [] and [facts[name] for name in TOKENS] == [0, 0]
