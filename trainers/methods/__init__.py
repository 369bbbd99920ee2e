"""Whole methods by name; a user's own plugs in as ``package.module:function``.

A method is a function ``run(config, run) -> Path | None`` (the last checkpoint) whose parameter ``config`` is
annotated with a dataclass: that annotation is its schema for YAML and flags.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from icto_gym.errors import ConfigError, check_name
from trainers.dotted import load_dotted
from trainers.runs import Run

# name: where it is; strings, so that listing imports nothing
METHODS: dict[str, str] = {
    "bc": "trainers.methods.bc:run_bc",
    "rft": "trainers.methods.rft:run_rft",
    "eto": "trainers.methods.eto:run_eto",
    "ipr": "trainers.methods.ipr:run_ipr",
    "rlcd": "trainers.methods.rlcd:run_rlcd",
    "nat": "trainers.methods.nat:run_nat",
    "icto": "trainers.methods.icto:run_icto",
    "best_of_n": "trainers.methods.best_of_n:run_best_of_n",
}

ALSO_CALLED = {"sft": "bc"}
"""Other names that are understood, as `icto train sft` and the checkpoint's folder call what bc does; runs record the
first name."""


@dataclass(frozen=True)
class Method:
    """A method and the dataclass that configures it."""

    name: str
    run: Callable[[Any, Run], Path | None]
    config_class: type[Any]


def find_method(name: str) -> Method:
    """Import a method by its name, another name of it, or a dotted path.

    Raises:
        ConfigError: no such method, or not a method; with the nearest name.
    """
    name = ALSO_CALLED.get(name, name)
    path = name if ":" in name else METHODS[check_name(name, METHODS, "method")]
    function = load_dotted(path, "Method", "a method")
    return Method(name, function, _config_class(name, function))


def _config_class(name: str, function: Any) -> type[Any]:
    hints = get_type_hints(function) if callable(function) else {}
    config_class = hints.get("config")
    if not (isinstance(config_class, type) and dataclasses.is_dataclass(config_class)):
        raise ConfigError(
            f"{name!r} is not a method: write a function run(config: <a dataclass>, run: Run) -> Path and name that."
        )
    return config_class
