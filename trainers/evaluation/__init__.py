"""Policies to numbers: play a split, summarize, compare."""

from trainers.evaluation.compare import Comparison, paired_difference
from trainers.evaluation.metrics import HIGHER_IS_BETTER, Estimate, estimate, summarize

__all__ = ["HIGHER_IS_BETTER", "Comparison", "Estimate", "estimate", "paired_difference", "summarize"]
