"""The same engine over DeepSpeed: optimiser states, gradients and weights split over processes (ZeRO 1, 2, 3).

DeepSpeed is called directly. Every process has all data and works on its share of each optimiser step; the sum of the
shares is the step of one process. States are gathered into the form in which the local engine saves them, so a training
may go on with another number of processes, another stage, or none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icto_gym.errors import ConfigError, check_name, require
from icto_gym.files import read_json
from trainers import distributed
from trainers.training.config import OptimizerConfig
from trainers.training.engine import Engine, schedule_rate

PRESETS = Path(__file__).parent / "zero"
_ACCUMULATES = 2  # tells DeepSpeed that gradients add up; when a step is complete we say ourselves
_MOMENTS = ("exp_avg", "exp_avg_sq")
_OURS = ("optimizer", "scheduler", "fp16", "amp", "torch_autocast", "train_batch_size")
"""Settings that may not stand in a file, besides those that we set."""


class DeepSpeedEngine(Engine):
    """AdamW under ZeRO; one process of several."""

    def __init__(self, module: torch.nn.Module, config: OptimizerConfig, total_steps: int) -> None:
        deepspeed = require("deepspeed", extra="deepspeed")
        if config.optimizer != "adamw":
            raise ConfigError(
                f"DeepSpeed splits AdamW's own state; optimizer is {config.optimizer!r}. Use 'adamw' or engine 'local'."
            )
        self._prepare(module, config, total_steps)
        settings = deepspeed_settings(distributed.engine().deepspeed, config, next(module.parameters()).dtype)
        self.stage = settings["zero_optimization"]["stage"]
        optimizer = torch.optim.AdamW(
            list(self.parameters.values()), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self._deep, self._zero, *_ = deepspeed.initialize(model=_Whole(module), optimizer=optimizer, config=settings)
        self.device = self._deep.device

    def loss(self, compute_loss: Any, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """Through DeepSpeed, which fetches the weights that other processes hold."""
        return self._deep(compute_loss, batch)

    def backward(self, loss: Tensor, *, last: bool = True) -> None:
        """DeepSpeed takes means over processes where our shares want sums."""
        self._deep.set_gradient_accumulation_boundary(last)
        self._deep.backward(loss * distributed.world_size(), scale_wrt_gas=False)
        if not last:
            self._deep.step()  # counts the micro-batch; the weights stay as they are

    def step(self, number: int) -> float:
        """As `Engine.step`; a gradient that is not finite ends the training, which resumes from its saved state."""
        for group in self._zero.param_groups:
            group["lr"] = schedule_rate(self.config, self.total_steps, number)
        self._deep.step()
        return float(self._deep.get_global_grad_norm())

    def state(self) -> dict[str, Tensor]:
        """Gathered by all processes; the first one gets it, the others an empty one."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        tensors: dict[str, Tensor] = {}
        inner = self._zero.optimizer.state
        steps = next((float(state["step"]) for state in inner.values() if "step" in state), None)
        for name, value in self.parameters.items():
            found = {f"weight/{name}": safe_get_full_fp32_param(value)}
            if steps is not None:
                found |= {f"{key}/{name}": safe_get_full_optimizer_state(value, key) for key in _MOMENTS}
                found[f"step/{name}"] = torch.tensor(steps)
            if distributed.rank() == 0:
                tensors |= {key: tensor.detach().cpu().clone().contiguous() for key, tensor in found.items()}
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Every process takes its part of what `state` of any engine returned."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        steps = [tensors[f"step/{name}"] for name in self.parameters if f"step/{name}" in tensors]
        self._make_moments(max(steps))
        for name, value in self.parameters.items():
            weight = tensors[f"weight/{name}"].to(self.device)
            safe_set_full_fp32_param(value, weight.float())
            for key in _MOMENTS:  # one engine keeps none for weights that no gradient ever reached
                moment = tensors.get(f"{key}/{name}", torch.zeros_like(weight, dtype=torch.float32))
                safe_set_full_optimizer_state(value, moment.to(self.device), key)
            self._set_weight(value, weight)

    def _make_moments(self, step: Tensor) -> None:
        """What AdamW would make in its first step, so that there is something to fill."""
        name = "fp32_partitioned_groups_flat" if self.stage == 3 else "single_partition_of_fp32_groups"
        for part in getattr(self._zero, name):
            moments = {key: torch.zeros_like(part) for key in _MOMENTS}
            self._zero.optimizer.state[part] = {"step": step.clone(), **moments}
        if self.stage < 3:
            self._zero._lazy_init_hp_params_optimizer_state()

    def _set_weight(self, value: Tensor, weight: Tensor) -> None:
        """The working copy beside the float32 one."""
        if self.stage < 3:
            value.data.copy_(weight)
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters([value], modifier_rank=0):
            if distributed.rank() == 0:
                value.data.copy_(weight)

    def weights(self) -> dict[str, Tensor] | None:
        """Under ZeRO-3 all weights, whole, on the first process; None where the module holds them whole itself."""
        if self.stage < 3:
            return None
        import deepspeed

        found: dict[str, Tensor] = {}
        for name, value in self.module.named_parameters():
            with deepspeed.zero.GatheredParameters([value]):
                if distributed.rank() == 0:
                    found[name] = value.detach().cpu().clone()
        return found

    def check_probe(self) -> None:
        """Whether the policy can be watched while it learns."""
        if self.stage == 3:
            raise ConfigError(
                "ZeRO-3 splits the weights over the processes, so the policy cannot play while it is trained, as "
                "probes and PPO want it. Set probe.tasks to 0 (and choose another objective than rm_ppo), or use zero2."
            )


class _Whole(torch.nn.Module):
    """Makes any computation with the module a forward pass, which DeepSpeed can follow."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, compute: Any, batch: Any) -> Any:
        return compute(self.inner, batch)


def deepspeed_settings(name: str, config: OptimizerConfig, dtype: torch.dtype) -> dict[str, Any]:
    """A preset or a JSON file, with what our own settings decide.

    Raises:
        ConfigError: no such preset or file, not a stage of ZeRO, or a setting that is ours to make.
    """
    path = Path(name) if name.endswith(".json") else PRESETS / f"{name}.json"
    if not path.exists():
        check_name(name, [preset.stem for preset in sorted(PRESETS.glob("*.json"))], "DeepSpeed preset")
    given = read_json(path)
    section = given.get("zero_optimization") if isinstance(given, dict) else None
    stage = section.get("stage") if isinstance(section, dict) else None
    if stage not in (1, 2, 3):
        raise ConfigError(f"{path}: zero_optimization.stage is {stage!r}; give 1, 2 or 3.")
    ours = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": _ACCUMULATES,
        "gradient_clipping": config.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": dtype == torch.bfloat16},
    }
    clash = sorted({*_OURS, *ours} & given.keys())
    if clash:
        raise ConfigError(f"{path}: {', '.join(clash)} follow from the training's own settings. Remove them there.")
    return {**given, **ours}
