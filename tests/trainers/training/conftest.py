"""A few trajectories and pairs of a shop that does not exist."""

import random
import string

import pytest

from icto_gym.dialogue import Message, trajectory_messages
from icto_gym.trajectory import Step, Trajectory
from trainers.models import LoRAConfig, ModelConfig
from trainers.records import PreferencePair
from trainers.training.config import RewardConfig


def make_trajectory(number: int) -> Trajectory:
    draw = random.Random(number)
    steps = tuple(
        Step(
            observation=f"Page {place}{' shoe' * draw.randint(1, 3)}",
            response=f"Go {number}: {draw.randint(0, 9)}",
            thought=f"Go {number}",
            action="click",
            reward=0.1,
            valid=True,
        )
        for place in range(draw.randint(1, 4))
    )
    return Trajectory(
        trajectory_id=f"shop/{number}@expert#0",
        env_id="Shop",
        task_id=f"shop/{number}",
        system_prompt="You are in a shop. Click.",
        instruction=f"Buy {number}.",
        steps=steps,
        final_observation="",
        score=1.0,
        success=True,
        terminated=True,
        truncated=False,
        policy="expert",
        seed=number,
    )


def make_pair(number: int, **changes) -> PreferencePair:
    one, other = (trajectory_messages(make_trajectory(n)) for n in (number, number + 100))
    facts = {
        "task_id": f"shop/{number}",
        "prompt": tuple(one[:3]),
        "chosen": tuple(one[3:]),
        "rejected": tuple(other[3:]),
        "margin": 1.0,
        "granularity": "trajectory",
        "chosen_id": f"shop/{number}@expert#0",
        "rejected_id": f"shop/{number}@policy#1",
    }
    return PreferencePair(**{**facts, **changes})


@pytest.fixture(scope="session")
def trajectories() -> list[Trajectory]:
    return [make_trajectory(number) for number in range(8)]


@pytest.fixture(scope="session")
def pairs() -> list[PreferencePair]:
    return [make_pair(number) for number in range(6)]


@pytest.fixture(scope="session")
def pair_maker():
    return make_pair


@pytest.fixture()
def tiny() -> ModelConfig:
    return ModelConfig(name="tiny-random", lora=LoRAConfig(r=4, alpha=8))


@pytest.fixture(scope="module")
def answer_pairs(pair_maker):
    """Readable answers are preferred to ones of replacement marks, which a random model writes most of the time."""
    found = []
    for number in range(24):
        draw = random.Random(number)
        chosen = "".join(draw.choices(string.digits + string.ascii_letters + string.punctuation, k=draw.randint(2, 4)))
        rejected = "�" * draw.randint(1, 4) + draw.choice(string.ascii_letters)
        sides = {"chosen": (Message("assistant", chosen),), "rejected": (Message("assistant", rejected),)}
        found.append(pair_maker(number % 6, granularity="step", step_weights=(1.0,), **sides))
    return found


@pytest.fixture(scope="module")
def prompts(answer_pairs):
    return [pair.prompt for pair in answer_pairs]


@pytest.fixture(scope="module")
def reward(answer_pairs, tmp_path_factory):
    from trainers.training.preference_reward import train_preference_reward

    config = RewardConfig(learning_rate=3e-3, epochs=10, batch_size=8, holdout=0.0)
    return train_preference_reward(
        answer_pairs, ModelConfig(name="tiny-random", lora=None), config, tmp_path_factory.mktemp("reward")
    )
