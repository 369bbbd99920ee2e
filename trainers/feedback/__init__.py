"""Opinions on trajectories: judges and step rewarders."""

from trainers.feedback.answered import judge_kept
from trainers.feedback.base import Judge, StepRewarder, judge_all, score_all
from trainers.feedback.llm_judge import EndpointJudge, EndpointJudgeConfig
from trainers.feedback.make import JudgeConfig, StepRewardConfig, make_judge, make_reward_targets, make_step_rewarder
from trainers.feedback.monte_carlo import MonteCarloConfig, MonteCarloStepRewards, continuation_jobs, jobs_behind
from trainers.feedback.outcome import RuleConfig, RuleJudge, find_loop
from trainers.feedback.recorded import RecordedStepRewards, ReturnToGo, return_to_go, reward_targets
from trainers.feedback.successes import best_attempts, distinct_successes, worth_imitating

__all__ = [
    "EndpointJudge", "EndpointJudgeConfig", "Judge", "JudgeConfig", "MonteCarloConfig", "MonteCarloStepRewards",
    "RecordedStepRewards", "ReturnToGo", "RuleConfig", "RuleJudge", "StepRewardConfig", "StepRewarder",
    "best_attempts", "continuation_jobs", "distinct_successes", "find_loop", "jobs_behind", "judge_all", "judge_kept",
    "make_judge", "make_reward_targets", "make_step_rewarder", "return_to_go", "reward_targets", "score_all",
    "worth_imitating",
]  # fmt: skip
