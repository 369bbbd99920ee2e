"""Who plays, named so that a result can be repeated where its run lies now."""

from pathlib import Path

from trainers.policies.players import recipe_beside, recorded_player


def test_a_checkpoint_of_the_same_run_is_named_from_the_result(tmp_path: Path) -> None:
    run = tmp_path / "first"
    checkpoint, out = run / "sft" / "checkpoint", run / "evaluation" / "dev"
    checkpoint.mkdir(parents=True)
    out.mkdir(parents=True)
    recipe = recipe_beside({"spec": f"hf:{checkpoint}", "options": {}}, checkpoint, run, out)
    assert recipe["spec"] == "hf:../../sft/checkpoint"
    moved = run.rename(tmp_path / "second")
    player = recorded_player(recipe, moved / "evaluation" / "dev")
    assert Path(player.source[0]).resolve() == moved / "sft" / "checkpoint"


def test_other_policies_stay_as_they_were_typed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    for source in (elsewhere, ["expert", {}]):
        recipe = {"spec": "as typed", "options": {}}
        assert recipe_beside(recipe, source, tmp_path / "run", tmp_path / "run" / "dev") == recipe
