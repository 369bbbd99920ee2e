"""What the verbs share: a dataclass of arguments, YAML below the flags, examples below the help."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_type_hints

import tyro

from icto_gym.errors import ConfigError
from trainers.cli.flags import parse_flags, take_option
from trainers.config import Fit, from_mapping
from trainers.distributed import EngineConfig
from trainers.presets import read_config

logger = logging.getLogger(__name__)

C = TypeVar("C")
S = TypeVar("S")

Flat = tyro.conf.arg(name="")
"""Marks a field whose own fields become flags without a prefix."""

ConfigFile = Annotated[
    Path | None,
    tyro.conf.arg(help="YAML file with these settings, or a preset; several joined by +. Flags win over it."),
]


def parse(
    command: type[C],
    arguments: list[str],
    *,
    prog: str,
    examples: str = "",
    section: str = "",
    fit: Fit | None = None,
    method: str = "",
) -> C:
    """Read a verb's arguments into its dataclass.

    A field ``settings`` (a config dataclass) starts from the file given with ``--config``: either
    these settings alone, or the config of a whole method with these settings in ``section``; a field ``model`` starts
    from the file's section of that name, and ``engine`` and ``deepspeed`` of a command that trains from its keys.
    Presets go through ``fit``. A run's own ``config.yaml`` names its method, which must be ``method``.

    Raises:
        SystemExit: 0 after ``--help``, which ends with the examples; 2 on wrong usage.
    """
    default = _defaults(command, arguments, section, fit, method)
    try:
        return parse_flags(command, arguments, default=default, prog=prog, description=command.__doc__)
    except SystemExit as stop:
        if examples and stop.code in (0, None):
            print("examples:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines()))
        raise


def _defaults(command: type[C], arguments: list[str], section: str, fit: Fit | None, method: str) -> C | None:
    settings_class = next((field.type for field in fields(command) if field.name == "settings"), None)  # type: ignore[arg-type]
    name = take_option(arguments, "--config")
    if name is None or settings_class is None:
        return None
    values = dict(read_config(name, fit))
    if method and values.pop("method", method) != method:
        raise ConfigError(f"{name} is the config of another method than {method}. Take a preset, or that method.")
    beside, model_class = _engine(command, values, name), get_type_hints(command).get("model")
    if "model" in values and is_dataclass(model_class):  # a training's model stands beside its settings
        beside["model"] = from_mapping(cast(type[Any], model_class), values.pop("model") or {}, name, "model")
    settings = read_section(_plain(command), values, name, section)
    required = {
        field.name: tyro.MISSING
        for field in fields(command)  # type: ignore[arg-type]
        if field.name != "settings" and not _has_default(field)
    }
    return command(**required, settings=settings, **beside)  # type: ignore[call-arg]


def _engine(command: type[Any], values: dict[str, Any], source: str) -> dict[str, Any]:
    """Take out of a file's values what trains, where the command itself is told that, and not its settings."""
    if not issubclass(command, EngineConfig):
        return {}
    given = {field.name: values.pop(field.name) for field in fields(EngineConfig) if field.name in values}
    return asdict(from_mapping(EngineConfig, given, source))


def read_section(settings_class: type[S], values: Mapping[str, Any], source: str, section: str) -> S:
    """Settings from a mapping that holds them at its top, or in ``section`` of a method's config.

    A whole method's config that says nothing about the section leaves the defaults.
    """
    own = {field.name for field in fields(cast(Any, settings_class))}
    if section in values and not (section in own and isinstance(values[section], str)):
        inner = values[section] or {}
        if not isinstance(inner, Mapping):
            raise ConfigError(f"{source}: {section} is {inner!r}; expected a section.")
        return from_mapping(settings_class, inner, source, section)
    if section and not own.issuperset(values) and _of_a_method(values):
        logger.info("%s says nothing about %s: the defaults stand", source, section)
        return settings_class()
    return from_mapping(settings_class, values, source)


def _of_a_method(values: Mapping[str, Any]) -> bool:
    """Whether every key is one that the config of some method has."""
    from trainers.methods import METHODS, find_method  # heavy, and seldom asked

    known = {field.name for name in METHODS for field in fields(find_method(name).config_class)}
    return set(values) <= known | {"method"}


def _plain(command: type[Any]) -> type[Any]:
    """The config class of the field ``settings``, without its annotations."""
    return get_type_hints(command)["settings"]


def _has_default(field: Any) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING
