"""Watching a policy while it is trained: the live model plays a few dev tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainers import distributed
from trainers.evaluation.evaluate import ProbeConfig, greedy, make_probe
from trainers.evaluation.looks import asked_of, keep_chosen, look_file, played_before
from trainers.markers import Marker
from trainers.policies import Policy
from trainers.policies.players import ActingConfig, Start
from trainers.rollout import RolloutConfig
from trainers.runs import Run


@dataclass(frozen=True)
class Watch:
    """How a policy is watched on dev tasks while it is trained."""

    probe: ProbeConfig
    environment: RolloutConfig
    acting: ActingConfig

    @property
    def asked(self) -> str:
        """What a look asks; see `trainers.evaluation.looks.asked_of`."""
        return asked_of(greedy(self.environment, self.probe.split), self.acting)

    def make(
        self, run: Run, out: Path, start: Start, marker: Marker | None = None
    ) -> Callable[[int, Any, Any], dict[str, float]] | None:
        """The function that trainers call, or None.

        Args:
            run: what ``start`` has played in it is not played again.
            out: the training's folder, where looks keep their episodes.
            start: what is trained.
            marker: put into every task.
        """

        @contextmanager
        def playing(model: Any, tokenizer: Any) -> Iterator[Policy]:
            from trainers.models.loading import merged_for_generation
            from trainers.policies.hf import HFPolicy

            acting = asdict(self.acting)
            with merged_for_generation(model, acting.pop("dtype")) as merged:
                yield HFPolicy(merged, tokenizer, name="probe", marker=marker, **acting)

        known = played_before(run, start, self.asked) if self.probe.tasks else []
        return make_probe(self.environment, self.probe, playing, known=known, keep=lambda step: look_file(out, step))

    def end(self, out: Path) -> None:
        """Of a finished training keep the episodes of the look that chose its weights."""
        distributed.on_first(lambda: keep_chosen(out, self.asked))
