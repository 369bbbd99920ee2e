"""The games that come with the package."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import icto_gym
from icto_gym.envs.alfworld import games
from icto_gym.envs.alfworld.gamefile import compile_game
from icto_gym.envs.alfworld.planner import Planner

UNSEEN = {10, 219, 308, 424}
SPLITS = ("train", "valid_seen", "valid_unseen")


def test_the_splits_have_the_sizes_and_task_types_of_the_real_set() -> None:
    sizes = {split: len(icto_gym.tasks("icto/ALFWorld-v0", split=split, data="mini")) for split in SPLITS}
    assert sizes == {"train": 3553, "valid_seen": 140, "valid_unseen": 134}
    for split in SPLITS:
        assert len({task.task_type for task in icto_gym.tasks("icto/ALFWorld-v0", split=split, data="mini")}) == 6


def test_dev_and_test_are_names_of_the_validation_splits() -> None:
    for alias, split in (("dev", "valid_seen"), ("test", "valid_unseen")):
        named, plain = (icto_gym.tasks("icto/ALFWorld-v0", split=name, data="mini") for name in (alias, split))
        assert (named.digest, {task.split for task in named}) == (plain.digest, {split})


def test_rooms_split_as_in_the_real_set_and_no_game_stands_twice() -> None:
    every = icto_gym.tasks("icto/ALFWorld-v0", data="mini")
    assert len({task.digest for task in every}) == len(every) == 3827
    for split in SPLITS:
        rooms = {int(name.rsplit("-", 2)[1]) for name in games.entries(split)}
        assert rooms <= UNSEEN if split == "valid_unseen" else not rooms & UNSEEN


def test_every_game_is_one_of_the_real_combinations(alfworld_recordings: Path) -> None:
    from icto_gym.files import read_json

    real = {tuple(entry) for entry in read_json(alfworld_recordings / "real_combos.json")}
    for split in SPLITS:
        for name in games.entries(split):
            task_type, target, _, place, room, _ = name.split("-")
            assert (task_type, target, place, int(room)) in real


def test_training_and_seen_validation_share_rooms_but_no_combination() -> None:
    train, seen = ({name.rsplit("-", 1)[0] for name in games.entries(split)} for split in ("train", "valid_seen"))
    assert not train & seen


def test_games_are_solvable_and_none_is_won_at_the_start() -> None:
    lengths: Counter[int] = Counter()
    for split, step in (("train", 45), ("valid_seen", 4), ("valid_unseen", 4)):
        for name in list(games.entries(split))[::step]:
            world = compile_game(games.game_file(split, name))
            assert not world.goal.holds(world.start)
            length = Planner(world).distance(world.start)
            assert length is not None, name
            lengths[length] += 1
    assert min(lengths) >= 2
    assert sum(lengths.values()) > 140


def test_the_data_is_small() -> None:
    folder = Path(games.__file__).parent
    assert sum(path.stat().st_size for path in folder.glob("*.gz")) < 500_000
