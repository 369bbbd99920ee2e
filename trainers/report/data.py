"""Reads a run folder for the report; a part that is missing or broken is noted and left out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from icto_gym.errors import IctoError
from icto_gym.files import read_json
from icto_gym.store import TrajectoryStore
from icto_gym.trajectory import Trajectory
from trainers.diagnostics import SIDES, STAGES
from trainers.evaluation.metrics import Estimate, metrics_from_json, summarize
from trainers.records import Likelihoods, PreferencePair, StepRewards, Verdict, read_records
from trainers.runs import SUPERSEDED, superseded

CLONED = ("sft", "bc", "cloning", "cloned")
"""Labels of the policy that results are compared with, the first that is there."""
PLAYED_ON = tuple(f"on from the response to the {side} instruction" for side in SIDES)
"""How the two episodes came about that show where a pair of turns leads."""
_ORDER = {"random": 0, "expert": 1, "base": 2, **dict.fromkeys(CLONED, 3)}
_NAMES = {"base": "base model", "sft": "cloned", "bc": "cloned", "cloning": "cloned"}


@dataclass
class Evaluation:
    """One policy on one split."""

    label: str
    split: str
    record: dict[str, Any]
    trajectories: list[Trajectory]

    @cached_property
    def metrics(self) -> dict[str, Estimate]:
        """As ``metrics.json`` has them, else computed from the trajectories."""
        kept = self.record.get("metrics")
        return metrics_from_json(kept) if kept else summarize(self.trajectories)


@dataclass
class Iteration:
    """One round of exploring and learning."""

    number: int
    folder: Path
    facts: dict[str, Any]
    """``metrics.json`` of the iteration: explored, judged, pairs, training."""
    pairs: list[PreferencePair]
    verdicts: list[Verdict]
    step_rewards: dict[str, StepRewards]
    trajectories: dict[str, Trajectory]
    retries: dict[str, Trajectory] = field(default_factory=dict)
    """Explored ones that were taken up again from a single step."""
    prompted: dict[str, dict[str, Trajectory]] = field(default_factory=dict)
    """Whole episodes under either of RLCD's instructions, by its name (see `trainers.diagnostics.SIDES`)."""
    played_on: list[tuple[Trajectory, Trajectory]] = field(default_factory=list)
    """For some of RLCD's pairs of turns: how it went on from the chosen and from the rejected response."""

    @property
    def played(self) -> dict[str, list[Trajectory]]:
        """All its episodes, by how they came about, in words."""
        found = {"explored": self.trajectories, "taken up again": self.retries}
        found |= {f"under the {side} instruction": played for side, played in self.prompted.items()}
        on = {words: [both[place] for both in self.played_on] for place, words in enumerate(PLAYED_ON)}
        return {**{how: list(played.values()) for how, played in found.items()}, **on}

    def recorded(self, key: str) -> dict[str, Any]:
        """What a stage recorded, by its key in `trainers.diagnostics.STAGES`; empty where it did not take part."""
        found = self.facts.get(key)
        return found if isinstance(found, dict) else {}

    @property
    def counts(self) -> dict[str, int]:
        """What pairing counted."""
        return self.recorded("pairs").get("counts", {})


@dataclass
class RunData:
    """What a run left behind, as far as it could be read."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    iterations: list[Iteration] = field(default_factory=list)
    demonstrations: dict[str, Trajectory] = field(default_factory=dict)
    training: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Lines of ``metrics.jsonl`` by stage."""
    probes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Dev numbers while training, by stage."""
    stages: list[dict[str, Any]] = field(default_factory=list)
    """Records of finished stages, in the order they ended."""
    notes: list[str] = field(default_factory=list)
    """What could not be read, in words."""
    likelihoods: dict[str, dict[str, Likelihoods]] = field(default_factory=dict)
    """By trajectory and by who rated it (see `trainers.report.likelihoods`)."""

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def labels(self) -> list[str]:
        """Labels of all evaluated policies, in the order they came to be."""
        return sorted({item.label for item in self.evaluations}, key=label_order)

    @property
    def splits(self) -> list[str]:
        """Evaluated splits; those that are reported (test, ood) before those that choices were made on."""
        found = {item.split for item in self.evaluations}
        return sorted(found, key=lambda split: (is_development(split), is_ood(split), split))

    @property
    def baseline(self) -> str | None:
        """The label that others are compared with."""
        return next((label for label in CLONED if label in self.labels), None)

    def recorded(self, stage: str) -> dict[str, Any]:
        """The facts of a finished stage; empty where there is none of that name."""
        found = next((item.get("facts") for item in self.stages if item.get("stage") == stage), None)
        return found if isinstance(found, dict) else {}

    def evaluation(self, label: str | None, split: str) -> Evaluation | None:
        """The evaluation of one policy on one split, if it was made."""
        return next((item for item in self.evaluations if (item.label, item.split) == (label, split)), None)


def is_ood(split: str) -> bool:
    """Tasks outside the training distribution, by the name of the split (``ood-test``, ``valid_unseen``)."""
    return "ood" in split or "unseen" in split


def is_development(split: str) -> bool:
    """A split that choices are made on."""
    return not is_ood(split) and any(word in split for word in ("dev", "train"))


def label_order(label: str) -> tuple[int, str, int]:
    """Before training, cloned, then iterations by number."""
    stem, number = re.fullmatch(r"(.*?)[-_]?(\d*)", label, re.DOTALL).groups()  # type: ignore[union-attr]
    return _ORDER.get(label, 9), stem, int(number[-9:] or 0)


def display_name(label: str) -> str:
    """How a policy is called in tables: ``icto-1`` -> ``ICTO 1``."""
    if label in _NAMES:
        return _NAMES[label]
    match = re.fullmatch(r"(icto|eto|ipr|rlcd|nat|rft)[-_](\d{1,9})", label)
    return f"{match[1].upper()} {int(match[2])}" if match else label


def read_run(folder: Path | str) -> RunData:
    """Read everything the report shows.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no run folder {folder}.")
    return _Reader(folder).read()


class _Reader:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = RunData(folder)
        self.old = self._try(folder / SUPERSEDED, lambda _: superseded(folder), set())

    def read(self) -> RunData:
        run, folder = self.run, self.folder
        run.config = self._try(folder / "config.yaml", _read_yaml, {})
        run.demonstrations = self._trajectories(folder / "demonstrations.jsonl")
        for path in sorted(folder.glob("evaluation/*/*/")):
            if path.relative_to(folder).as_posix() not in self.old:
                self._read_evaluation(path)
        run.evaluations.sort(key=lambda item: (label_order(item.label), item.split))
        records = (self._try(path, _read_object, {}) for path in folder.glob("stages/*.json") if _is_done(path))
        finished = [item for item in records if item and item.get("stage") not in self.old]
        run.stages = sorted(finished, key=lambda item: str(item.get("finished", "")))
        for path in sorted(folder.glob("iteration-*/")):
            if self._is_of_now(path.name):
                self._read_iteration(path)
        for line in self._try(folder / "metrics.jsonl", read_lines, []):
            if line.get("stage") not in self.old:
                run.training.setdefault(str(line.get("stage", "training")), []).append(line)
        for path in sorted([*folder.glob("*/probes.jsonl"), *folder.glob("*/*/probes.jsonl")]):
            stage = path.parent.relative_to(folder).as_posix()
            if stage not in self.old:
                run.probes[stage] = self._try(path, read_lines, [])
        for path in sorted(folder.glob("likelihoods/*.jsonl")):
            for item in self._records(path, Likelihoods):
                run.likelihoods.setdefault(item.trajectory_id, {})[item.policy] = item
        return run

    def _is_of_now(self, iteration: str) -> bool:
        """Not one that only a config had which the run no longer has."""
        stages = [str(item.get("stage")) for item in self.run.stages]
        return any(name.startswith(f"{iteration}/") for name in stages) or not any(
            name.startswith(f"{iteration}/") for name in self.old
        )

    def _read_evaluation(self, folder: Path) -> None:
        record = self._try(folder / "metrics.json", _read_object, {})
        trajectories = list(self._trajectories(folder / "trajectories.jsonl").values())
        label, split = str(record.get("label", folder.parent.name)), str(record.get("split", folder.name))
        if split.replace("/", "_") != folder.name:  # the same split once more, of other tasks
            split = folder.name
        found = Evaluation(label, split, record, trajectories)
        try:
            if found.metrics:
                self.run.evaluations.append(found)
        except IctoError as error:
            self.run.notes.append(f"{folder.relative_to(self.folder)}: {error}")

    def _read_iteration(self, folder: Path) -> None:
        match = re.search(r"(\d{1,9})$", folder.name)
        rewards: list[StepRewards] = self._records(folder / "step_rewards.jsonl", StepRewards)
        self.run.iterations.append(
            Iteration(
                number=int(match[1]) if match else 0,
                folder=folder,
                facts=self._try(folder / "metrics.json", _read_object, {}) or self._facts(folder),
                pairs=self._records(folder / "pairs.jsonl", PreferencePair),
                verdicts=self._records(folder / "verdicts.jsonl", Verdict),
                step_rewards={item.trajectory_id: item for item in rewards},
                trajectories=self._trajectories(folder / "trajectories.jsonl"),
                retries=self._played(folder, "with-retries", "retries.jsonl"),
                prompted={side: self._played(folder, f"{side}/trajectories") for side in SIDES},
                played_on=self._played_on(folder),
            )
        )

    def _played(self, folder: Path, stage: str, file: str = "") -> dict[str, Trajectory]:
        """What a stage of an iteration played; nothing where only an earlier config had that stage."""
        return {} if f"{folder.name}/{stage}" in self.old else self._trajectories(folder / (file or f"{stage}.jsonl"))

    def _played_on(self, folder: Path) -> list[tuple[Trajectory, Trajectory]]:
        """Two by two; the file is in this order once the stage that writes it has ended."""
        name, stage = f"{folder.name}/agreement.jsonl", f"{folder.name}/pairs"
        if not any(item.get("stage") == stage and name in (item.get("outputs") or ()) for item in self.run.stages):
            return []
        # an explored episode may have the same id
        ended = [
            replace(item, trajectory_id=f"{item.trajectory_id} (played on)")
            for item in self._trajectories(folder / "agreement.jsonl").values()
        ]
        sides = zip(ended[::2], ended[1::2], strict=False)
        return [(chosen, rejected) for chosen, rejected in sides if chosen.error is None and rejected.error is None]

    def _facts(self, folder: Path) -> dict[str, Any]:
        """Of an iteration that is still going on: what its finished stages recorded."""
        found = {}
        for key, stage in STAGES.items():
            name = f"{folder.name}/{stage}".replace("/", ".")
            record = self._try(self.folder / "stages" / f"{name}.json", _read_object, {})
            if record:
                found[key] = record.get("facts", {})
        return found

    def _trajectories(self, path: Path) -> dict[str, Trajectory]:
        return self._try(path, lambda file: {item.trajectory_id: item for item in TrajectoryStore(file)}, {})

    def _records(self, path: Path, cls: Any) -> list[Any]:
        return self._try(path, lambda file: read_records(file, cls), [])

    def _try(self, path: Path, read: Callable[[Path], Any], default: Any) -> Any:
        if not path.exists():
            return default
        try:
            return read(path)
        except (IctoError, OSError, ValueError, yaml.YAMLError) as error:
            self.run.notes.append(str(error) if str(path) in str(error) else f"{path}: {error}")
            return default


def _read_yaml(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def _read_object(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{type(found).__name__} in place of an object")
    return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON objects; a torn last line is left out."""
    lines = path.read_bytes().splitlines(keepends=True)
    found = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [line for line in found if isinstance(line, dict)]


def _is_done(path: Path) -> bool:
    return not path.name.endswith(".started.json")
