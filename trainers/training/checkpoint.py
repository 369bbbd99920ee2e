"""What training leaves on disk: the state it resumes from, and the checkpoint it was for.

Everything is safetensors and JSON, written into a draft folder that takes its name when it is whole::

    out/training.json          what is trained on what, with digests; a resumed training must match it
    out/state-000040/          trainable weights, optimiser, position
    out/best-000030/           the best checkpoint so far, where probes decide
    out/checkpoint/            the result; complete if and only if it holds checkpoint.json
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from icto_gym.errors import ConfigError, DataError, IctoError
from icto_gym.files import drop_drafts, read_json, write_json
from trainers import distributed
from trainers.models.base import base_digest, placed
from trainers.models.config import ModelConfig
from trainers.models.foreign import readable
from trainers.models.loading import CHECKPOINT_FILE, LoadedModel, checkpoint_record, read_checkpoint, save_weights
from trainers.training.config import OptimizerConfig

RECORD_FILE = "training.json"
_FREE = {"save_every"}  # settings that may change between a start and its resumption
_DRAFT = re.compile(r"\.(checkpoint|(state|best|rollout)-\d{6,}|nonfinite-step-\d{6,}(-process-\d+)?)\.[a-z0-9_]{8}")
"""As `write_folder` names them. A folder of a training may be a user's own too: nothing else is removed from it."""


class TrainingError(IctoError, RuntimeError):
    """A training that cannot go on."""


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder whole or not at all; one that is there already is replaced."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        fill(draft)
        _to_disk(draft)
        os.chmod(draft, 0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(draft, folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _to_disk(folder: Path) -> None:
    """Have the disk hold every file, so that no power cut leaves a folder with its name and without its content."""
    for path in (file for file in folder.rglob("*") if file.is_file()):
        with open(path, "rb") as handle:
            os.fsync(handle.fileno())


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    result = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            result.update(block)
    return result.hexdigest()


def data_digest(records: Any) -> str:
    """SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()


def describe_start(start: ModelConfig | str | os.PathLike[str]) -> dict[str, Any]:
    """What a training started from: settings, and digests of weights that lie in a folder."""
    config = start if isinstance(start, ModelConfig) else ModelConfig(name=os.fspath(start))
    record = Path(config.name) / CHECKPOINT_FILE
    if not record.exists():
        return {"model": config.to_dict(), **_base(config.name)}
    settings, facts = config.to_dict() if isinstance(start, ModelConfig) else {}, read_json(record)
    base = {key: facts[key] for key in ("base_digest",) if key in facts}
    return {"model": {**settings, "name": "checkpoint"}, "weights": facts.get("weights_digest"), **base}


def begin(out: Path, facts: Mapping[str, Any]) -> bool:
    """Open ``out`` for a training described by ``facts``; clean up what a killed one left half-written.

    Returns:
        Whether the training is complete already.

    Raises:
        ConfigError: if the folder holds another training.
    """
    return distributed.on_first(lambda: _begin(out, facts))


def _begin(out: Path, facts: Mapping[str, Any]) -> bool:
    out.mkdir(parents=True, exist_ok=True)
    facts = json.loads(json.dumps(facts))
    path = out / RECORD_FILE
    if path.exists():
        _check_same(out, read_json(path), facts)
    else:
        _check_unused(out)
        write_json(path, facts)
    for draft in out.iterdir():
        if draft.is_dir() and _DRAFT.fullmatch(draft.name):
            shutil.rmtree(draft, ignore_errors=True)
    drop_drafts([out])
    complete = (out / "checkpoint" / CHECKPOINT_FILE).exists()
    if complete:
        drop_folders(out, "state")
        drop_folders(out, "best")
    return complete


def _check_same(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Settings that only one side knows came or went with a version of this package; all else has to agree.

    Those that say what was done before they came (`trainers.config.LATER`) are known to both.
    """
    old, new = _flat(before), _flat(now)
    both = {key for key in old.keys() & new.keys() if old[key] != new[key]}
    changed = both | {key for key in old.keys() ^ new.keys() if not key.startswith("setting ")}
    if changed:
        raise ConfigError(
            f"{out} holds a training with another {', '.join(sorted(changed))}. "
            "Choose another folder, or remove this one."
        )


def _check_unused(out: Path) -> None:
    strange = [path for path in (out / "checkpoint", *numbered(out, "state"), *numbered(out, "best")) if path.exists()]
    if strange:
        raise ConfigError(
            f"{strange[0]} is there, but {out} has no {RECORD_FILE}, so it is of no training that could go on, and "
            "would be lost. Choose another folder, or remove it first."
        )


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    later = {item.name: item.default for item in fields(OptimizerConfig) if item.metadata.get("later")}
    settings = {f"setting {key}": value for key, value in {**later, **facts["config"]}.items() if key not in _FREE}
    return {**{key: value for key, value in facts.items() if key != "config"}, **settings}


def save_state(out: Path, step: int, tensors: dict[str, Tensor], position: Mapping[str, Any]) -> None:
    """Save what resuming after ``step`` optimiser steps needs, then drop older states."""
    from safetensors.torch import save_file

    def fill(draft: Path) -> None:
        save_file(tensors, draft / "state.safetensors")
        write_json(draft / "position.json", {"step": step, **position})

    write_folder(out / f"state-{step:06d}", fill)
    drop_folders(out, "state", keep=f"state-{step:06d}")


def load_state(out: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The latest saved state: (tensors, position), or None.

    Raises:
        DataError: it is torn, as by a full disk, or holds something else; naming the folder.
    """
    from safetensors.torch import load_file

    folders = numbered(out, "state")
    if not folders:
        return None
    mend = "Remove this folder, and the training begins again."
    with readable(folders[-1], mend):
        tensors = load_file(folders[-1] / "state.safetensors")
    try:
        position = read_json(folders[-1] / "position.json")
    except DataError as error:
        raise DataError(f"{error} {mend}") from error
    if not isinstance(position, dict) or "step" not in position:
        raise DataError(f"{folders[-1] / 'position.json'} does not say how far the training was. {mend}")
    return tensors, position


def saved_step(out: Path) -> int:
    """Optimiser steps behind the latest saved state; 0 where there is none."""
    return max((int(folder.name.partition("-")[2]) for folder in numbered(out, "state")), default=0)


def numbered(out: Path, kind: str) -> list[Path]:
    """The folders ``<kind>-<six digits or more>`` of ``out``, in order."""
    named = re.compile(rf"{kind}-(\d{{6,}})")
    found = {folder: match for folder in out.glob(f"{kind}-*") if (match := named.fullmatch(folder.name))}
    return sorted((folder for folder in found if folder.is_dir()), key=lambda folder: int(found[folder][1]))


def drop_folders(out: Path, kind: str, keep: str | None = None) -> None:
    """Remove the numbered folders of a kind, but for one."""
    for folder in numbered(out, kind):
        if folder.name != keep:
            shutil.rmtree(folder, ignore_errors=True)


def save_checkpoint(
    folder: Path, loaded: LoadedModel, facts: Mapping[str, Any], weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write a checkpoint that `trainers.models.loading.load_model` reads.

    Args:
        folder: its place.
        loaded: model and tokenizer.
        facts: more for its record.
        weights: by name, in place of the model's own, where these are split over processes.
    """

    def fill(draft: Path) -> None:
        kind = save_weights(loaded.model, loaded.tokenizer, draft, weights)
        if kind == "adapter":
            model, base = placed(loaded.config), _base(loaded.config.name)
        else:
            model, base = replace(loaded.config, name=_origin(loaded.config.name)), {}
        write_json(draft / CHECKPOINT_FILE, checkpoint_record(kind, model, **base, **seal(draft), **facts))

    write_folder(folder, fill)


def _base(name: str) -> dict[str, str]:
    digest = base_digest(name)
    return {} if digest is None else {"base_digest": digest}


def _origin(name: str) -> str:
    """The model that a chain of full checkpoints goes back to: each holds all its weights, so where the one before lay
    is nobody's business."""
    return read_checkpoint(name)["model"]["name"] if (Path(name) / CHECKPOINT_FILE).exists() else name


def seal(folder: Path) -> dict[str, Any]:
    """The digest over all weights of a folder and the folders in it."""
    found = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*.safetensors"))
    digests = [f"{name} {file_digest(path)}" for name, path in found]
    return {"weights_digest": hashlib.sha256("\n".join(digests).encode()).hexdigest()}
