"""Data in and out: ``icto import`` and ``icto export``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from icto_gym.errors import ConfigError
from icto_gym.files import drop_drafts
from trainers.cli.files import show
from trainers.cli.parsing import Flat, parse
from trainers.exchange import FORMATS, ExportOptions, ImportOptions, export_file, import_file

_LISTED = "\n".join(f"  {name:<21}{what}" for name, what in FORMATS.items())
IMPORT_EXAMPLES = """
icto import webshop_sft.json --format sharegpt --env-id icto/WebShop-v0 --policy expert --out runs/a/expert.jsonl
icto import alfworld_sft.json --format sharegpt --env-id icto/ALFWorld-v0 --score 1 --action-grammar move --out e.jsonl
icto import webshop_pm.json --format sharegpt-preference --margin 1 --out runs/a/pairs.jsonl
icto import train.parquet --format trl-preference --margin 1 --out runs/a/pairs.jsonl
"""
EXPORT_EXAMPLES = """
icto export runs/a/trajectories.jsonl --format trl-sft --out sft.parquet
icto export runs/a/pairs.jsonl --format trl-preference --out pairs.jsonl
icto export runs/a/trajectories.jsonl --format trl-unpaired --verdicts runs/a/verdicts.jsonl --out unpaired.parquet
icto export runs/a/expert.jsonl --format minari --dataset-id icto/webshop-expert-v0 --out datasets
"""


@dataclass(frozen=True)
class ImportCommand:
    source: Annotated[Path, tyro.conf.Positional]
    """A .jsonl, .json or .parquet file, or a folder of them or of a saved dataset."""
    format: str
    """What the records look like; see above."""
    out: Path
    """File for the trajectories or pairs."""
    step_rewards: Path | None = None
    """trl-stepwise: file for the labels, as step rewards."""
    verdicts: Path | None = None
    """trl-unpaired: file for the labels, as verdicts."""
    overwrite: bool = False
    """Replace files that are there already."""
    settings: Annotated[ImportOptions, Flat] = field(default_factory=ImportOptions)


@dataclass(frozen=True)
class ExportCommand:
    source: Annotated[Path, tyro.conf.Positional]
    """Our file of trajectories, or of pairs for the preference formats."""
    format: str
    """What the records shall look like; see above."""
    out: Path
    """A .jsonl, .json or .parquet file; for minari the folder of its datasets."""
    verdicts: Path | None = None
    """trl-unpaired: labels by a judge; left out: the environment's own success."""
    step_rewards: Path | None = None
    """trl-stepwise: rewards behind the labels; left out: as recorded."""
    overwrite: bool = False
    """Replace a file that is there already."""
    settings: Annotated[ExportOptions, Flat] = field(default_factory=ExportOptions)


ImportCommand.__doc__ = f"""Read a file of another project; what its records do not say is asked for, never guessed.

Formats:
{_LISTED}
"""
ExportCommand.__doc__ = f"""Write trajectories or pairs for another project; what a format cannot hold is said.

Formats:
{_LISTED}
"""


def _make_room(outs: list[Path | None], *, overwrite: bool) -> None:
    """Remove what a killed command left of these files; the files themselves only if that is asked for.

    Of files only: a folder named by mistake may hold drafts of others.

    Raises:
        ConfigError: one is there.
    """
    files = [out for out in outs if out is not None and not out.is_dir()]
    for out in files:
        if out.exists() and not overwrite:
            raise ConfigError(f"{out} exists. Choose another name, or replace it with --overwrite.")
    drop_drafts(files)


def import_(arguments: list[str]) -> None:
    """``icto import``."""
    command = parse(ImportCommand, arguments, prog="icto import", examples=IMPORT_EXAMPLES)
    _make_room([command.out, command.step_rewards, command.verdicts], overwrite=command.overwrite)
    show(
        import_file(
            command.source, command.format, command.out, command.settings,
            step_rewards=command.step_rewards, verdicts=command.verdicts,
        )
    )  # fmt: skip


def export(arguments: list[str]) -> None:
    """``icto export``."""
    command = parse(ExportCommand, arguments, prog="icto export", examples=EXPORT_EXAMPLES)
    _make_room([command.out], overwrite=command.overwrite)
    show(
        export_file(
            command.source, command.format, command.out, command.settings,
            verdicts=command.verdicts, step_rewards=command.step_rewards,
        )
    )  # fmt: skip
