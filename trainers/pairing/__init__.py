"""From judged trajectories to preference pairs."""

from trainers.pairing.balance import Balance, decision_kinds, describe_balance, limit_one_sided, one_sided_words
from trainers.pairing.build import PairingResult, build_pairs
from trainers.pairing.config import PairingConfig
from trainers.pairing.make import Pairing, make_pairing
from trainers.pairing.step import cumulative_contrast, step_pair, weights_from_contrast
from trainers.pairing.trajectory import Contrast, Unpaired, contrast, divergence, trajectory_pair

__all__ = [
    "Balance", "Contrast", "Pairing", "PairingConfig", "PairingResult", "Unpaired", "build_pairs", "contrast",
    "cumulative_contrast", "decision_kinds", "describe_balance", "divergence", "limit_one_sided", "make_pairing",
    "one_sided_words", "step_pair", "trajectory_pair", "weights_from_contrast",
]  # fmt: skip
