"""Frozen dataclasses <-> YAML <-> flags: the schema is the dataclass, precedence is default < YAML < flag."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from icto_gym.errors import ConfigError, did_you_mean
from icto_gym.files import write_text

T = TypeVar("T")


# ---- YAML -> dataclass ------------------------------------------------------------------------
def load_config(cls: type[T], path: str | Path | None) -> T:
    """Read a YAML file into the dataclass ``cls``; what the file leaves out keeps its default.

    Raises:
        ConfigError: naming file, section and key of what cannot be used.
    """
    return cls() if path is None else from_mapping(cls, with_preset(read_yaml(path)), str(path))


Fit = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Makes of a preset, which speaks to all methods, what one of them takes."""


def with_preset(values: Mapping[str, Any], fit: Fit | None = None) -> Mapping[str, Any]:
    """Lay ``values`` over the preset (or presets, the later over the earlier) that their key ``preset`` names."""
    if "preset" not in values:
        return values
    from trainers.presets import preset_values

    rest = {key: value for key, value in values.items() if key != "preset"}
    names = values["preset"] if isinstance(values["preset"], (list, tuple)) else [values["preset"]]
    below: dict[str, Any] = {}
    for name in names:
        below = merged(below, preset_values(str(name), fit))
    return merged(below, rest)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``below`` with the values of ``above`` in their places, section by section."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


class _Loader(yaml.SafeLoader):
    """Reads plain values only, and refuses a key that stands twice, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if key.tag == "tag:yaml.org,2002:str"):
            if key.value in seen:
                problem = f"the key {key.value!r} stands here a second time"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> Mapping[str, Any]:
    """Read a YAML file whose top level is a mapping; an empty file is an empty mapping."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"Cannot read the config {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({error}).") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected 'key: value' lines at the top, found {type(content).__name__}.")
    return content


def from_mapping(cls: type[T], values: Mapping[str, Any], source: str, section: str = "", base: T | None = None) -> T:
    """Build ``cls`` from nested mappings, checking every key and type.

    Args:
        cls: a dataclass whose fields are plain types, other dataclasses, or ``| None`` of those.
        values: what was read.
        source: the file, for messages.
        section: dotted place of ``values`` in the file, for messages.
        base: gives what ``values`` leave out; None: the defaults of the fields. So a section that a
            method starts from other defaults keeps them where a file names only some of its keys.
    """
    hints = get_type_hints(cls)
    known = {field.name for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"Unknown key {key!r} in {source}{_in(section)}.{did_you_mean(str(key), sorted(known))}")
    defaults = _defaults(cls) if base is None else {name: getattr(base, name) for name in known}
    arguments = {} if base is None else dict(defaults)
    for key, value in values.items():
        arguments[key] = _convert(value, hints[key], source, _join(section, key), defaults.get(key))
    try:
        return cls(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{source}{_in(section)}: {error}") from error
    except TypeError as error:  # a field without a default is missing
        raise ConfigError(f"{source}{_in(section)}: {str(error).replace('__init__() ', '')}.") from error


def _defaults(cls: Any) -> dict[str, Any]:
    """The fields that have a default value, each with it."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(cls):
        if item.default is not dataclasses.MISSING:
            found[item.name] = item.default
        elif item.default_factory is not dataclasses.MISSING:
            found[item.name] = item.default_factory()
    return found


def _in(section: str) -> str:
    return f", section {section!r}" if section else ""


def _join(section: str, key: str) -> str:
    return f"{section}.{key}" if section else key


def _convert(value: Any, kind: Any, source: str, where: str, default: Any = None) -> Any:
    """``value`` as ``kind``, or a `ConfigError` that names place, value and what was expected."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, arguments, source, where, default)
    if origin is Literal:
        if value in arguments:
            return value
        hint = did_you_mean(str(value), [str(argument) for argument in arguments])
        listed = ", ".join(repr(argument) for argument in arguments)
        raise ConfigError(f"{source}: {where} is {value!r}; expected one of {listed}.{hint}")
    if dataclasses.is_dataclass(kind):
        if isinstance(value, Mapping):
            base = default if type(default) is kind else None
            return from_mapping(kind, value, source, where, base)  # type: ignore[arg-type]
    elif origin is tuple or kind is tuple:
        if isinstance(value, (list, tuple)):
            return _convert_tuple(value, arguments, source, where)
    elif isinstance(origin or kind, type) and issubclass(origin or kind, Mapping):
        if isinstance(value, Mapping):
            return dict(value)
    elif kind in _SCALARS:
        return _convert_scalar(value, kind, source, where)
    raise _wrong_type(value, kind, source, where)


def _convert_union(value: Any, kinds: Sequence[Any], source: str, where: str, default: Any) -> Any:
    if value is None and type(None) in kinds:
        return None
    real = [kind for kind in kinds if kind is not type(None)]
    if len(real) == 1:
        return _convert(value, real[0], source, where, default)
    for kind in real:
        try:
            return _convert(value, kind, source, where, default)
        except ConfigError:
            continue
    raise _wrong_type(value, kinds, source, where)


def _convert_tuple(value: Sequence[Any], kinds: Sequence[Any], source: str, where: str) -> tuple[Any, ...]:
    if not kinds:
        return tuple(value)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = [kinds[0]] * len(value)
    if len(kinds) != len(value):
        raise ConfigError(f"{source}: {where} has {len(value)} entries; expected {len(kinds)}.")
    return tuple(
        _convert(item, kind, source, f"{where}[{n}]") for n, (item, kind) in enumerate(zip(value, kinds, strict=True))
    )


def _as_float(value: Any) -> float:
    # YAML 1.1 reads 1e-3 (no dot) as text; people write it all the time
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _exactly(kind: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise ValueError
        return value

    return check


def _as_path(value: Any) -> Path:
    if not isinstance(value, (str, Path)):
        raise ValueError
    return Path(value)


_SCALARS: dict[Any, Callable[[Any], Any]] = {
    bool: _exactly(bool),
    int: _exactly(int),
    str: _exactly(str),
    float: _as_float,
    Path: _as_path,
    type(None): _exactly(type(None)),
}


def _convert_scalar(value: Any, kind: Any, source: str, where: str) -> Any:
    try:
        return _SCALARS[kind](value)
    except ValueError:
        raise _wrong_type(value, kind, source, where) from None


def _wrong_type(value: Any, kind: Any, source: str, where: str) -> ConfigError:
    kinds = kind if isinstance(kind, (list, tuple)) else [kind]
    expected = " or ".join(_kind_in_words(kind) for kind in kinds)
    return ConfigError(f"{source}: {where} is {value!r} ({type(value).__name__}); expected {expected}.")


def _kind_in_words(kind: Any) -> str:
    if kind is type(None):
        return "null"
    if dataclasses.is_dataclass(kind):
        return "a section"
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")


# ---- dataclass -> YAML ------------------------------------------------------------------------
def to_mapping(config: Any) -> Any:
    """A config as plain dictionaries, lists and scalars, in field order."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_mapping(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_mapping(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_mapping(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def to_yaml(config: Any) -> str:
    """The written form of a config (or of its mapping); `from_mapping` reads it back."""
    return yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True, default_flow_style=False)


def save_config(config: Any, path: str | Path) -> None:
    """Write a config as YAML, atomically."""
    write_text(path, to_yaml(config))


MACHINE: Mapping[str, Any] = {"machine": True}
"""Metadata of a field that says how the machine is used and decides no result, so that a run may go on with another."""


LATER: Mapping[str, Any] = {"later": True}
"""Metadata of a field that came later and whose default is what was done before: a run begun without it goes on."""


def decides(field: dataclasses.Field[Any], value: Any) -> bool:
    """Whether results depend on a field's value, beside what versions without the field did; see `MACHINE`, `LATER`."""
    return not field.metadata.get("machine") and not (field.metadata.get("later") and value == field.default)


def deciding(config: Any, values: Any) -> Any:
    """``values``, a mapping of what ``config`` holds, without the fields that decide no result."""
    if not dataclasses.is_dataclass(config) or not isinstance(values, Mapping):
        return values
    known = {field.name: field for field in dataclasses.fields(config)}
    return {
        key: deciding(getattr(config, key, None), value)
        for key, value in values.items()
        if key not in known or decides(known[key], value)
    }


def config_difference(before: Any, after: Any, place: str = "") -> list[str]:
    """Lines such as ``"dpo.beta: 0.1 -> 0.2"`` for every value in which two configs differ."""
    before, after = to_mapping(before), to_mapping(after)
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        return [
            line
            for key in keys
            for line in config_difference(before.get(key, "(absent)"), after.get(key, "(absent)"), _join(place, key))
        ]
    return [] if before == after else [f"{place}: {before!r} -> {after!r}"]


# ---- values -----------------------------------------------------------------------------------
def at_least(name: str, value: float | None, low: float) -> None:
    """Refuse a number below ``low``; None is what stands for no number.

    Raises:
        ConfigError: naming the setting.
    """
    if value is not None and not value >= low:
        raise ConfigError(f"{name} is {value!r}; give {low} or more.")


def check_score(name: str, value: float | None) -> None:
    """Refuse a score outside of [0, 1], such as one in percent; None is what stands for no number.

    Raises:
        ConfigError: naming the setting.
    """
    if value is not None and not 0.0 <= value <= 1.0:
        raise ConfigError(f"{name} is {value!r}; scores go from 0 to 1.")
