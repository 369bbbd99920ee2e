"""Loading and saving language models; the only file that imports peft and bitsandbytes.

Weights are read from safetensors only and no code of a model's author is run, so a checkpoint from elsewhere is data.
"""

from __future__ import annotations

import logging
import os
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icto_gym.errors import ConfigError, DataError, require
from icto_gym.files import read_json
from trainers.models import smollm2, tiny
from trainers.models.base import check_base
from trainers.models.config import LoRAConfig, ModelConfig
from trainers.models.foreign import check_folder, lora_settings, readable

CHECKPOINT_FILE = "checkpoint.json"
ADAPTER_FILE = "adapter_model.safetensors"
FULL_FILE = "model.safetensors"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to act or to be trained, with what it needs."""

    model: Any
    """A Transformers causal language model, or peft's wrapper around one."""
    tokenizer: Any
    config: ModelConfig
    """Name and settings of the frozen or full weights; ``lora`` says what is trained."""


def load_model(source: ModelConfig | str | os.PathLike[str], *, trainable: bool = False) -> LoadedModel:
    """Load a model by name, configuration or checkpoint folder.

    Args:
        source: a name (see `ModelConfig.name`), a `ModelConfig`, or a checkpoint folder that training wrote.
        trainable: attach the adapter for training (a fresh one, or the checkpoint's, which goes on learning). Without
            it the adapter is merged into the weights, which makes generation faster, and gradients are off.

    Raises:
        ConfigError: if the model is unknown or its settings do not fit together.
        DataError: if the checkpoint folder is not complete.
        DependencyNotInstalled: if a package is missing, naming the command that installs it.
    """
    config = source if isinstance(source, ModelConfig) else ModelConfig(name=os.fspath(source))
    if (Path(config.name) / CHECKPOINT_FILE).exists():
        return _load_checkpoint(Path(config.name), config, asked=isinstance(source, ModelConfig), trainable=trainable)
    if trainable:
        _check_trainable(config)
    model, tokenizer = _load_base(config)
    if trainable:
        return LoadedModel(_prepare_training(model, config), tokenizer, config)
    return LoadedModel(_freeze(model), tokenizer, config)


def read_checkpoint(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and check ``checkpoint.json`` of a checkpoint folder."""
    path = Path(folder) / CHECKPOINT_FILE
    if not path.exists():
        raise DataError(f"{folder}: not a complete checkpoint, {CHECKPOINT_FILE} is missing.")
    record = read_json(path)
    if not isinstance(record, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(record).__name__}.")
    if record.get("format_version") != FORMAT_VERSION or record.get("kind") not in ("adapter", "full", "reward"):
        raise DataError(
            f"{path}: format_version {record.get('format_version')!r} and kind {record.get('kind')!r} are not known; "
            f"this version reads format_version {FORMAT_VERSION}, kinds 'adapter', 'full' and 'reward'."
        )
    model = record.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        raise DataError(f"{path}: expected model with a name, found {str(model)[:80]!r}.")
    return record


def save_weights(model: Any, tokenizer: Any, folder: Path, weights: Mapping[str, Any] | None = None) -> str:
    """Write a model into an existing folder as safetensors: its adapter if it has one, else all weights.

    ``weights``, by name, are written in place of the model's own.

    Returns:
        The kind for ``checkpoint.json``: ``"adapter"`` or ``"full"``.
    """
    if is_adapted(model):
        model.save_pretrained(folder, save_embedding_layers=False, **({"state_dict": dict(weights)} if weights else {}))
        (folder / "README.md").unlink(missing_ok=True)  # an empty model card
        return "adapter"
    model.save_pretrained(folder, **({"state_dict": dict(weights)} if weights else {}))
    tokenizer.save_pretrained(folder)
    return "full"


def is_adapted(model: Any) -> bool:
    """True for peft's wrapper around a model."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def causal_lm(model: Any) -> Any:
    """The Transformers model itself, adapter layers (if any) in place."""
    return model.get_base_model() if is_adapted(model) else model


def context_length(model: Any) -> int | None:
    """Tokens that a model can read at once, as its configuration says; None where that is silent."""
    return getattr(causal_lm(model).config.get_text_config(), "max_position_embeddings", None) or None


def cast_weights(model: Any, dtype: str | None) -> Any:
    """The model, its weights put into another precision (None: left as they are).

    Buffers keep theirs: among them are the frequencies of rotary positions, which 8 bits would blur.

    Raises:
        ConfigError: the weights are quantised.
    """
    import torch

    for weight in model.parameters() if dtype else ():
        if not weight.is_floating_point():
            raise ConfigError(
                f"The model is to play in {dtype!r}, but its weights are quantised and cannot be cast. Leave dtype out."
            )
        weight.data = weight.data.to(getattr(torch, str(dtype)))
    return model


@contextmanager
def merged_for_generation(model: Any, dtype: str | None = None) -> Iterator[Any]:
    """Fold the adapter into the weights, in another precision if asked, while the block runs; then put the very same
    weights back.

    Subtracting the adapter again, as peft's own unmerge does, would leave rounding errors in weights that must not
    change.
    """
    layers = _adapter_layers(model) if is_adapted(model) else []
    exact = [(weight, weight.data) for weight in model.parameters() if weight.is_floating_point()]
    training = model.training
    try:
        for layer in layers:
            layer.get_base_layer().weight.data = layer.get_base_layer().weight.data.clone()
            layer.merge()
        yield cast_weights(model, dtype).eval()
    finally:
        for weight, values in exact:
            weight.data = values
        for layer in layers:
            layer.merged_adapters.clear()
        model.train(training)


def _named_adapter_layers(model: Any) -> list[tuple[str, Any]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]


def _adapter_layers(model: Any) -> list[Any]:
    layers = [layer for _, layer in _named_adapter_layers(model)]
    plain = all(layer.get_base_layer().weight.is_floating_point() for layer in layers)
    return layers if plain else []  # quantised weights stay as they are: folding would round them


def _load_base(config: ModelConfig) -> tuple[Any, Any]:
    import torch

    transformers = require("transformers", extra="train")
    folder, where = _weights_folder(config)
    options: dict[str, Any] = {"dtype": getattr(torch, config.dtype)}
    if config.quantization:
        options["quantization_config"] = _quantization(config)
    with readable(Path(config.name)), smollm2.without_bars():
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **where)
            options["config"] = _settings(transformers, folder, where)
            model = transformers.AutoModelForCausalLM.from_pretrained(folder, **where, **options)
        except (OSError, ValueError, struct.error) as error:  # not OSError: it holds something else
            raise ConfigError(
                f"The model {config.name!r} could not be loaded ({str(error).splitlines()[0]}). Built in: "
                f"{smollm2.NAME!r}, {tiny.NAME!r}; else give a folder, a .gguf file or a name of the Hugging Face hub."
            ) from error
    if "gguf_file" in where:
        smollm2.forget_quantization(model)
    if tokenizer.chat_template is None:
        raise ConfigError(f"The tokenizer of {config.name!r} has no chat template. Use an instruction-tuned model.")
    if torch.cuda.is_available() and not config.quantization:
        model.to("cuda")
    return model, tokenizer


def _weights_folder(config: ModelConfig) -> tuple[str, dict[str, Any]]:
    """Where the weights are, and how Transformers is to read them: never code, never pickles."""
    where: dict[str, Any] = {"trust_remote_code": False}  # the default would ask on a terminal
    path = Path(config.name)
    if path.suffix == ".gguf" and path.is_file():
        require("gguf", extra="train")
        if config.quantization:
            raise ConfigError(f"{path} is unpacked to plain weights; model.quantization must be None for it.")
        return str(path.parent), {**where, "gguf_file": path.name}
    where["use_safetensors"] = True
    if config.name == smollm2.NAME:
        return str(smollm2.smollm2_folder()), where
    if config.name.partition(":")[0] == tiny.NAME:
        return str(tiny.tiny_folder(config.name)), where
    if path.is_dir():
        check_folder(path)
    return config.name, where


def _settings(transformers: Any, folder: str, where: Mapping[str, Any]) -> Any:
    """The model's own configuration, with SDPA, or plain operations where SDPA cannot (capped scores, sinks).

    Overwritten, since what stands there may be the name of a kernel to download and run, even beside an argument.
    """
    config = transformers.AutoConfig.from_pretrained(folder, **where)
    kinds = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    fits = type(config) not in kinds or getattr(kinds[type(config)], "_supports_sdpa", False)
    config._attn_implementation = "sdpa" if fits else "eager"
    return config


def _quantization(config: ModelConfig) -> Any:
    import torch

    require("bitsandbytes", extra="quantization")
    from transformers import BitsAndBytesConfig

    if config.quantization == "int8":
        # one warning for every product of every layer, that 8 bits are reached by way of 16
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, config.dtype),
    )


def _check_trainable(config: ModelConfig) -> None:
    """Without a scaled loss, which no engine here has, gradients below 6e-8 would be 0 in float16.

    Raises:
        ConfigError: the weights are in float16.
    """
    if config.dtype == "float16":
        raise ConfigError(
            "model.dtype is 'float16', in which small gradients vanish, so nothing is trained in it. Train in "
            "'bfloat16' or, where the card has none, in 'float32' (with model.quantization nf4 to save memory)."
        )


def _prepare_training(model: Any, config: ModelConfig) -> Any:
    if config.lora is None:
        if config.quantization:
            raise ConfigError(f"Weights quantised to {config.quantization!r} cannot be trained; set model.lora.")
        return model
    import torch

    peft = require("peft", extra="peft")
    if config.quantization:
        model = _quantized_for_training(peft, model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return _refuse_tied(peft.get_peft_model(model, _lora(peft, config.lora, model)))


def _quantized_for_training(peft: Any, model: Any) -> Any:
    """A quantised model, ready for an adapter; its 4-bit weights keep the layout in which gradients pass.

    On processors with AVX512-BF16 bitsandbytes lays them out anew once they are read in evaluation mode, as checks and
    probes do, and from then on takes them through a kernel without a backward pass: gradients would be wrong, silently.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    return peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def _refuse_tied(model: Any) -> Any:
    """The model, unless an adapter stands beside weights that another layer has too.

    To fold it into them, as for acting, would change that other layer, which was trained without it.

    Raises:
        ConfigError: naming the layers.
    """
    holders = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    tied = sorted(
        name for name, layer in _named_adapter_layers(model) if holders[id(layer.get_base_layer().weight)] > 1
    )
    if tied:
        raise ConfigError(
            f"The adapter reaches {', '.join(name.rpartition('.')[2] for name in tied)}, whose weights another layer "
            "has too (tied embeddings), so it could not be folded into them. Leave it out of "
            "model.lora.target_modules, or use a model with an output layer of its own."
        )
    return model


def _lora(peft: Any, lora: LoRAConfig, model: Any) -> Any:
    modules, blocks = lora.target_modules, model.config.num_hidden_layers
    first = None if lora.last_blocks is None else max(0, blocks - lora.last_blocks)
    if modules == "all-linear" and first is not None:  # peft takes a choice of blocks only beside a list of names
        modules = _linear_names(model)
    return peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        task_type="CAUSAL_LM",
        layers_to_transform=None if first is None else list(range(first, blocks)),
    )


def _linear_names(model: Any) -> tuple[str, ...]:
    """Last parts of the names of all linear layers but the output layer."""
    from torch.nn import Linear

    linear = {name.rpartition(".")[2] for name, layer in model.base_model.named_modules() if isinstance(layer, Linear)}
    return tuple(sorted(linear))


def _load_checkpoint(folder: Path, config: ModelConfig, *, asked: bool, trainable: bool) -> LoadedModel:
    """``asked``: the settings in ``config`` are the caller's wish, not defaults."""
    record = read_checkpoint(folder)
    saved = ModelConfig.from_dict(record["model"])
    if record["kind"] == "adapter":
        if asked:
            _refuse_other_settings(folder, config, saved)
        check_base(folder, record)
        if trainable:
            _check_trainable(saved)
        return _load_adapter(folder, saved, trainable=trainable)
    if record["kind"] == "reward":
        raise ConfigError(f"{folder} holds a reward model, which does not write text. Load it with RewardModel.load.")
    _expect_file(folder, FULL_FILE)
    settings = replace(config if asked else saved, name=str(folder))
    if trainable:
        _check_trainable(settings)
    model, tokenizer = _load_base(settings)
    return LoadedModel(_prepare_training(model, settings) if trainable else _freeze(model), tokenizer, settings)


def _refuse_other_settings(folder: Path, asked: ModelConfig, saved: ModelConfig) -> None:
    """An adapter was trained beside weights of one precision, in one shape; what is asked besides must be that."""
    plain, names = ModelConfig(), ("dtype", "lora", "quantization")
    odd = [name for name in names if getattr(asked, name) not in (getattr(plain, name), getattr(saved, name))]
    if odd:
        raise ConfigError(
            f"{folder} holds an adapter with model.{odd[0]} {getattr(saved, odd[0])}, and "
            f"{getattr(asked, odd[0])} is asked for. Leave model.{odd[0]} out, or train from another start."
        )


def _load_adapter(folder: Path, config: ModelConfig, *, trainable: bool) -> LoadedModel:
    peft = require("peft", extra="peft")
    if not (folder / ADAPTER_FILE).is_file():  # peft would read a pickle in its place
        raise DataError(f"{folder}: {ADAPTER_FILE} is missing, so the checkpoint cannot be loaded. Train it again.")
    model, tokenizer = _load_base(config)
    if trainable and config.quantization:
        model = _quantized_for_training(peft, model)
    shape = peft.LoraConfig(**lora_settings(folder, peft.LoraConfig().to_dict()), inference_mode=not trainable)
    with readable(folder):
        model = _refuse_tied(peft.PeftModel.from_pretrained(model, str(folder), is_trainable=trainable, config=shape))
    if not trainable:
        model = _freeze(model if config.quantization else model.merge_and_unload())
    return LoadedModel(model, tokenizer, config)


def _expect_file(folder: Path, name: str) -> None:
    if not (folder / name).exists() and not (folder / f"{name}.index.json").exists():
        raise DataError(f"{folder}: {name} is missing, so the checkpoint cannot be loaded. Train it again.")


def _freeze(model: Any) -> Any:
    return model.eval().requires_grad_(False)


def checkpoint_record(kind: str, config: ModelConfig, /, **facts: Any) -> Mapping[str, Any]:
    """The content of ``checkpoint.json``."""
    return {"format_version": FORMAT_VERSION, "kind": kind, "model": config.to_dict(), **facts}
