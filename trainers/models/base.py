"""The frozen model below an adapter: where it lies, and whether it is still the one that the adapter was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from icto_gym.errors import DataError
from trainers.models import smollm2, tiny
from trainers.models.config import ModelConfig

_SAMPLES, _PIECE = 64, 4096


def placed(config: ModelConfig) -> ModelConfig:
    """The same model by a path that holds in every working directory; names of built-in and hub models stay."""
    return replace(config, name=str(Path(config.name).resolve())) if _is_local(config.name) else config


def base_digest(name: str) -> str | None:
    """SHA-256 over the sizes of a local model's weight files and 64 pieces of each; None for a model by name.

    Training moves nearly every weight, so pieces tell two models apart, in milliseconds for gigabytes.
    """
    if not _is_local(name):
        return None
    path = Path(name)
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    return hashlib.sha256(b"".join(_sample(file) for file in files)).hexdigest()


def check_base(folder: Path, record: Mapping[str, Any]) -> None:
    """Refuse to put an adapter beside other weights than it was trained on.

    Args:
        folder: the adapter's checkpoint.
        record: its ``checkpoint.json``.

    Raises:
        DataError: the weights are gone, or others.
    """
    name, digest = record["model"]["name"], record.get("base_digest")
    if digest is None:
        return
    if not _is_local(name):
        raise DataError(
            f"{folder}: its adapter belongs to the model in {name}, which is not there. Put it back, or write its "
            "new place into checkpoint.json, as model.name."
        )
    if base_digest(name) != digest:
        raise DataError(
            f"{folder}: the weights in {name} are not those that its adapter was trained on. Put those back, or "
            "train the adapter again."
        )


def _is_local(name: str) -> bool:
    if name == smollm2.NAME or name.partition(":")[0] == tiny.NAME:  # whatever folder has this name here
        return False
    path = Path(name)
    return path.is_dir() or (path.suffix == ".gguf" and path.is_file())


def _sample(file: Path) -> bytes:
    size = file.stat().st_size
    with open(file, "rb") as handle:
        pieces = []
        for number in range(_SAMPLES):
            handle.seek(number * max(0, size - _PIECE) // (_SAMPLES - 1))
            pieces.append(handle.read(_PIECE))
    return hashlib.sha256(b"%d " % size + b"".join(pieces)).digest()
