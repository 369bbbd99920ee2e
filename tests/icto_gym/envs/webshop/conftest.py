"""A generated shop in the raw format with its catalogue on disk."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icto_gym.envs.webshop import raw
from icto_gym.envs.webshop.catalog import Catalog, build_catalog
from icto_gym.envs.webshop.store_build import build

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """600 generated products in the raw format, and their catalogue."""
    folder = tmp_path_factory.mktemp("shop")
    script = [sys.executable, str(ROOT / "scripts/make_webshop_raw.py"), str(folder), "--products", "600"]
    subprocess.run(script, check=True, capture_output=True, cwd=ROOT)
    build(folder)
    return folder


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    """The raw files alone, in a folder of their own."""
    copied = tmp_path / "copy"
    copied.mkdir()
    for path in raw.raw_files(folder):
        (copied / path.name).write_bytes(path.read_bytes())
    return copied


@pytest.fixture(scope="session")
def in_memory() -> Callable[..., Catalog]:
    """Reads a folder of raw files whole, as without a catalogue on disk."""

    def read(folder: Path, **arguments: Any) -> Catalog:
        items, ins, human = (json.loads(path.read_text()) for path in raw.raw_files(folder))
        return build_catalog(items, ins, human, **arguments)

    return read
