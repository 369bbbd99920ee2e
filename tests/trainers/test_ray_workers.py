"""The same rollout over a Ray cluster: two real workers, one of them killed in the middle of a step."""

import sys
import threading

import pytest
from packages import installed

from icto_gym.errors import ConfigError
from trainers.rollout import RolloutConfig, plan_jobs

sys.path.insert(0, __file__.rpartition("/")[0])
import test_workers
from test_workers import CONFIG, SHOP, Knocks, Making, play

ray = installed("ray", extra="ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    ray.cloudpickle.register_pickle_by_value(test_workers)  # actors cannot import a test
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20,
             _node_ip_address="127.0.0.1")  # fmt: skip
    yield
    ray.shutdown()


def test_a_mix_over_two_ray_workers_is_played_as_here(cluster, tmp_path):
    both = [CONFIG, SHOP]
    jobs = plan_jobs(both)
    expected = play(tmp_path / "here.jsonl", both, jobs)
    assert play(tmp_path / "ray.jsonl", both, jobs[::-1], workers="ray:2", batch_size=6) == expected


@pytest.mark.parametrize("trouble", ["kill", "stop"])
def test_a_killed_or_hanging_ray_worker_has_its_episodes_played_elsewhere(cluster, tmp_path, trouble):
    jobs = plan_jobs(RolloutConfig(env_id=CONFIG.env_id, attempts=1))
    (tmp_path / "trouble").write_text("")
    expected = play(tmp_path / "calm.jsonl", Making(tmp_path), jobs, Knocks())
    (tmp_path / "trouble").write_text(trouble)
    found = play(
        tmp_path / "t.jsonl", Making(tmp_path), jobs, Knocks(), workers="ray:2", batch_size=6, step_timeout=15.0
    )
    assert (tmp_path / "trouble").read_text() == "" and found == expected


def test_more_workers_than_processors_are_done_without(cluster, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("trainers.rooms.START_SECONDS", 20.0)
    jobs = plan_jobs(CONFIG)
    expected = play(tmp_path / "here.jsonl", CONFIG, jobs)
    assert play(tmp_path / "ray.jsonl", CONFIG, jobs, workers="ray:3", batch_size=6) == expected
    assert "Ray gave no worker" in caplog.text


def test_an_environment_that_cannot_be_sent_to_a_ray_worker_is_a_config_error(cluster, tmp_path):
    source = Making(tmp_path)
    source.lock = threading.Lock()
    with pytest.raises(ConfigError, match=r"cannot be sent to a Ray worker \(Could not serialize.*threads:N"):
        play(tmp_path / "t.jsonl", source, plan_jobs(CONFIG), Knocks(), workers="ray:1")


def test_what_an_environment_raises_on_a_ray_worker_comes_out_here(cluster, tmp_path):
    with pytest.raises(ConfigError, match="icto/Webshap-v0"):
        wrong = RolloutConfig(env_id="icto/Webshap-v0")
        play(tmp_path / "t.jsonl", wrong, plan_jobs(CONFIG), workers="ray:1")
