"""A language model of two layers with random weights and one token per byte: for tests, made on the spot."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from icto_gym.errors import ConfigError
from icto_gym.files import cache_dir
from trainers.models.smollm2 import without_bars

NAME = "tiny-random"
VERSION = 1
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_folder(name: str = NAME) -> Path:
    """Return the folder of ``tiny-random`` or ``tiny-random:<seed>``, making it in the cache where it is missing."""
    text = name.partition(":")[2] or "0"
    if not text.isdecimal():
        raise ConfigError(f"{name!r} names no model: {text!r} is no seed. Give '{NAME}:0', or another whole number.")
    seed = int(text)
    folder = cache_dir("models") / f"{NAME}-v{VERSION}-{seed}"
    if not (folder / "config.json").exists():
        # Made beside its place and renamed: of two processes one wins, and both have made the same bytes.
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        with without_bars():
            tiny_model(seed).save_pretrained(draft)
            byte_tokenizer().save_pretrained(draft)
        try:
            os.replace(draft, folder)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


def tiny_model(seed: int = 0, *, tied: bool = True) -> Any:
    """A Llama of two layers and 64 dimensions; equal seeds give equal weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=259,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=tied,
        initializer_range=0.1,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def byte_tokenizer(template: str = TEMPLATE) -> Any:
    """A tokenizer with one token per byte, three special ones, and a ChatML template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = ["<|im_start|>", "<|im_end|>", "<|pad|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: number for number, text in enumerate(specials + letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=specials[0],
        eos_token=specials[1],
        pad_token=specials[2],
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )
