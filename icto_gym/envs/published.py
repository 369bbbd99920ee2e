"""What published data of a benchmark looks like, by environment id: the door to each benchmark's ``published.py``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from icto_gym.envs.registration import ENVIRONMENTS

_NAME = "published"


class Published(Protocol):
    """What a benchmark knows of conversations that others recorded of it."""

    def task_id(self, record: Mapping[str, Any], split: str) -> str | None:
        """The id of the task that a record names, or None where the record does not say it surely."""

    def goal(self, text: str) -> str:
        """The goal within the first message, as it stands there; ``""`` if it is not found."""

    def translate(self, texts: Sequence[str], grammar: str) -> list[str]:
        """The messages in another wording of the benchmark; ConfigError where there is only one."""


def published(env_id: str) -> Published | None:
    """The knowledge of one benchmark; None for an environment that is not ours."""
    if env_id not in ENVIRONMENTS:
        return None
    package = ENVIRONMENTS[env_id][0].partition(":")[0]
    try:
        return cast(Published, importlib.import_module(f"{package}.{_NAME}"))
    except ModuleNotFoundError as error:
        if error.name != f"{package}.{_NAME}":
            raise
        return None
