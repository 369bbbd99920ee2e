"""Digests of what a stage read: configs, plain values, and the content of files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainers.config import decides


def digest(value: Any) -> str:
    """SHA-256 (hex) of a config or plain value; of paths in it, the content of the file or folder counts.

    Fields of a config that decide no result do not count.
    """
    if isinstance(value, Path):
        return _path_digest(value)
    return hashlib.sha256(json.dumps(_digestible(value), sort_keys=True, default=str).encode()).hexdigest()


def _digestible(value: Any) -> Any:
    if isinstance(value, Path):
        return _path_digest(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        held = {field: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {field.name: _digestible(item) for field, item in held.items() if decides(field, item)}
    if isinstance(value, Mapping):
        return {str(key): _digestible(item) for key, item in value.items()}
    return [_digestible(item) for item in value] if isinstance(value, (list, tuple)) else value


def _path_digest(path: Path) -> str:
    if path.is_dir():
        state = hashlib.sha256()
        for child in sorted(child for child in path.rglob("*") if child.is_file()):
            state.update(f"{child.relative_to(path)}\0{_file_digest(child)}\n".encode())
        return state.hexdigest()
    return _file_digest(path) if path.exists() else hashlib.sha256(str(path).encode()).hexdigest()


_seen: dict[tuple[str, int, int], str] = {}


def _file_digest(path: Path) -> str:
    status = path.stat()
    key = (str(path.absolute()), status.st_size, status.st_mtime_ns)
    if key not in _seen:
        with open(path, "rb") as handle:
            state = hashlib.sha256()
            while block := handle.read(1 << 20):
                state.update(block)
        _seen[key] = state.hexdigest()
    return _seen[key]
