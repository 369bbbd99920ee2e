"""``icto serve``: a benchmark as a web site."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from icto_gym.errors import check_name
from trainers.cli.parsing import parse

SITES = {"webshop": "icto_gym.envs.webshop.site.serve"}
"""Benchmarks with a site: modules with ``ServeConfig`` and ``serve(config, announce)``."""
EXAMPLES = """
icto serve webshop                                     play in a browser of your own
icto serve webshop --split dev --index 3               offer a certain task first
icto serve webshop --record runs/mine/by-hand.jsonl    and keep what you do as demonstrations
icto train sft runs/mine/by-hand.jsonl --out runs/mine/sft
"""


@dataclass(frozen=True)
class ServeCommand:
    """Serve a benchmark as a web site on this machine, for people to play; Ctrl-C stops it."""

    site: Annotated[str, tyro.conf.Positional]
    """Which: webshop."""
    host: str = "127.0.0.1"
    """Address to listen on; anything but a loopback address lets others in."""
    port: int = 3000
    """Port to listen on; 0: any free one."""
    allow_host: tuple[str, ...] = ()
    """Further names by which browsers may address the site."""
    split: str = "train"
    """Split that the welcome page offers first."""
    index: int | None = None
    """Task of the split that the welcome page offers first, from 0; left out: a drawn one."""
    record: Path | None = None
    """Append every finished episode to this file of trajectories."""
    policy: str = "person"
    """Who acts, as the trajectories say it."""
    max_episode_steps: int | None = None
    """Step limit; left out: the environment's published one."""
    pictures: bool = False
    """Let pages load product pictures from the web addresses in the data."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment, such as the folder of its data."""


def serve(arguments: list[str]) -> None:
    """``icto serve``."""
    command = parse(ServeCommand, arguments, prog="icto serve", examples=EXAMPLES)
    room = importlib.import_module(SITES[check_name(command.site, SITES, "site")])
    settings = {name: value for name, value in vars(command).items() if name != "site"}

    def announce(address: str) -> None:
        kept = f"; finished episodes go to {command.record}" if command.record else ""
        print(f"Serving at {address}{kept}. Ctrl-C stops.", flush=True)

    try:
        room.serve(room.ServeConfig(**settings), announce)
    except KeyboardInterrupt:
        print("Stopped.")
