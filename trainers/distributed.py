"""Several processes as one: who is first, who waits, and what the first one tells (importable without torch).

Every process runs the same program. What plays, writes and logs is done by the first process while the others wait
for its result; only training is done by all. Processes are started by ``torchrun`` or DeepSpeed's own launcher.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

from icto_gym.errors import ConfigError, DependencyNotInstalled, IctoError, check_name, require
from icto_gym.files import read_json
from trainers.config import MACHINE

logger = logging.getLogger(__name__)

T = TypeVar("T")
ENGINES = ("local", "deepspeed")
ZERO = ("zero1", "zero2", "zero3", "zero2-offload", "zero3-offload")
"""Presets of DeepSpeed, files in ``trainers/training/zero``."""
_PATIENCE = timedelta(days=30)  # while the first process plays, the others wait, for hours if need be


class PeerError(IctoError, RuntimeError):
    """The first process failed, so this one stops too."""


@dataclass(frozen=True)
class EngineConfig:
    """What trains, and on how many processes; results do not depend on it beyond rounding."""

    engine: Literal["local", "deepspeed"] = field(default="local", metadata=MACHINE)
    """What trains: `local`, this process alone, or `deepspeed`, all processes that torchrun started (this one where it
    started none). A run begun with one may go on with the other."""
    deepspeed: str = field(default="zero2", metadata=MACHINE)
    """With engine `deepspeed`: zero1, zero2, zero3, zero2-offload, zero3-offload, or a DeepSpeed JSON file."""

    def __post_init__(self) -> None:
        check_name(self.engine, ENGINES, "engine")
        if not self.deepspeed.endswith(".json"):  # a file is read where training begins
            check_name(self.deepspeed, ZERO, "DeepSpeed preset")


def splits_weights(config: EngineConfig) -> bool:
    """Whether no process holds the weights whole while they are trained (ZeRO 3, by a preset or a file).

    Raises:
        DataError: the file cannot be read.
    """
    if config.engine != "deepspeed" or not config.deepspeed.endswith(".json"):
        return config.engine == "deepspeed" and config.deepspeed.startswith("zero3")
    told = read_json(Path(config.deepspeed))
    zero = told.get("zero_optimization") if isinstance(told, dict) else None
    return isinstance(zero, dict) and zero.get("stage") == 3


_engine = EngineConfig()
_group: Any = None


def engine() -> EngineConfig:
    """What `launched` was given; the local engine outside of it."""
    return _engine


def engine_facts() -> dict[str, Any]:
    """What trains in this launch, for records."""
    if _engine.engine == "local":
        return {"engine": "local"}
    return {"engine": _engine.engine, "deepspeed": _engine.deepspeed, "processes": world_size()}


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ["RANK"]) if _group is not None else 0


def world_size() -> int:
    """How many processes there are."""
    return int(os.environ["WORLD_SIZE"]) if _group is not None else 1


@contextmanager
def launched(config: EngineConfig) -> Iterator[None]:
    """Join the other processes for the length of the block.

    Args:
        config: of a method's or command's own settings the engine alone is read.

    Raises:
        ConfigError: several processes were started for an engine that uses one, or DeepSpeed's file is not there.
        DependencyNotInstalled: DeepSpeed is missing.
    """
    global _engine, _group
    config = EngineConfig(config.engine, config.deepspeed)
    if config.engine == "local":
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count > 1:
            raise ConfigError(
                f"{count} processes were started, and the engine 'local' uses one. Add --engine deepspeed, or start "
                "without torchrun."
            )
        yield
        return
    if config.deepspeed.endswith(".json") and not Path(config.deepspeed).is_file():  # before hours of play
        raise ConfigError(f"There is no DeepSpeed file {config.deepspeed!r}. Give one, or a preset: {', '.join(ZERO)}.")
    _engine, _group = config, _join()
    logger.info("DeepSpeed %s: %d process(es) train; torchrun says how many", config.deepspeed, world_size())
    try:
        yield
    except BaseException:
        _leave(together=world_size() == 1)
        raise
    _leave(together=True)


def _leave(*, together: bool) -> None:
    """Forget the other processes; ``together``: all do. One that fails must not wait for the others to do so too.

    NCCL takes its groups down only when all ask for it, and the others may be waiting for this one in a training step.
    The launcher stops them once this process has ended.
    """
    global _engine, _group
    import torch.distributed

    _engine, _group = EngineConfig(), None
    if together:
        torch.distributed.destroy_process_group()


def _join() -> Any:
    import torch

    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}
    if "RANK" not in os.environ:
        os.environ.update(alone)
    deepspeed = _deepspeed()
    if not cuda:  # else a first run compiles an operation for minutes, and a killed compilation locks the next one out
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    deepspeed.init_distributed(dist_backend="nccl" if cuda else "gloo", verbose=False)
    return torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)


def _deepspeed() -> Any:
    try:
        return require("deepspeed", extra="deepspeed")
    except DependencyNotInstalled as error:  # asked for by a preset, perhaps, and not by the one who reads this
        raise DependencyNotInstalled(f"{error} Or train in one process without it: --engine local.") from error


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def on_first(work: Callable[[], T]) -> T:
    """Let the first process do it while the others wait; all return its result, which must be JSON.

    Raises:
        PeerError: in the others, where the first one failed; it raises its own error.
    """
    if world_size() == 1:
        return work()
    if rank():
        told = json.loads(_tell(b""))
        if "error" in told:
            raise PeerError(f"The first process stopped: {told['error']}")
        return told["result"]
    try:
        result = work()
    except BaseException as error:
        _tell(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        raise
    _tell(json.dumps({"result": result}).encode())
    return result


def _tell(message: bytes) -> bytes:
    """What the first process says, in all of them."""
    import torch
    import torch.distributed as dist

    length = torch.tensor([len(message)])
    dist.broadcast(length, 0, group=_group)
    data = (
        torch.frombuffer(bytearray(message), dtype=torch.uint8)
        if message
        else torch.empty(int(length), dtype=torch.uint8)
    )
    dist.broadcast(data, 0, group=_group)
    return data.numpy().tobytes()


def add_up(values: list[float]) -> list[float]:
    """Each number summed over all processes."""
    if world_size() == 1:
        return values
    import torch
    import torch.distributed as dist

    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums, group=_group)
    return sums.tolist()


def largest(value: int) -> int:
    """The largest of all processes' numbers."""
    if world_size() == 1:
        return value
    import torch
    import torch.distributed as dist

    most = torch.tensor([value])
    dist.all_reduce(most, op=dist.ReduceOp.MAX, group=_group)
    return int(most)
