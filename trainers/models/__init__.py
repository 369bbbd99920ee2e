"""Language models: which one, how it is loaded, what is scored with it."""

from trainers.models.config import LoRAConfig, ModelConfig

__all__ = ["LoRAConfig", "ModelConfig"]
