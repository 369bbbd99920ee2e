"""The house stands: who may import whom (the picture is in CONTRIBUTING.md)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {  # module prefix -> floor; the longest prefix counts
    "icto_gym": 1, "icto_gym.errors": 0, "icto_gym.files": 0, "icto_gym.spaces": 0, "icto_gym.tasks": 0,
    "icto_gym.trajectory": 0, "icto_gym.dialogue": 0, "icto_gym.core": 0,
    "trainers.records": 2, "trainers.config": 2, "trainers.tokenization": 2, "trainers.models": 2, "trainers.losses": 2,
    "trainers.distributed": 2, "trainers.digests": 2, "trainers.dotted": 2,
    "trainers.policies": 3, "trainers.pairing": 3, "trainers.batches": 3, "trainers.packing": 3, "trainers.runs": 3,
    "trainers.stage_clock": 2,
    "trainers.rollout": 4, "trainers.workers": 4, "trainers.rooms": 4, "trainers.episodes": 4, "trainers.sampling": 3,
    "trainers.replicas": 4,
    "trainers.feedback": 4, "trainers.training": 4, "trainers.evaluation": 4,
    "trainers.exchange": 4, "trainers.trackers": 3,
    "trainers.report": 4, "trainers.markers": 2, "trainers.stages": 5, "trainers.stage_facts": 5,
    "trainers.likelihoods": 4, "trainers.method_stages": 5, "trainers.methods": 6,
    "trainers.playing_on": 5, "trainers.retries": 5, "trainers.cli": 7,
}  # fmt: skip
HEAVY = {"ray", "torch", "transformers", "peft", "bitsandbytes", "deepspeed", "spacy", "py4j", "textworld", "alfworld"}
LIGHT = (
    "cli", "stages", "methods", "pairing", "records", "runs", "config", "report", "feedback", "policies", "rollout",
    "workers", "rooms", "replicas",
)  # fmt: skip
BENCHMARKS = ("webshop", "scienceworld", "alfworld")


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor(module: str) -> int | None:
    known = [prefix for prefix in FLOORS if module == prefix or module.startswith(prefix + ".")]
    return FLOORS[max(known, key=len)] if known else None


def imports(path: Path, *, at_top_only: bool = False) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [node for statement in tree.body for node in _walk(statement, at_top_only)]
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def _walk(node: ast.AST, at_top_only: bool):
    if at_top_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, at_top_only)


def outside(path: Path) -> str | None:
    """The benchmark whose folder this is, if any."""
    return next((name for name in BENCHMARKS if f"envs/{name}/" in path.as_posix()), None)


@pytest.mark.parametrize("path", modules("icto_gym") + modules("trainers"), ids=name_of)
def test_a_floor_imports_only_itself_and_lower_floors(path):
    mine = floor(name_of(path))
    for imported in imports(path):
        other = floor(imported)
        if other is not None and mine is not None:
            assert other <= mine, f"{name_of(path)} (floor {mine}) imports {imported} (floor {other})"


@pytest.mark.parametrize("path", modules("icto_gym"), ids=name_of)
def test_the_environments_know_nothing_of_learning(path):
    for imported in imports(path):
        assert imported.split(".")[0] not in {"torch", "transformers", "trainers"}, f"{name_of(path)}: {imported}"


@pytest.mark.parametrize("path", modules("icto_gym"), ids=name_of)
def test_one_benchmark_never_imports_another_and_wrappers_never_import_environments(path):
    for imported in imports(path):
        for benchmark in BENCHMARKS:
            if imported.startswith(f"icto_gym.envs.{benchmark}"):
                assert outside(path) == benchmark, f"{name_of(path)}: {imported}"
        if "wrappers" in path.parts:
            assert not imported.startswith("icto_gym.envs")


@pytest.mark.parametrize("path", modules("trainers"), ids=name_of)
def test_the_trainers_name_no_benchmark_in_code(path):
    """Help texts may show an environment id as an example; logic may not depend on one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare):
            words = [
                part.value.lower()
                for part in ast.walk(node)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            ]
            assert not any(name in word for word in words for name in BENCHMARKS), f"{name_of(path)}:{node.lineno}"


@pytest.mark.parametrize("path", modules("trainers/losses"), ids=name_of)
def test_losses_import_torch_and_nothing_of_ours(path):
    for imported in imports(path):
        assert imported.startswith("trainers.losses") or imported.split(".")[0] not in {"trainers", "icto_gym"}


@pytest.mark.parametrize("path", modules("trainers"), ids=name_of)
def test_light_modules_do_not_import_heavy_packages_at_the_top(path):
    parts = name_of(path).split(".")
    if len(parts) < 2 or parts[1] not in LIGHT or parts[-1] in {"hf", "kv_cache", "decoding", "ragged", "cached"}:
        return
    for imported in imports(path, at_top_only=True):
        assert imported.split(".")[0] not in HEAVY, f"{name_of(path)}: {imported}"


@pytest.mark.parametrize("path", modules("trainers/training"), ids=name_of)
def test_training_sees_no_environment(path):
    for imported in imports(path):
        assert not imported.startswith(("icto_gym.envs", "icto_gym.core", "gymnasium", "trainers.rollout"))


@pytest.mark.parametrize("path", modules("icto_gym") + modules("trainers"), ids=name_of)
def test_no_file_outgrows_its_room(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, "split the file: one room per responsibility"


@pytest.mark.parametrize("path", modules("icto_gym") + modules("trainers") + modules("benchmarks"), ids=name_of)
def test_no_function_outgrows_a_page(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, kinds)]
    long = {node.name for node in functions if node.end_lineno - node.lineno >= 60}
    assert not long, "divide the work: a function does one thing"
