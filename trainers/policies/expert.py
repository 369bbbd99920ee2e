"""The policy that plays what the environment demonstrates."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from icto_gym.errors import ConfigError
from trainers.policies.base import Turn, write_response

logger = logging.getLogger(__name__)


class ExpertPolicy:
    """Answers with the demonstrated action and its reason.

    Where the expert knows no way on (a state it cannot mend, say) the response holds no action: the
    environment answers it as it answers anything it does not understand, and the episode goes on.
    """

    needs_expert = True

    def __init__(self, *, name: str = "expert") -> None:
        self.name = name

    def act(self, turns: Sequence[Turn]) -> list[str]:
        """Raises:
        ConfigError: ``info`` has no place for the expert's action.
        """
        return [self._respond(turn) for turn in turns]

    def _respond(self, turn: Turn) -> str:
        if "expert_action" not in turn.info:
            raise ConfigError("The expert policy reads info['expert_action']; make the environment with expert=True.")
        action = turn.info["expert_action"]
        if action is None:
            logger.warning(
                "The expert has no action for %s (was its environment made with expert=True?)",
                turn.info.get("task_id"),
            )
            return "Thought: I know no way on from here."
        return write_response(turn.info.get("expert_thought") or "", action)
