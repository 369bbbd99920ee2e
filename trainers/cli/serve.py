"""``icto serve``: a benchmark as a web site."""

from __future__ import annotations

import importlib

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


HELP = f"""usage: icto serve {{{",".join(SITES)}}} ...

Serve a benchmark as a web site on this machine, for people to play; Ctrl-C stops it.
icto serve SITE --help shows its flags.

examples:
"""


def serve(arguments: list[str]) -> None:
    """``icto serve``."""
    if not arguments or arguments[0].startswith("-"):
        print(HELP + "\n".join(f"  {line}" for line in EXAMPLES.strip().splitlines()))
        raise SystemExit(0 if arguments and arguments[0] in ("-h", "--help") else 2)
    name = check_name(arguments[0], SITES, "site")
    room = importlib.import_module(SITES[name])
    config = parse(room.ServeConfig, arguments[1:], prog=f"icto serve {name}", examples=EXAMPLES)

    def announce(address: str) -> None:
        kept = f"; finished episodes go to {config.record}" if config.record else ""
        print(f"Serving at {address}{kept}. Ctrl-C stops.", flush=True)

    try:
        room.serve(config, announce)
    except KeyboardInterrupt:
        print("Stopped.")
