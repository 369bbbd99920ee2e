"""WebShop, ScienceWorld and ALFWorld behind one text-action Gymnasium interface."""

from icto_gym.core import EnvInfo, TextEnv
from icto_gym.dialogue import Message, to_messages
from icto_gym.envs.registration import register_all
from icto_gym.errors import BackendError, ConfigError, DataError, DependencyNotInstalled, IctoError, InvalidTask
from icto_gym.spaces import FreeText
from icto_gym.store import TrajectoryStore
from icto_gym.tasks import Manifest, Task, tasks
from icto_gym.trajectory import Step, Trajectory

__version__ = "0.1.0"

__all__ = [
    "BackendError", "ConfigError", "DataError", "DependencyNotInstalled", "EnvInfo", "FreeText", "IctoError",
    "InvalidTask", "Manifest", "Message", "Step", "Task", "TextEnv", "Trajectory", "TrajectoryStore",
    "tasks", "to_messages",
]  # fmt: skip

register_all()
