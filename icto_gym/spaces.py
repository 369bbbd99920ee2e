"""A space of any text.

Gymnasium's own ``Text`` admits a fixed alphabet only and builds masks over it; observations and
commands here are free text. The registrations below let `gymnasium.make_vec` batch the space in one
process and over processes with shared memory.
"""

from __future__ import annotations

import multiprocessing as mp
from collections.abc import Iterable, Sequence
from multiprocessing.sharedctypes import SynchronizedArray
from typing import Any

import gymnasium as gym
from gymnasium.vector.utils import (
    concatenate,
    create_empty_array,
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 []<>'"
_SLOT_BYTES = 1 << 20  # pages of a slot that are never written never cost memory
_LENGTH_BYTES = 8


class FreeText(gym.Space[str]):
    """Every ``str``, of any length and alphabet, lone surrogates included."""

    def __init__(self, sample_length: int = 24, seed: int | None = None) -> None:
        """Args: ``sample_length``: longest text that `sample` draws; ``seed``: of the sampler."""
        super().__init__(shape=(), dtype=None, seed=seed)
        self.sample_length = sample_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Draw a short text of plain characters; masks have no meaning here."""
        if mask is not None or probability is not None:
            raise ValueError("FreeText.sample takes no mask and no probability: any text is legal.")
        length = int(self.np_random.integers(1, self.sample_length + 1))
        return "".join(_LETTERS[i] for i in self.np_random.integers(0, len(_LETTERS), size=length))

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def to_jsonable(self, sample_n: Iterable[str]) -> list[str]:
        return list(sample_n)

    def from_jsonable(self, sample_n: list[Any]) -> list[str]:
        return [str(sample) for sample in sample_n]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FreeText)

    def __hash__(self) -> int:
        return hash(FreeText)

    def __repr__(self) -> str:
        return "FreeText()"


@create_empty_array.register(FreeText)
def _(space: FreeText, n: int = 1, fn: Any = None) -> tuple[str, ...]:
    return ("",) * n


@concatenate.register(FreeText)
def _(space: FreeText, items: Any, out: Any) -> tuple[str, ...]:
    return tuple(items)


@create_shared_memory.register(FreeText)
def _(space: FreeText, n: int = 1, ctx: Any = mp) -> SynchronizedArray[Any]:
    return ctx.Array("c", n * _SLOT_BYTES)


@write_to_shared_memory.register(FreeText)
def _(space: FreeText, index: int, value: str, shared_memory: SynchronizedArray[Any]) -> None:
    data = value.encode("utf-8", "surrogatepass")
    if len(data) > _SLOT_BYTES - _LENGTH_BYTES:
        raise ValueError(
            f"An observation of {len(data)} bytes does not fit the {_SLOT_BYTES}-byte shared slot. "
            "Pass vector_kwargs={'shared_memory': False} to gymnasium.make_vec."
        )
    start = index * _SLOT_BYTES
    view = memoryview(shared_memory.get_obj()).cast("B")
    view[start : start + _LENGTH_BYTES] = len(data).to_bytes(_LENGTH_BYTES, "little")
    view[start + _LENGTH_BYTES : start + _LENGTH_BYTES + len(data)] = data


class SharedTexts(Sequence[str]):
    """The texts that workers wrote last. Gymnasium reads once and copies at each step; so the view
    is live and its deep copy is a plain tuple."""

    def __init__(self, memory: SynchronizedArray[Any], n: int) -> None:
        self._view = memoryview(memory.get_obj()).cast("B")
        self._n = n

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self)[index]
        if not -self._n <= index < self._n:
            raise IndexError(index)
        start = index % self._n * _SLOT_BYTES
        length = int.from_bytes(self._view[start : start + _LENGTH_BYTES], "little")
        body = self._view[start + _LENGTH_BYTES : start + _LENGTH_BYTES + length]
        return bytes(body).decode("utf-8", "surrogatepass")

    def __deepcopy__(self, memo: Any) -> tuple[str, ...]:
        return tuple(self)


@read_from_shared_memory.register(FreeText)
def _(space: FreeText, shared_memory: SynchronizedArray[Any], n: int = 1) -> SharedTexts:
    return SharedTexts(shared_memory, n)
