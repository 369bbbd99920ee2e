"""The smallest model with an adapter, for what replaces single layers."""

from __future__ import annotations

from typing import Any

from packages import installed

torch = installed("torch", extra="train")
peft = installed("peft", extra="peft")


class Two(torch.nn.Module):
    """Two layers, the second with a bias."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(12, 20, bias=False), torch.nn.Linear(20, 8)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def full() -> Any:
    """Without an adapter; the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Two().train()


def adapted(*, dropout: float = 0.0, dtype: Any = torch.float32, **options: Any) -> Any:
    """A model with an adapter that does something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["first", "second"], lora_dropout=dropout, **options)
        model = peft.get_peft_model(Two().to(dtype), config, autocast_adapter_dtype=False)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_()
    return model.train()
