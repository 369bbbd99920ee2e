"""Dataclasses <-> flags by tyro: nested dataclasses become dotted flags, mappings inline YAML."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from icto_gym.errors import ConfigError

T = TypeVar("T")
_OFF = ("none", "null", "false", "off")


def parse_flags(cls: type[T], arguments: Sequence[str], *, default: T | None = None, **words: Any) -> T:
    """Read command-line flags into ``cls`` by tyro; ``default`` is what the flags start from.

    Args:
        cls: the dataclass; nested dataclasses become dotted flags (``--dpo.beta 0.2``); one that may be left out is
            switched off whole (``--model.lora none``).
        arguments: without the program's name.
        default: an instance read from YAML; None: the dataclass's own defaults.
        words: ``prog`` and ``description`` for the help text.

    Raises:
        ConfigError: a number is not finite.
        SystemExit: 0 after ``--help``, 2 on wrong usage (tyro has printed why).
    """
    import tyro

    arguments, default = _without_sections(cls, list(arguments), default)
    with _flag_rules():
        if default is not None:
            words["default"] = default
        cli: Any = tyro.cli
        return _finite(cli(cls, args=arguments, config=(tyro.conf.AvoidSubcommands,), **words))


def _flag_rules() -> Any:
    """Mappings (such as ``env_kwargs``) are given as one inline YAML or JSON value."""
    import tyro

    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def mapping_rule(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
        origin = get_origin(info.type) or info.type
        if not (isinstance(origin, type) and issubclass(origin, Mapping)):
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="{KEY: VALUE, ...}",
            instance_from_str=lambda words: _inline_mapping(words[0]),
            is_instance=lambda value: isinstance(value, Mapping),
            str_from_instance=lambda value: [yaml.safe_dump(dict(value), default_flow_style=True).strip()],
        )

    return registry


def _finite(config: T, place: str = "--") -> T:
    """Refuse nan and inf, as YAML does.

    Raises:
        ConfigError: naming the flag.
    """
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value, flag = getattr(config, field.name), place + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            _finite(value, f"{flag}.")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ConfigError(f"{flag} is {number!r}; give a finite number.")
    return config


def _without_sections(cls: type[T], arguments: list[str], default: T | None) -> tuple[list[str], T | None]:
    """Take ``--a.b none`` out where b is a section that may be None; it is None in the default then.

    tyro has such a section either as flags alone or as a subcommand for each of its kinds (``model.lora:none``).
    """
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]
    found = [
        place
        for place in range(len(words) - 1)
        if words[place + 1].lower() in _OFF and _is_optional_section(cls, words[place].removeprefix("--").split("."))
    ]
    for place in reversed(found):
        path = words[place].removeprefix("--").replace("-", "_").split(".")
        default = _with_none(_instance(cls) if default is None else default, path)
        del words[place : place + 2]
    return (words, default) if found else (arguments, default)


def _is_optional_section(cls: Any, path: Sequence[str]) -> bool:
    for number, name in enumerate(path, start=1):
        hint = get_type_hints(cls).get(name.replace("-", "_")) if dataclasses.is_dataclass(cls) else None
        sections = [kind for kind in (hint, *get_args(hint)) if dataclasses.is_dataclass(kind)]
        if not sections:
            return False
        cls = sections[0]
        if number == len(path):
            return type(None) in get_args(hint)
    return False


def _instance(cls: type[T]) -> T:
    """Of defaults, and of what tyro takes for "must be given"."""
    import tyro

    required = [
        field.name
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    return cls(**dict.fromkeys(required, tyro.MISSING))


def _with_none(config: Any, path: Sequence[str]) -> Any:
    name, *rest = path
    return dataclasses.replace(config, **{name: _with_none(getattr(config, name), rest) if rest else None})


def _inline_mapping(text: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"expected {{key: value}}, got {text!r}")
    return value


def take_option(arguments: list[str], name: str) -> str | None:
    """Read ``--name VALUE`` or ``--name=VALUE`` without removing it: YAML must be read before flags."""
    for number, argument in enumerate(arguments):
        if argument == name and number + 1 < len(arguments):
            return arguments[number + 1]
        if argument.startswith(name + "="):
            return argument[len(name) + 1 :]
    return None
