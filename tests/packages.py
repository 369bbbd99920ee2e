"""Optional packages: a test without its package is skipped, with the extra that brings it; in CI it fails."""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import NoReturn

import pytest


def installed(module: str, *, extra: str, note: str = "") -> ModuleType:
    """Import an optional package that ``make test`` installs; skip where it is absent, fail where ``CI=true`` too.

    Args:
        module: dotted name of the module to import; at the top of a file it stands for all of the file's tests.
        extra: the extra of this distribution that brings it.
        note: what else to know of its installation.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        absent(f"{module} is not installed ({error}): pip install 'icto-gym[{extra}]'{note and f'; {note}'}")


def absent(told: str) -> NoReturn:
    """What a test needs is not here: skip it, saying so; fail where ``CI=true``, which must test everything."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{told} (in CI no test may be skipped for this)")
    pytest.skip(told, allow_module_level=True)
