"""Errors that say what happened, show the value seen, and name the mend."""

from __future__ import annotations

import difflib
import heapq
import importlib
from collections.abc import Iterable
from types import ModuleType

import gymnasium as gym

_COMPARED = 200
"""How many known names a wrong one is compared with: those that begin most like it."""


class IctoError(Exception):
    """Base of every error this project raises on purpose."""


class ConfigError(IctoError, ValueError):
    """A setting, argument or key that cannot be used as given."""


class DependencyNotInstalled(IctoError, gym.error.DependencyNotInstalled):
    """A part was used whose optional package is missing."""


class BackendError(IctoError, RuntimeError):
    """A simulator, browser or endpoint broke; the episode it served is lost, the run is not."""


class InvalidTask(IctoError, KeyError):
    """A task, split or list that does not exist."""

    def __str__(self) -> str:  # KeyError would show the repr, quotes and all
        return str(self.args[0]) if self.args else ""


class DataError(IctoError, ValueError):
    """A file whose content cannot be used: names the file, the record and the field."""


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known name, or ``""``.

    The leading blank lets callers append it to a finished sentence.
    """
    names = [str(name) for name in known]
    if len(names) > _COMPARED:  # comparing thousands of look-alike ids letter by letter takes seconds
        names = heapq.nlargest(_COMPARED, names, key=lambda name: _shared_beginning(name, str(value)))
    matches = difflib.get_close_matches(str(value), names, n=1, cutoff=0.6)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def _shared_beginning(one: str, other: str) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def check_name(value: str, known: Iterable[str], what: str, error: type[IctoError] = ConfigError) -> str:
    """Return ``value`` if it is one of ``known``; otherwise raise ``error`` with a suggestion.

    Args:
        value: the name given by a user.
        known: the legal names.
        what: the noun for the message, such as ``"split"``.
        error: which child of `IctoError` to raise.
    """
    names = list(known)
    if value in names:
        return value
    listed = ", ".join(repr(name) for name in names[:12]) + (", ..." if len(names) > 12 else "")
    raise error(f"Unknown {what} {value!r}.{did_you_mean(str(value), names)} Known: {listed}.")


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional package, or say which command installs it.

    Args:
        module: dotted name of the module to import.
        extra: the extra of this distribution that brings it.

    Raises:
        DependencyNotInstalled: if the package, or something it needs, is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DependencyNotInstalled(
            f"{module!r} could not be imported ({error}). It comes with an extra: pip install 'icto-gym[{extra}]'."
        ) from error
