"""ALFWorld: household tasks as text games."""

from icto_gym.envs.alfworld.env import ALFWorldEnv

__all__ = ["ALFWorldEnv"]
