"""Every benchmark plays inside Ray actors as it plays here."""

import sys

import gymnasium as gym
import pytest
from packages import installed

ray = installed("ray", extra="ray")

TASKS = {
    "icto/WebShop-v0": "webshop-mini/test/0017",
    "icto/ALFWorld-v0": None,
    "icto/ScienceWorld-v0": "scienceworld/find-non-living-thing/3",
}


def play(env_id: str, task_id: str | None) -> list[tuple[str, float]]:
    """The expert's first five steps: what is seen, and the reward."""
    env = gym.make(f"icto_gym:{env_id}")
    options = {"task_id": task_id} if task_id else {"split": "test", "index": 3}
    observation, _ = env.reset(options=options)
    seen = [(observation, 0.0)]
    for action in (env.unwrapped.expert_actions() or [])[:5]:
        observation, reward, *_ = env.step(action)
        seen.append((observation, reward))
    env.close()
    return seen


@pytest.fixture(scope="module")
def cluster():
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors cannot import a test
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("env_id", TASKS)
def test_two_actors_play_what_this_process_plays(cluster, env_id):
    if "ScienceWorld" in env_id:
        installed("scienceworld", extra="scienceworld")

    @ray.remote(num_cpus=1)
    class Player:
        def play(self, env_id: str, task_id: str | None) -> list[tuple[str, float]]:
            return play(env_id, task_id)

    here = play(env_id, TASKS[env_id])
    players = [Player.remote() for _ in range(2)]
    assert len(here) > 2
    assert ray.get([player.play.remote(env_id, TASKS[env_id]) for player in players]) == [here, here]
