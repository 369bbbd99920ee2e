"""How likely a model finds what was written in episodes: a file that grows and is never asked twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from icto_gym.files import drop_drafts
from icto_gym.trajectory import Trajectory
from trainers.digests import digest
from trainers.policies.players import Start
from trainers.records import Likelihoods, append_record, read_records, write_records


def rate(out: Path, trajectories: Sequence[Trajectory], start: Start, policy: str, weights: str) -> int:
    """Have a model say how likely it finds every response; what ``out`` knows already is not asked again.

    Args:
        out: file of `Likelihoods`; every episode is on disk before the next is read.
        trajectories: what is rated.
        start: who rates.
        policy, weights: its name and digest, for the record.

    Returns:
        How many trajectories were rated now.
    """
    drop_drafts([out])
    current = {item.trajectory_id: digest(item.to_json()) for item in trajectories}
    known = [item for item in (read_records(out, Likelihoods) if out.exists() else []) if item.weights == weights]
    fresh = {item.trajectory_id for item in known if current.get(item.trajectory_id, item.content) == item.content}
    missing = [item for item in trajectories if item.trajectory_id not in fresh]
    write_records(out, [item for item in known if item.trajectory_id in fresh])  # what other weights said is dropped
    if missing:
        from trainers.evaluation.likelihood import rate_responses
        from trainers.markers import start_markers
        from trainers.models.loading import load_model

        loaded, markers = load_model(start), start_markers(start)
        marker = markers.best if markers else None
        rated = rate_responses(missing, loaded, policy=policy, weights=weights, marker=marker)
        for item in tqdm(rated, total=len(missing), desc=policy):
            append_record(out, item)
    return len(missing)
