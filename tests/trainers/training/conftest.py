"""A few trajectories and pairs of a shop that does not exist."""

import random

import pytest

from icto_gym.dialogue import trajectory_messages
from icto_gym.trajectory import Step, Trajectory
from trainers.models import LoRAConfig, ModelConfig
from trainers.records import PreferencePair


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
