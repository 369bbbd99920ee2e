"""Watching a policy while it is trained: the live model plays a few dev tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from trainers.evaluation.evaluate import ProbeConfig, make_probe
from trainers.markers import Marker
from trainers.policies import Policy
from trainers.policies.players import ActingConfig
from trainers.rollout import RolloutConfig


@dataclass(frozen=True)
class Watch:
    """How a policy is watched on dev tasks while it is trained."""

    probe: ProbeConfig
    environment: RolloutConfig
    acting: ActingConfig

    def make(self, marker: Marker | None = None) -> Callable[[int, Any, Any], dict[str, float]] | None:
        """The function that trainers call, or None; ``marker`` is put into every task."""

        @contextmanager
        def playing(model: Any, tokenizer: Any) -> Iterator[Policy]:
            from trainers.models.loading import merged_for_generation
            from trainers.policies.hf import HFPolicy

            acting = asdict(self.acting)
            with merged_for_generation(model, acting.pop("dtype")) as merged:
                yield HFPolicy(merged, tokenizer, name="probe", marker=marker, **acting)

        return make_probe(self.environment, self.probe, playing)
