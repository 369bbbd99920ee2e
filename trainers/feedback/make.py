"""Judges and step rewarders by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icto_gym.dialogue import Message
from icto_gym.errors import ConfigError, check_name, did_you_mean
from icto_gym.trajectory import Trajectory
from trainers.dotted import load_dotted
from trainers.feedback.base import Judge, StepRewarder
from trainers.feedback.learned import LearnedStepRewards
from trainers.feedback.llm_judge import EndpointJudge, EndpointJudgeConfig
from trainers.feedback.monte_carlo import MonteCarloStepRewards
from trainers.feedback.outcome import RuleConfig, RuleJudge
from trainers.feedback.recorded import TARGETS, RecordedStepRewards, ReturnToGo
from trainers.policies.base import Answer, ask

STEP_REWARD_SOURCES = ("recorded", "learned", "monte_carlo")


@dataclass(frozen=True)
class JudgeConfig:
    """Who decides what may be learned from."""

    judge: str = "rules"
    """`rules`, `endpoint:<model>` (any OpenAI-compatible endpoint), or `my_package.module:MyJudge`."""
    rules: RuleConfig = field(default_factory=RuleConfig)
    """What the judge by rules asks for."""
    endpoint: EndpointJudgeConfig = field(default_factory=EndpointJudgeConfig)
    """How a language model is asked."""


@dataclass(frozen=True)
class StepRewardConfig:
    """Where step rewards come from."""

    source: str = "recorded"
    """`recorded` (as the environment gave them), `learned` (a reward model fitted to the trajectories), `monte_carlo`
    (playing on from every step; in whole methods only, since a policy is needed),
    or `my_package.module:MyStepRewarder`."""
    targets: str = "return_to_go"
    """For `learned`: `return_to_go` fits the outcome of the continuation and takes the increments of the
    value as rewards; `recorded` fits and predicts the raw step rewards (the literal reading)."""
    gamma: float = 1.0
    """For `learned` with `return_to_go`: discount per step of the continuation."""

    def __post_init__(self) -> None:
        if ":" not in self.source:
            check_name(self.source, STEP_REWARD_SOURCES, "step_rewards source")
        check_name(self.targets, TARGETS, "step_rewards targets")
        if not 0.0 < self.gamma <= 1.0:
            raise ConfigError(f"step_rewards gamma is {self.gamma!r}; give a number above 0 and up to 1.")


def make_judge(config: JudgeConfig | str | None = None, **endpoint_options: Any) -> Judge:
    """Make a judge from its description.

    Args:
        config: a `JudgeConfig`, or just its ``judge`` with everything else at its default.
        endpoint_options: for ``endpoint:<model>``: options of the ``openai:`` policy, such as ``base_url``; they win
            over ``config.endpoint``. Nothing is sent before the judge is asked.

    Raises:
        ConfigError: there is no such judge, or it has no key.
        DependencyNotInstalled: the package that speaks to endpoints is not installed.
    """
    config = JudgeConfig(judge=config) if isinstance(config, str) else config or JudgeConfig()
    kind, _, rest = config.judge.partition(":")
    if config.judge == "rules":
        return RuleJudge(config.rules)
    if kind == "endpoint" and rest:
        return _endpoint_judge(rest, config, endpoint_options)
    if rest and not did_you_mean(kind, ("rules", "endpoint")):
        return _by_path(config.judge, "judge", "judge(trajectory) -> Verdict")
    raise ConfigError(
        f"Unknown judge {config.judge!r}.{did_you_mean(kind, ('rules', 'endpoint'))} "
        "Give 'rules', 'endpoint:<model>', or the dotted path 'my_package.module:MyJudge'."
    )


def make_step_rewarder(
    config: StepRewardConfig | str | None = None,
    model: Path | str | None = None,
    continuations: Iterable[Trajectory] | None = None,
) -> StepRewarder:
    """Make a step rewarder from its description.

    Args:
        config: a `StepRewardConfig`, or just its ``source``.
        model: for ``learned``: the checkpoint of the reward model.
        continuations: for ``monte_carlo``: the episodes that were played on from the steps.
    """
    config = StepRewardConfig(source=config) if isinstance(config, str) else config or StepRewardConfig()
    if config.source == "recorded":
        return RecordedStepRewards()
    if config.source == "learned":
        if model is None:
            raise ConfigError("step_rewards source is 'learned', but no reward model was given; train one first.")
        return LearnedStepRewards.load(model, literal=config.targets == "recorded")
    if config.source == "monte_carlo":
        if continuations is None:
            raise ConfigError("step_rewards source is 'monte_carlo', but no continuations were given; a method such as "
                              "`icto run ipr` or `icto run icto` plays them.")  # fmt: skip
        return MonteCarloStepRewards(continuations)
    return _by_path(config.source, "score_steps", "score_steps(trajectory) -> StepRewards")


def make_reward_targets(config: StepRewardConfig | None = None) -> StepRewarder:
    """What a reward model is fitted to, as a step rewarder: return-to-go, or the raw step rewards."""
    config = config or StepRewardConfig()
    return RecordedStepRewards() if config.targets == "recorded" else ReturnToGo(config.gamma)


def _endpoint_judge(model: str, config: JudgeConfig, options: dict[str, Any]) -> EndpointJudge:
    """The endpoint is asked through the policy of the same kind, which retries, asks many at once and counts tokens."""
    from trainers.policies import Turn, make_policy

    own = {"max_new_tokens": config.endpoint.max_new_tokens, "base_url": config.endpoint.base_url}
    policy = make_policy(f"openai:{model}", **{**own, **options})

    def complete_all(questions: Sequence[Sequence[Message]]) -> list[Answer]:
        return ask(policy, [Turn(question, {}) for question in questions])

    return EndpointJudge(
        lambda question: complete_all([question])[0],
        f"endpoint:{model}",
        config.endpoint,
        complete_all=complete_all,
        rules=config.rules,
    )


def _by_path(path: str, method: str, form: str) -> Any:
    found = load_dotted(path, "The plug-in", f"something with {form}")
    try:
        made = found() if isinstance(found, type) or not hasattr(found, method) else found
    except TypeError as error:
        raise ConfigError(f"{path!r} could not be made ({error}). It is called without arguments.") from error
    if not callable(getattr(made, method, None)) or not isinstance(getattr(made, "name", None), str):
        raise ConfigError(f"{path!r} gave a {type(made).__name__}; it needs name: str and {form}.")
    return made
