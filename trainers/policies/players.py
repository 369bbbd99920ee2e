"""Who plays, before it is loaded: by name, checkpoint or config, and how it is made again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from icto_gym.errors import check_name
from trainers.config import LATER, MACHINE, at_least, check_score
from trainers.digests import digest
from trainers.models.config import DTYPES, ModelConfig
from trainers.policies import Policy, make_policy, note_recipe

Start = Path | ModelConfig
"""What training starts from and acting uses: a checkpoint folder, or a model by its config."""


@dataclass(frozen=True)
class ActingConfig:
    """How a language model writes its responses."""

    max_new_tokens: int = 96
    """Longest response, in tokens."""
    batch_size: int = field(default=32, metadata=MACHINE)
    """Conversations computed together; in float32 results do not depend on it."""
    draft_tokens: int = field(default=8, metadata=MACHINE)
    """Tokens that are guessed ahead of each response, at most, from what the policy wrote before; those that the model
    says itself need no pass of their own. In float32 results do not depend on it; 0: one token at a time."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] | None = field(default=None, metadata=LATER)
    """Precision in which it plays; None: that of its weights. bfloat16 halves their memory, and takes a third of the
    time off where the hardware multiplies in it (`icto doctor`). In 16 bits a response may depend on what else is in
    the batch, for a sum over other rows rounds otherwise."""

    def __post_init__(self) -> None:
        at_least("acting.max_new_tokens", self.max_new_tokens, 1)
        at_least("acting.batch_size", self.batch_size, 1)
        at_least("acting.draft_tokens", self.draft_tokens, 0)
        if self.dtype is not None:
            check_name(self.dtype, DTYPES, "acting.dtype")


@dataclass(frozen=True)
class DemonstrationConfig:
    """Whom to imitate."""

    policy: str = "expert"
    """Who demonstrates: a policy such as ``expert`` or ``openai:<model>``."""
    file: Path | None = None
    """Ready-made trajectories in place of played ones."""
    split: str = "train"
    """Where it plays."""
    max_tasks: int | None = 160
    """On how many tasks; None: all."""
    attempts: int = 1
    """How often each."""
    min_score: float = 1.0
    """Only episodes with at least this score are kept."""

    def __post_init__(self) -> None:
        at_least("demonstrations.max_tasks", self.max_tasks, 1)
        at_least("demonstrations.attempts", self.attempts, 1)
        check_score("demonstrations.min_score", self.min_score)


@dataclass(frozen=True)
class Player:
    """Who plays, by a name for the record and a way to load it when there is something to play."""

    name: str
    source: Any
    """What its play depends on, for the stage record: a checkpoint folder or a description."""
    load: Callable[[], Policy] = field(compare=False)
    recipe: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """How it is made again, as JSON values for a result file; the digest of its weights is added there."""
    acting: ActingConfig | None = field(default=None, compare=False)
    """How it writes, where ``source`` does not say so."""

    @property
    def inputs(self) -> dict[str, Any]:
        """What a stage in which it plays has read."""
        return {"policy": self.source, **({} if self.acting is None else {"acting": self.acting})}


def model_player(start: Start, name: str, acting: ActingConfig) -> Player:
    """A language model, from a checkpoint or by its config."""

    spec = f"hf:{start}" if isinstance(start, Path) else None
    model = None if isinstance(start, Path) else start.to_dict()
    recipe = {"spec": spec, "model": model, "options": {"name": name, **asdict(acting)}}

    def load() -> Policy:
        from trainers.policies.hf import HFPolicy

        policy = HFPolicy.load(start, name=name, **asdict(acting))  # type: ignore[arg-type]
        return note_recipe(policy, recipe)

    return Player(name, start, load, recipe, acting)


def named_player(spec: str, options: Mapping[str, Any] | None = None) -> Player:
    """Any policy by its one-line description, such as ``random`` or ``hf:runs/first/sft/checkpoint``."""
    options = dict(options or {})
    folder = Path(spec.partition(":")[2])
    source = folder if spec.startswith("hf:") and folder.is_dir() else spec
    recipe = {"spec": spec, "model": None, "options": options}
    return Player(str(options.get("name", spec)), [source, options], lambda: make_policy(spec, **options), recipe)


def recipe_beside(recipe: Mapping[str, Any], source: Any, run: Path, out: Path) -> dict[str, Any]:
    """``recipe`` for a result in ``out``: a checkpoint of the same run is named from there, so the run may move."""
    if isinstance(source, Path) and source.resolve().is_relative_to(run.resolve()):
        return {**recipe, "spec": f"hf:{Path(os.path.relpath(source, out)).as_posix()}"}
    return dict(recipe)


def recorded_player(recipe: Mapping[str, Any], folder: Path) -> Player:
    """The player that a result file in ``folder`` describes."""
    options = dict(recipe.get("options") or {})
    spec = str(recipe.get("spec"))
    local = spec.startswith("hf:") or recipe.get("model")
    if local and {"name", "max_new_tokens", "batch_size"} <= options.keys():
        options.setdefault("draft_tokens", 0)  # `model_player` names every option that there is, so there was none
    if spec.startswith("hf:") and (folder / spec[3:]).is_dir():
        return named_player(f"hf:{folder / spec[3:]}", options)
    if recipe.get("model"):
        name = str(options.pop("name", recipe["model"].get("name")))
        return model_player(ModelConfig.from_dict(recipe["model"]), name, ActingConfig(**options))
    return named_player(spec, options)


def weights_digest(player: Player) -> str | None:
    """SHA-256 (hex) of the weights behind a player, where they are files; see `policy_digest`."""
    if isinstance(player.source, (Path, ModelConfig)):
        return policy_digest(player.source)
    source, spec = player.source[0], str(player.recipe.get("spec"))
    return policy_digest(ModelConfig(name=spec[3:]) if spec.startswith("hf:") and source == spec else source)


def policy_digest(source: Any) -> str | None:
    """SHA-256 (hex) of who acted: the content of a checkpoint folder, else of the description.

    The name of a model stands for its weights only where they travel with this project or its packages; of a
    model of the hub or an endpoint the name is all there is, and the digest is None.
    """
    if isinstance(source, Path):
        return digest(source)
    if isinstance(source, ModelConfig):
        return _model_digest(source)
    return None


def _model_digest(config: ModelConfig) -> str | None:
    from trainers.models import smollm2

    if Path(config.name).is_dir():
        return digest(Path(config.name))
    if config.name == smollm2.NAME:
        return digest(smollm2.find_gguf())
    return None
