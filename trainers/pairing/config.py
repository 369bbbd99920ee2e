"""How contrasts are chosen and cut."""

from __future__ import annotations

from dataclasses import dataclass

from icto_gym.errors import ConfigError, check_name
from trainers.config import at_least, check_score

GRANULARITY_CHOICES = ("trajectory", "step", "mixed")
REJECTED_CHOICES = ("any", "usable", "accepted")


@dataclass(frozen=True)
class PairingConfig:
    """Which failure is set against which success of the same task, and what of both is trained."""

    granularity: str = "trajectory"
    """`trajectory`: one contrast over everything from the first difference on; `step`: message t against
    message t with weights from R_t (Eq. 2), cut where the weights end; `mixed`: both kinds of every contrast;
    `my_package.module:my_pairing`: a function called like `trainers.pairing.build_pairs`, which makes the pairs."""
    success_threshold: float | None = 1.0
    """A score from here on is a success, below it a failure. None: no threshold, any better episode
    against any worse one (the expert may then lose)."""
    min_margin: float = 0.01
    """Smallest difference in score that makes a pair; closer ones are ties."""
    prefer_own_success: bool = True
    """Choose the policy's own successes before the expert's demonstration. Pairs whose chosen side is
    always the expert teach its habits of writing rather than its decisions, and can collapse."""
    use_own_success: bool = True
    """Own successes may be chosen at all. Off: only the expert, as in ETO."""
    use_expert: bool = True
    """The expert's demonstration counts as a success of its task."""
    rejected_verdict: str = "usable"
    """What the judge must have said of the rejected side: `any`; `usable`: a score above 0, so neither
    broken nor a duplicate; `accepted`. The chosen side must always be accepted."""
    max_pairs_per_task: int = 4
    """At most this many contrasts of one task, so that no task dominates."""
    max_pairs_per_failure: int = 1
    """With how many different successes one failure may be contrasted."""
    max_extra_steps: int | None = 5
    """The rejected side keeps at most this many steps more than the chosen side, so that a long loop
    is not most of what is trained (ETO's cut: ten messages). None: no cut."""
    max_rejected_steps: int | None = None
    """The rejected side keeps at most this many steps in all; 1: the deciding one alone, so that what the agent did
    after its mistake, such as saying it again, is not what is learned. None: no cut but the one above."""
    closest_first: bool = False
    """A failure is set against the success that parts from it latest, of these the best; and where a task has more
    contrasts than its limit, those that part latest are kept, for they tell one decision apart. Off: against the
    success least used so far, and kept in the order of the failures."""
    retries_only: bool = False
    """Only contrasts that part at the step from which one side was taken up again (see `retries`): everything before
    is shared, and most others part at an early choice that says little. Needs episodes that were taken up again."""
    train_random_steps: bool = False
    """Train on commands that exploration drew at random in the policy's place. Off: an episode with one
    in its trained part is not chosen, and as rejected side it ends before the first one, since its
    canned thought would be what is learned."""
    step_horizon: int | None = None
    """For step pairs: how many steps from the first difference on are paired; 1 is the deciding step
    alone. None: as far as both sides go."""
    max_one_sided_share: float = 1.0
    """At most this share of all pairs may teach one direction of one kind of decision more often than
    its opposite; what is over is left out by chance. 1.0: no limit."""
    max_command_lead: float = 1.0
    """How far the number of pairs in which a command is chosen may be from that in which it is rejected, as a share of
    all pairs; what is over is left out by chance. A command that nearly always wins, such as going back, is else given
    everywhere. 1.0: no limit."""
    max_expert_share: float = 1.0
    """At most this share of all pairs may have the expert as chosen side. 1.0: no limit."""
    seed: int = 0
    """Drives which pairs are left out by the three limits above."""

    def __post_init__(self) -> None:
        if ":" not in self.granularity:
            check_name(self.granularity, GRANULARITY_CHOICES, "pairing granularity")
        check_name(self.rejected_verdict, REJECTED_CHOICES, "pairing rejected_verdict")
        for name in ("max_pairs_per_task", "max_pairs_per_failure"):
            at_least(f"pairing {name}", getattr(self, name), 1)
        at_least("pairing max_extra_steps", self.max_extra_steps, 0)
        at_least("pairing max_rejected_steps", self.max_rejected_steps, 1)
        at_least("pairing step_horizon", self.step_horizon, 1)
        check_score("pairing success_threshold", self.success_threshold)
        if self.min_margin <= 0:
            raise ConfigError(f"pairing min_margin is {self.min_margin!r}; give a number above 0, such as 0.01.")
        for name in ("max_one_sided_share", "max_command_lead", "max_expert_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"pairing {name} is {getattr(self, name)!r}; give a share from 0 to 1.")
        if not (self.use_own_success or self.use_expert):
            raise ConfigError("pairing use_own_success and use_expert are both off, so no pair can have a chosen side.")
