"""A folder of weights from elsewhere is data: what in it asks to be run, or points outside, is refused by name.

Transformers itself is told not to trust code, and reads safetensors only; what is looked for here it would pass over,
follow to another place, or ask about on the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from icto_gym.errors import ConfigError, DataError
from icto_gym.files import read_json

ADAPTER_CONFIG = "adapter_config.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# Settings of a LoRA adapter that describe its shape. The others make peft import modules, read more files or download.
_LORA_SHAPE = {
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "bias", "fan_in_fan_out", "task_type",
}  # fmt: skip
_LORA_MEANINGLESS = {"peft_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode"}


def check_folder(folder: Path) -> None:
    """Refuse a folder of weights that could do more than hold them.

    Raises:
        ConfigError: if it asks for code of its own, is an adapter without a record of its model, holds pickles only, or
            is the folder of a run, whose checkpoints lie deeper.
        DataError: if its list of weight files points outside the folder or to pickles.
    """
    config = _object(folder / "config.json")
    inside = [] if config else sorted(str(path.parent) for path in folder.glob("**/checkpoint/checkpoint.json"))
    if inside:
        raise ConfigError(f"{folder} is not a model but holds some. Did you mean {' or '.join(inside[-3:])}?")
    _check_code(folder / "config.json", config)
    if (folder / ADAPTER_CONFIG).exists():
        raise ConfigError(
            f"{folder} holds {ADAPTER_CONFIG}, so loading it would fetch whatever model that file names. Merge the "
            "adapter into its model with peft's merge_and_unload and save that, or load a checkpoint that "
            "`icto train` wrote."
        )
    if config.get("transformers_weights") is not None:
        raise DataError(
            f"{folder / 'config.json'}: transformers_weights names {str(config['transformers_weights'])[:80]!r} as the "
            "file of weights; only model.safetensors, or the parts that its index lists, are read. Remove the setting."
        )
    for index in folder.glob("*.index.json"):
        _check_index(index)
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if config and pickles and not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"{folder} holds its weights as pickles only ({', '.join(pickles[:3])}), which can run code when they are "
            "read. Convert them to safetensors on a machine that you can lose."
        )


def lora_settings(folder: Path, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The shape of a saved LoRA adapter, for peft's LoraConfig.

    Args:
        folder: where ``adapter_config.json`` is.
        defaults: every setting of LoraConfig with its default.

    Raises:
        DataError: if the adapter is of another kind, or sets anything but its shape.
    """
    path = folder / ADAPTER_CONFIG
    settings = _object(path)
    if settings.get("peft_type") != "LORA":
        raise DataError(f"{path}: expected peft_type 'LORA', found {settings.get('peft_type')!r}.")
    known = _LORA_SHAPE | _LORA_MEANINGLESS
    odd = {name: value for name, value in settings.items() if name not in known and value != defaults.get(name)}
    if odd.get("init_lora_weights") is False:
        del odd["init_lora_weights"]  # the first weights are replaced anyway
    if odd:
        raise DataError(
            f"{path}: {', '.join(f'{name}={str(value)[:40]!r}' for name, value in sorted(odd.items()))} is not the "
            "shape of an adapter and is not taken from a file. Save the adapter without it."
        )
    return {name: value for name, value in settings.items() if name in _LORA_SHAPE}


@contextmanager
def readable(folder: Path, mend: str = "Copy or train it again.") -> Iterator[None]:
    """Name the folder, and the mend, where a safetensors file in it is torn."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise DataError(f"{folder}: its tensors cannot be read ({error}). {mend}") from error


def _check_code(path: Path, settings: Mapping[str, Any]) -> None:
    """Code that a model needs is refused; where Transformers has the model itself, `auto_map` is passed over."""
    from transformers import CONFIG_MAPPING

    kind = settings.get("model_type")
    if settings.get("auto_map") and kind not in CONFIG_MAPPING:
        raise ConfigError(
            f"{path} asks to run Python code of its own (auto_map: {str(settings['auto_map'])[:120]}) for "
            f"model_type {kind!r}. No code from a checkpoint is run; use a model that Transformers knows."
        )


def _check_index(path: Path) -> None:
    weight_map = _object(path).get("weight_map")
    files = weight_map.values() if isinstance(weight_map, dict) else [weight_map]
    for name in files:
        if not isinstance(name, str) or name != Path(name).name or "\\" in name or not name.endswith(".safetensors"):
            raise DataError(
                f"{path}: weights are said to lie in {name!r}; only safetensors files beside the list are read."
            )


def _object(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(value).__name__}.")
    return value
