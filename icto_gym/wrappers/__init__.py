"""Wrappers around the environments, in their documented order: Record(ReAct(env))."""

from icto_gym.wrappers.react import ParsedResponse, ReAct, parse_response
from icto_gym.wrappers.record import RecordTrajectory

__all__ = ["ParsedResponse", "ReAct", "RecordTrajectory", "parse_response"]
