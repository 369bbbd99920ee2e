"""Wrappers around the environments, in their documented order: Record(ReAct(Brief(env)))."""

from icto_gym.wrappers.brief import BriefObservation
from icto_gym.wrappers.limit import TaskStepLimit
from icto_gym.wrappers.react import ParsedResponse, ReAct, parse_response
from icto_gym.wrappers.record import RecordTrajectory

__all__ = ["BriefObservation", "ParsedResponse", "ReAct", "RecordTrajectory", "TaskStepLimit", "parse_response"]
