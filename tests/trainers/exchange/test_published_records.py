"""Records laid out like those of ETO and AgentGym (see docs/data_formats.md for what they were checked against)."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from packages import installed

from icto_gym import TrajectoryStore
from icto_gym.errors import ConfigError, DataError
from trainers.exchange import ImportOptions, export_file, import_file
from trainers.records import PreferencePair, read_records

from .records import AGENTGYM, ETO_ALFWORLD, ETO_PAIR, ETO_SCIENCEWORLD, ETO_WEBSHOP, turns

WEBSHOP, ALFWORLD = ImportOptions(env_id="icto/WebShop-v0", policy="expert"), ImportOptions(env_id="icto/ALFWorld-v0")


def imported(tmp_path, records, format_name="sharegpt", options=WEBSHOP, name="records.json"):
    (tmp_path / name).write_text(json.dumps(records))
    told = import_file(tmp_path / name, format_name, tmp_path / "out.jsonl", options)
    return told, tmp_path / "out.jsonl"


def test_eto_experts_keep_their_reward_task_and_words(tmp_path):
    told, path = imported(tmp_path, [ETO_WEBSHOP, ETO_WEBSHOP])  # the published file repeats this very id
    first, second = TrajectoryStore(path)
    assert (first.trajectory_id, second.trajectory_id) == ("webshop/4116@expert#0", "webshop/4116@expert#1")
    assert (first.score, first.success, first.episode_return) == (0.75, False, 0.75)
    assert (first.instruction, first.actions) == ("i need a red hat", ("search[red hat]", "click[B0001]"))
    assert first.steps[0].thought == "I should search."
    assert first.extra["imported"]["record"] == {"id": 4116, "source": "human"}
    assert "rewards of single steps" in first.extra["imported"]["unknown"]
    assert told["notes"]["unknown: rewards of single steps"] == 2


def test_records_without_a_reward_need_a_word_about_it(tmp_path):
    with pytest.raises(DataError, match=r"records\.json record 1: there is neither score nor reward.*--score"):
        imported(tmp_path, [ETO_ALFWORLD], options=ALFWORLD)
    assert not (tmp_path / "out.jsonl").exists()
    told, path = imported(tmp_path, [ETO_ALFWORLD], options=ImportOptions(env_id="icto/ALFWorld-v0", score=1.0))
    (trajectory,) = TrajectoryStore(path)
    assert told["notes"]["scores given by --score"] == 1
    assert trajectory.task_id == (
        "alfworld/train/pick_and_place_simple-Mug-None-Desk-307/trial_T20190907_072329_828593"
    )
    assert (trajectory.instruction, trajectory.success) == ("put a mug in desk", True)


def test_etos_scienceworld_experts_name_task_and_variation(tmp_path):
    """The number of the task is its place in ETO's table; what no task of ours is stays imported/..."""
    names = {
        "9_412": "scienceworld/test-conductivity/412", "0_29": "scienceworld/boil/29", "0_30": "imported/0_30",
        "4_3": "scienceworld/measure-melting-point-known-substance/3", "5_3": "imported/5_3",
        "29_0": "scienceworld/mendelian-genetics-unknown-plant/0", "30_0": "imported/30_0", "9": "imported/9",
    }  # fmt: skip
    options = ImportOptions(env_id="icto/ScienceWorld-v0", score=1.0)
    told, path = imported(tmp_path, [{**ETO_SCIENCEWORLD, "id": name} for name in names], options=options)
    first, *_ = found = list(TrajectoryStore(path))
    assert [item.task_id for item in found] == list(names.values())
    assert told["notes"]["tasks that are not the benchmark's own ids (imported/...)"] == 4
    assert first.instruction.startswith("Your task is to determine") and first.actions[1] == "focus on glass"


@pytest.mark.parametrize("grammar, action", [("move", "move mug 1 to desk 1"), ("put", "put mug 1 in/on desk 1")])
def test_both_wordings_of_alfworld_are_written_on_request(tmp_path, grammar, action):
    options = ImportOptions(env_id="icto/ALFWorld-v0", score=1.0, action_grammar=grammar)
    _, path = imported(tmp_path, [ETO_ALFWORLD], options=options)
    (trajectory,) = TrajectoryStore(path)
    assert trajectory.actions == ("go to shelf 1", action)
    assert trajectory.steps[1].response == f"Thought: And put it.\nAction: {action}"
    assert trajectory.steps[1].observation == "On the shelf 1, you see a mug 1."


def test_agentgym_records_are_read_with_their_own_ids_and_marks(tmp_path):
    told, path = imported(tmp_path, [AGENTGYM], options=ImportOptions(env_id="icto/ALFWorld-v0", score=1.0))
    (trajectory,) = TrajectoryStore(path)
    assert trajectory.task_id.startswith("alfworld/train/pick_and_place_simple-Mug-None-Desk-307/trial_T2019")
    assert trajectory.actions == ("go to shelf 1", "put mug 1 in/on desk 1")
    assert [step.thought for step in trajectory.steps] == ["I need a mug.", ""]
    assert trajectory.extra["imported"]["acknowledgement"].startswith("OK. I'll follow")
    assert told["notes"]["acknowledgements other than OK (kept in extra)"] == 1
    assert told["notes"]["observations without their label (they gain it)"] == 1


def chat(*texts, first="user"):
    roles = ("user", "assistant") if first == "user" else ("system", "user", "assistant")
    said = [(role, text) for role, text in zip(("system",) if first == "system" else (), texts, strict=False)]
    rest = texts[len(said) :]
    said += [(roles[-2:][place % 2], text) for place, text in enumerate(rest)]
    return {"id": "1", "reward": 1.0, "conversations": [{"role": role, "content": text} for role, text in said]}


def test_a_first_response_that_begins_with_okay_and_acts_is_no_acknowledgement(tmp_path):
    record = chat(
        "Find a mug.", "Okay, I should look.\nAction: go to shelf 1", "Observation: a mug", "Action: take mug"
    )
    with pytest.raises(DataError, match="--system-prompt"):
        imported(tmp_path, [record])
    options = ImportOptions(env_id="icto/WebShop-v0", system_prompt="Act in ReAct form.")
    _, path = imported(tmp_path, [record], options=options)
    (trajectory,) = TrajectoryStore(path)
    assert trajectory.actions == ("go to shelf 1", "take mug") and trajectory.system_prompt == "Act in ReAct form."
    assert trajectory.steps[0].observation == "Find a mug."


def test_an_instruction_behind_a_system_message_is_how_to_act_and_its_ok_is_no_step(tmp_path):
    texts = ("You are helpful.", "List of commands: ...", "OK", "Find a mug.", "Action: take mug")
    _, path = imported(tmp_path, [chat(*texts, first="system")])
    (trajectory,) = TrajectoryStore(path)
    assert trajectory.system_prompt == "You are helpful.\n\nList of commands: ..."
    assert trajectory.actions == ("take mug",) and trajectory.steps[0].observation == "Find a mug."


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(ETO_WEBSHOP).encode() + b"\n")
    assert import_file(tmp_path / "in.jsonl", "sharegpt", tmp_path / "out.jsonl", WEBSHOP)["written"] == 1


def test_agentgym_play_has_rewards_on_its_own_scale(tmp_path):
    played = {**AGENTGYM, "reward": 100.0, "success": 1}
    with pytest.raises(DataError, match=r"more than 1.*--reward-scale"):
        imported(tmp_path, [played], options=ALFWORLD)
    options = ImportOptions(env_id="icto/ALFWorld-v0", reward_scale=100.0)
    _, path = imported(tmp_path, [played], options=options)
    assert [(item.score, item.success) for item in TrajectoryStore(path)] == [(1.0, True)]


def test_eto_pairs_need_a_margin_and_keep_their_sides(tmp_path):
    with pytest.raises(DataError, match=r"record 1: there is neither margin nor scores.*--margin"):
        imported(tmp_path, [ETO_PAIR], "sharegpt-preference")
    told, path = imported(
        tmp_path, [ETO_PAIR], "sharegpt-preference", ImportOptions(env_id="icto/WebShop-v0", margin=1.0)
    )
    (pair,) = read_records(path, PreferencePair)
    assert (pair.task_id, pair.margin, len(pair.chosen)) == ("webshop/4116", 1.0, 3)
    assert told["notes"] == {"margins given by --margin": 1}


def test_a_prompt_within_both_sides_is_found(tmp_path):
    shared = [
        {"role": "user", "content": "how"},
        {"role": "assistant", "content": "OK"},
        {"role": "user", "content": "t"},
    ]
    row = {side: [*shared, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    _, path = imported(tmp_path, [{"id": 1, **row}], "trl-preference", ImportOptions(margin=0.5))
    (pair,) = read_records(path, PreferencePair)
    assert [message.content for message in pair.prompt] == ["how", "OK", "t"]
    assert pair.chosen[0].content == "chosen"


@pytest.mark.parametrize(
    "change, says",
    [
        ({"conversations": None}, "field conversations is missing"),
        ({"conversations": "hello"}, "field conversations is 'hello'"),
        ({"conversations": turns("how", "OK", "task")}, "holds no response"),
        ({"conversations": turns("Who are you?", "I am Vicuna.")}, "--system-prompt"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, r"conversations\[0\] has the role 'robot'"),
        ({"conversations": [{"from": "human", "value": 3}]}, r"conversations\[0\] has the text 3"),
        ({"reward": "high"}, "field reward is 'high', expected a number"),
        ({"success": "maybe"}, "field success is 'maybe'"),
        ({"step_rewards": [1.0]}, "field step_rewards.*expected 2 entries"),
        ({"seed": "x"}, "field seed"),
        ({"extra": "{"}, "field extra is no JSON"),
        ({"reward": 10**400}, "field reward.*expected a number"),
        ({"step_rewards": [0.0, -(10**400)]}, "field step_rewards.*expected 2 entries"),
    ],
)
def test_a_malformed_record_is_named_by_file_number_field_and_mend(tmp_path, change, says):
    with pytest.raises(DataError, match=rf"records\.json record 2: .*{says}"):
        imported(tmp_path, [ETO_WEBSHOP, {**ETO_WEBSHOP, **change}])
    assert not (tmp_path / "out.jsonl").exists()


def test_malformed_records_may_be_left_out_and_are_counted(tmp_path, caplog):
    bad = {**ETO_WEBSHOP, "conversations": None}
    told, _ = imported(
        tmp_path, [bad, ETO_WEBSHOP], options=ImportOptions(env_id="icto/WebShop-v0", skip_malformed=True)
    )
    assert (told["read"], told["written"], told["malformed"]) == (2, 1, 1)
    assert "record 1" in caplog.text
    with pytest.raises(DataError, match="gave no record"):
        imported(tmp_path, [bad], options=ImportOptions(env_id="icto/WebShop-v0", skip_malformed=True))


@pytest.mark.parametrize("line", ["{", '{"id": NaN}', "null", "[1]", '"text"'])
def test_a_line_that_is_no_record_may_be_left_out_too(tmp_path, line, caplog):
    good = json.dumps(ETO_WEBSHOP)
    (tmp_path / "x.jsonl").write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(DataError, match=r"x\.jsonl record 2: .*--skip-malformed"):
        import_file(tmp_path / "x.jsonl", "sharegpt", tmp_path / "out.jsonl", WEBSHOP)
    told = import_file(tmp_path / "x.jsonl", "sharegpt", tmp_path / "out.jsonl", replace(WEBSHOP, skip_malformed=True))
    assert (told["read"], told["written"], told["malformed"]) == (3, 2, 1)
    assert "record 2" in caplog.text


def test_rewards_of_steps_are_on_the_scale_of_the_records_reward(tmp_path):
    record = {**ETO_WEBSHOP, "reward": 75, "step_rewards": [25.0, 50]}
    _, path = imported(tmp_path, [record], options=replace(WEBSHOP, reward_scale=100.0))
    (trajectory,) = TrajectoryStore(path)
    assert (trajectory.score, tuple(step.reward for step in trajectory.steps)) == (0.75, (0.25, 0.5))
    _, path = imported(tmp_path, [{**record, "score": 0.5, "step_rewards": [0.25, 0.25]}],
                       options=replace(WEBSHOP, reward_scale=100.0))  # fmt: skip
    (trajectory,) = TrajectoryStore(path)
    assert (trajectory.score, tuple(step.reward for step in trajectory.steps)) == (0.5, (0.25, 0.25))


@pytest.mark.parametrize("text", ["[1]", '[{"id": 1}', "{", "[NaN]", "[" * 5000, ""])
def test_what_is_no_json_array_of_objects_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"x\.json"):
        import_file(tmp_path / "x.json", "sharegpt", tmp_path / "out.jsonl", WEBSHOP)
    assert not (tmp_path / "out.jsonl").exists()


def test_wrong_options_are_refused_before_anything_is_read(tmp_path):
    (tmp_path / "x.json").write_text("[]")
    for options in (ImportOptions(score=2.0), ImportOptions(margin=0.0), ImportOptions(example_messages=3)):
        with pytest.raises(ConfigError):
            import_file(tmp_path / "x.json", "sharegpt", tmp_path / "out.jsonl", options)
    with pytest.raises(ConfigError, match="Did you mean 'sharegpt'"):
        import_file(tmp_path / "x.json", "sharegtp", tmp_path / "out.jsonl")
    with pytest.raises(ConfigError, match="name of their own"):
        import_file(tmp_path / "x.json", "sharegpt", tmp_path / "x.json")
    with pytest.raises(ConfigError, match="--system-prompt is for conversations"):
        import_file(tmp_path / "x.json", "trl-preference", tmp_path / "o.jsonl", ImportOptions(system_prompt="Act."))


def test_a_template_names_tasks_from_the_records_own_fields(tmp_path):
    _, path = imported(tmp_path, [ETO_WEBSHOP], options=ImportOptions(env_id="e", task_id="shop/{source}/{id}"))
    assert [item.task_id for item in TrajectoryStore(path)] == ["shop/human/4116"]
    with pytest.raises(DataError, match="the record's fields are id, source"):
        imported(tmp_path, [ETO_WEBSHOP], options=ImportOptions(env_id="e", task_id="shop/{nr}"))
    with pytest.raises(DataError, match="does not fit"):
        imported(tmp_path, [ETO_WEBSHOP], options=ImportOptions(env_id="e", task_id="{id.__class__.x}"))


def test_the_command_line_imports_and_exports(tmp_path):
    (tmp_path / "eto.json").write_text(json.dumps([ETO_WEBSHOP]))
    icto = [sys.executable, "-m", "trainers.cli"]
    done = subprocess.run(
        [*icto, "import", tmp_path / "eto.json", "--format", "sharegpt", "--env-id", "icto/WebShop-v0",
         "--out", tmp_path / "t.jsonl"], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["written"] == 1
    done = subprocess.run(
        [*icto, "export", tmp_path / "t.jsonl", "--format", "trl-sft", "--out", tmp_path / "s.jsonl"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == {"written": 1, "not_kept": {}}, done.stderr
    again = [*icto, "export", tmp_path / "t.jsonl", "--format", "trl-sft", "--out", tmp_path / "s.jsonl"]
    done = subprocess.run(again, capture_output=True, text=True)
    assert done.returncode == 2 and "s.jsonl exists" in done.stderr and "--overwrite" in done.stderr
    assert subprocess.run([*again, "--overwrite"], capture_output=True).returncode == 0
    done = subprocess.run([*icto, "import", "--help"], capture_output=True, text=True)
    assert "alfworld_sft.json" in done.stdout and "trl-stepwise" in done.stdout


def test_files_that_are_torn_broken_or_of_the_other_kind_are_named(tmp_path):
    (tmp_path / "torn.jsonl").write_text(json.dumps(ETO_WEBSHOP) + "\n" + json.dumps(ETO_WEBSHOP)[:60])
    with pytest.raises(DataError, match=r"torn\.jsonl record 2: line 2 .*ends within this record"):
        import_file(tmp_path / "torn.jsonl", "sharegpt", tmp_path / "out.jsonl", WEBSHOP)
    installed("pyarrow", extra="export")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1garbage")
    with pytest.raises(DataError, match=r"bad\.parquet: not a readable Parquet file"):
        import_file(tmp_path / "bad.parquet", "sharegpt", tmp_path / "out.jsonl", WEBSHOP)
    _, path = imported(tmp_path, [ETO_WEBSHOP])
    with pytest.raises(DataError, match="takes a file of pairs"):
        export_file(path, "trl-preference", tmp_path / "p.jsonl")


@pytest.mark.parametrize("format_name", ["trl-sft", "trl-preference"])
def test_an_empty_file_is_not_exported(tmp_path, format_name):
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match=r"empty\.jsonl holds no (trajectories|pairs), so there is nothing to export"):
        export_file(tmp_path / "empty.jsonl", format_name, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_an_import_killed_in_the_middle_leaves_no_file_and_starts_anew(tmp_path):
    record = json.dumps({**ETO_WEBSHOP, "note": "x" * 500}) + "\n"
    (tmp_path / "big.jsonl").write_text(record * 30000)
    command = [sys.executable, "-m", "trainers.cli", "import", tmp_path / "big.jsonl", "--format", "sharegpt",
               "--env-id", "icto/WebShop-v0", "--out", tmp_path / "out.jsonl"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob(".out.jsonl.*")):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not (tmp_path / "out.jsonl").exists()
    (tmp_path / "big.jsonl").write_text(record * 3)
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.jsonl", "out.jsonl"]
