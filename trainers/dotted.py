"""What a user plugs in, by its dotted path ``package.module:name``."""

from __future__ import annotations

import importlib
from typing import Any

from icto_gym.errors import ConfigError


def load_dotted(path: str, what: str, wanted: str) -> Any:
    """What ``package.module:name`` leads to.

    Args:
        path: as the user gave it.
        what: what it is for, for messages: ``dpo.objective``.
        wanted: what must be there, for messages: ``a function``.

    Raises:
        ConfigError: nothing is there, or its module cannot be imported.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # an empty and a relative name: the last two
        raise ConfigError(
            f"{what} {path!r} could not be loaded ({error}). Give 'package.module:name' of {wanted} importable from "
            "here."
        ) from error
