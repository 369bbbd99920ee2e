"""Named configurations that ship with the package: ``icto run eto --config smollm2-cpu``.

A preset speaks to all methods: a method takes the sections that it has and leaves the others, and what stands under
``methods: <name>:`` is for that method alone. ``smollm2-cpu+icto-step`` lays the second over the first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icto_gym.errors import ConfigError, check_name
from trainers.config import Fit, merged, read_yaml, with_preset

FOLDER = Path(__file__).parent
_OWN = "methods"


def preset_names() -> list[str]:
    """The names there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def preset_path(name: str) -> Path:
    """The file of a preset.

    Raises:
        ConfigError: no such preset, with the nearest name.
    """
    return FOLDER / f"{check_name(name, preset_names(), 'preset')}.yaml"


def preset_values(name: str, fit: Fit | None = None) -> Mapping[str, Any]:
    """What a preset says, as ``fit`` takes it; None: its sections, without what is for single methods."""
    values = read_yaml(preset_path(name))
    if fit is None:
        return {key: value for key, value in values.items() if key != _OWN}
    found = fit(values)
    if not found:
        raise ConfigError(f"The preset {name!r} says nothing that this method takes. It has: {', '.join(values)}.")
    return found


def fit_to(method: str, config_class: type[Any]) -> Fit:
    """What a preset says to one method: the sections it has, under what is meant for it alone."""
    known = {field.name for field in dataclasses.fields(config_class)}

    def fit(values: Mapping[str, Any]) -> Mapping[str, Any]:
        own = (values.get(_OWN) or {}).get(method) or {}
        return merged({key: value for key, value in values.items() if key in known}, own)

    return fit


def read_config(name: str, fit: Fit | None = None) -> Mapping[str, Any]:
    """Read a YAML file or preset, or several joined by ``+``, the later over the earlier.

    Raises:
        ConfigError: a part is neither, with the nearest preset; a file cannot be read.
    """
    if Path(name).is_file():
        return with_preset(read_yaml(Path(name)), fit)
    values: dict[str, Any] = {}
    for part in map(str.strip, name.split("+")):
        file = Path(part).is_file() or any(mark in part for mark in "./\\")  # what looks like a path is read as one
        found = with_preset(read_yaml(Path(part)), fit) if file else preset_values(part, fit)
        values = merged(values, found)
    return values
