"""ScienceWorld (Wang et al., 2022): thirty kinds of elementary science task in a simulated house."""

from icto_gym.envs.scienceworld.env import ScienceWorldEnv, Snapshot
from icto_gym.envs.scienceworld.prompt import SYSTEM_PROMPT, system_prompt

__all__ = ["SYSTEM_PROMPT", "ScienceWorldEnv", "Snapshot", "system_prompt"]
