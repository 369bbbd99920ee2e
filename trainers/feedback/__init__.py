"""Opinions on trajectories: judges and step rewarders."""

from trainers.feedback.base import Judge, StepRewarder, judge_all, score_all
from trainers.feedback.llm_judge import EndpointJudge, EndpointJudgeConfig
from trainers.feedback.make import JudgeConfig, StepRewardConfig, make_judge, make_reward_targets, make_step_rewarder
from trainers.feedback.outcome import RuleConfig, RuleJudge, find_loop
from trainers.feedback.recorded import RecordedStepRewards, ReturnToGo, return_to_go, reward_targets

__all__ = [
    "EndpointJudge", "EndpointJudgeConfig", "Judge", "JudgeConfig", "RecordedStepRewards", "ReturnToGo", "RuleConfig",
    "RuleJudge", "StepRewardConfig", "StepRewarder", "find_loop", "judge_all", "make_judge", "make_reward_targets",
    "make_step_rewarder", "return_to_go", "reward_targets", "score_all",
]  # fmt: skip
