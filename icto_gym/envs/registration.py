"""The table of environment ids, their entry points and their published step limits."""

from __future__ import annotations

import gymnasium as gym
from gymnasium.envs.registration import WrapperSpec

ENVIRONMENTS: dict[str, tuple[str, int | None]] = {
    # id: (entry point, step limit); None where the limit depends on the task
    "icto/WebShop-v0": ("icto_gym.envs.webshop:WebShopEnv", 10),
    "icto/WebShopBrowser-v0": ("icto_gym.envs.webshop.browser:WebShopBrowserEnv", 10),
    "icto/ScienceWorld-v0": ("icto_gym.envs.scienceworld:ScienceWorldEnv", None),
    "icto/ALFWorld-v0": ("icto_gym.envs.alfworld:ALFWorldEnv", 40),
}

DATA_BUILDERS: dict[str, str] = {"webshop": "icto_gym.envs.webshop.store_build"}
"""Benchmarks whose raw data can be prepared once: name -> module with ``BuildConfig`` and ``build(folder, config)``."""


def register_all() -> None:
    """Make ``gymnasium.make("icto/...")`` work; harmless when called again."""
    by_task = WrapperSpec("TaskStepLimit", "icto_gym.wrappers.limit:TaskStepLimit", {})
    for env_id, (entry_point, limit) in ENVIRONMENTS.items():
        if env_id not in gym.registry:
            wrappers = () if limit is not None else (by_task,)
            gym.register(env_id, entry_point=entry_point, max_episode_steps=limit, additional_wrappers=wrappers)
