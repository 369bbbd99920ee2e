"""``icto data``: prepare a benchmark's data once, for all later runs."""

from __future__ import annotations

import importlib
import json
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from icto_gym.envs.registration import DATA_BUILDERS
from icto_gym.errors import check_name
from trainers.cli.parsing import Flat, parse

EXAMPLES = """
icto data webshop ~/webshop/data                           build the catalogue in ~/webshop/data/catalog
icto data webshop ~/webshop/data --out /fast/shop          somewhere else; environments take data="/fast/shop"
icto data webshop ~/webshop/data --num-products 100000     the first 100,000 records only
icto data webshop ~/webshop/data --on-fault skip           leave broken records out and list them in faults.jsonl
"""


def data(arguments: list[str]) -> None:
    """``icto data``."""
    named = bool(arguments) and not arguments[0].startswith("-")
    what = check_name(arguments[0], DATA_BUILDERS, "data") if named else next(iter(DATA_BUILDERS))
    builder = importlib.import_module(DATA_BUILDERS[what])
    command = parse(_command(builder.BuildConfig), arguments[named:], prog=f"icto data {what}", examples=EXAMPLES)
    print(json.dumps(builder.build(command.folder.expanduser(), command.settings), indent=2))


def _command(config: type[Any]) -> type[Any]:
    """The arguments of a builder: the folder, and its settings as flags."""
    folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help="Folder with the benchmark's raw files.")]
    settings = ("settings", Annotated[config, Flat], field(default_factory=config))  # type: ignore[valid-type]
    return make_dataclass("DataCommand", [("folder", folder), settings], namespace={"__doc__": config.__doc__})
