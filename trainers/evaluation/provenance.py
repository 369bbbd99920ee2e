"""What a result depends on, told without a word about the machine: code, packages, prompts, weights."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import icto_gym
from icto_gym.dialogue import ACKNOWLEDGEMENT, OMITTED
from icto_gym.tasks import content_digest
from icto_gym.trajectory import Trajectory
from trainers.sampling import RolloutConfig, make_env, text_env, worked_example

_ROOT = Path(icto_gym.__file__).resolve().parents[1]
_PACKAGES = ("icto_gym", "trainers")


def code_version() -> dict[str, Any]:
    """Version, digest of the source files, and in a git checkout the commit and whether it was changed since."""
    return {"version": icto_gym.__version__, "digest": _source_digest(), **_commit()}


def _source_digest() -> str:
    """SHA-256 (hex) over every Python file of both packages: the same code has the same digest, installed or not."""
    state = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).rglob("*.py")):
            state.update(f"{path.relative_to(_ROOT).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return state.hexdigest()


def _commit() -> dict[str, Any]:
    unknown: dict[str, Any] = {"commit": None, "dirty": None}
    # the packages may lie within a checkout of something else (a .venv in it): only files it tracks count
    if _git("ls-files", "--error-unmatch", "icto_gym/__init__.py") is None:
        return unknown
    commit, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", *_PACKAGES)
    return unknown if commit is None or changed is None else {"commit": commit, "dirty": bool(changed)}


def _git(*words: str) -> str | None:
    """What git answers about the folder of the packages; None where it cannot."""
    program = shutil.which("git")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "-C", str(_ROOT), *words], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def package_versions(*owners: Any) -> dict[str, str | None]:
    """Versions of Gymnasium and of the distributions that each owner names in ``packages``; None: not installed."""
    names = {"gymnasium", "numpy", *(name for owner in owners for name in getattr(owner, "packages", ()))}
    return {name: _version(name) for name in sorted(names)}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def environment_facts(config: RolloutConfig) -> dict[str, Any]:
    """Of the configured environment: versions of what runs in it, and the worked example it shows."""
    env = make_env(config)
    try:
        example = worked_example(env) if config.example else ()
        return {"versions": package_versions(text_env(env)), "example": [tuple(message) for message in example]}
    finally:
        env.close()


def prompt_digest(trajectories: Iterable[Trajectory], example: Iterable[tuple[str, str]] = ()) -> str:
    """SHA-256 (hex) of what every conversation begins with: how to act, and the worked example if one was shown."""
    prompts = sorted({trajectory.system_prompt for trajectory in trajectories})
    shown = [part for message in example for part in message]
    return content_digest(ACKNOWLEDGEMENT, OMITTED, str(len(shown)), *shown, *prompts)


def differences(before: Mapping[str, Any], after: Mapping[str, Any], place: str = "") -> list[str]:
    """Lines such as ``versions.torch: '2.4.0', now '2.5.1'`` for every value in which two mappings differ."""
    lines = []
    for key in [*before, *(key for key in after if key not in before)]:
        here = f"{place}.{key}" if place else str(key)
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, here)
        elif old != new:
            lines.append(f"{here}: {_shown(old)}, now {_shown(new)}")
    return lines


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
