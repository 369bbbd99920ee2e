"""Named configurations that ship with the package: ``icto run icto --config smollm2-cpu``."""

from __future__ import annotations

from pathlib import Path

from icto_gym.errors import check_name

FOLDER = Path(__file__).parent


def preset_names() -> list[str]:
    """The names there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def preset_path(name: str) -> Path:
    """The file of a preset.

    Raises:
        ConfigError: no such preset, with the nearest name.
    """
    return FOLDER / f"{check_name(name, preset_names(), 'preset')}.yaml"


def config_path(name: str) -> Path:
    """A preset's file if ``name`` is one, else ``name`` as a path."""
    return FOLDER / f"{name}.yaml" if name in preset_names() else Path(name)
