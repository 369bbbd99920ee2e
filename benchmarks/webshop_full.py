"""What a shop of 1,000 to 1,181,436 products costs on disk: building, opening, memory, searching, playing.

    python benchmarks/webshop_full.py FOLDER [--products 1000 10000] [--json benchmarks/results/webshop_full.json]

In FOLDER/<products> raw files are generated (`scripts/make_webshop_raw.py`) and built where they are not there yet; the
build runs in a process of its own, whose processor time and highest memory count. Each figure of playing comes from a
fresh process. The peer in the same run is the catalogue in memory, up to 10,000 products. Memory is told in three ways:
RSS counts every page that is mapped, PSS divides shared pages among the processes that map them, USS counts only what
would be free if the process ended. What a further process costs is its PSS and USS, with the first one still alive.
``cold`` is a process whose catalogue had been put out of the system's cache. Steps are measured with a stand-in for the
noun tagger, and with the real one (spaCy, the extra "webshop"): where every title is new, and where all are remembered.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from icto_gym.files import write_json

ROOT = Path(__file__).resolve().parents[1]
SIZES = (1000, 10_000, 100_000, 1_181_436)
IN_MEMORY = 10_000
"""Up to here the same is measured in memory too."""
QUERIES, EPISODES = 1000, 150
ORIGINAL = [
    {"products": 1000, "memory_mb": [602], "steps_per_cpu_second": 36},
    {"products": 100_000, "loading_cpu_seconds": 10.0, "memory_mb": [1400, 1870], "steps_per_cpu_second": 31},
]
"""The original (commit 64fa2a5, real Lucene through pyserini 0.17, spaCy's tagger): resident memory, then its highest.
Measured once, apart: it cannot be installed beside this project."""


# ---- inside a fresh process ------------------------------------------------------------------------------
def build(folder: str) -> dict[str, Any]:
    """Build a catalogue; what it took."""
    from icto_gym.envs.webshop.store_build import build as build_catalogue

    wall, cpu = time.perf_counter(), time.process_time()
    manifest = build_catalogue(Path(folder))
    return {
        "wall_seconds": round(time.perf_counter() - wall, 1), "cpu_seconds": round(time.process_time() - cpu, 1),
        "highest_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "disk_mb": round(sum(manifest["files"].values()) / 1e6, 1),
        "terms": manifest["terms"], "postings": manifest["postings"],
    }  # fmt: skip


def play(folder: str, mode: str = "") -> dict[str, Any]:
    """Open, search, play and look at the memory.

    Args:
        folder: the shop's data.
        mode: ``"stay"`` plays the same, but lives until standard input ends; ``"cold"`` plays no episodes;
            ``"seed"`` only opens, with a ``catalog_seed`` whose goals are drawn anew; ``"tagger"`` plays only
            episodes, with the real noun tagger.
    """
    import gymnasium as gym

    import icto_gym  # noqa: F401  (registers)

    imported = memory()
    wall, cpu = time.perf_counter(), time.process_time()
    nouns, seed = None if mode == "tagger" else str.split, 1 if mode == "seed" else 0
    env = gym.make("icto/WebShop-v0", data=folder, nouns=nouns, catalog_seed=seed)
    env.reset(seed=0)
    opened: dict[str, Any] = {
        "open_seconds": round(time.perf_counter() - wall, 2), "open_cpu_seconds": round(time.process_time() - cpu, 3)
    }  # fmt: skip
    if mode == "seed":
        return opened
    if mode == "tagger":
        from icto_gym.envs.webshop.nouns import tagged_nouns

        tagged_nouns("warm up")  # loads the model
        return steps(env)
    opened |= searches(env)
    if mode != "cold":
        opened |= steps(env)
    kind = type(env.unwrapped.shop.catalog).__name__
    return {**opened, "memory_mb": memory(), "memory_after_imports_mb": imported, "kind": kind}


def ranking(folder: str, bare: str) -> dict[str, Any]:
    """How many queries have the same 50 hits, scores and ties on disk and in memory."""
    import gymnasium as gym

    import icto_gym  # noqa: F401  (registers)

    disk, in_memory = (gym.make("icto/WebShop-v0", data=data, nouns=str.split) for data in (folder, bare))
    queries = varied_queries(disk)
    engines = [env.unwrapped.search_engine for env in (disk, in_memory)]
    assert type(engines[0]) is not type(engines[1])
    equal = sum(engines[0].scored(query, 50) == engines[1].scored(query, 50) for query in queries)
    return {"queries": len(queries), "equal_top_50": equal}


def varied_queries(env: Any, count: int = QUERIES) -> list[str]:
    """A quarter each: whole instructions, short kinds, words of one product's text, and the commonest words only."""
    dice, catalog = random.Random(3), env.unwrapped.shop.catalog
    common = "black home use quality color product size design easy women white made perfect gift free water".split()  # noqa: SIM905
    found: dict[str, None] = {}
    while len(found) < count:
        goal = dice.choice(catalog.goals)
        words = catalog.products[catalog.codes[dice.randrange(len(catalog.codes))]].document().split()
        query = (
            goal.instruction, f"{dice.choice(goal.attributes)} {goal.query}",
            " ".join(dice.sample(words, min(len(words), dice.randint(2, 8)))),
            " ".join(dice.sample(common, dice.randint(1, 6))),
        )[len(found) % 4]  # fmt: skip
        found[query] = None
    return list(found)


def searches(env: Any) -> dict[str, Any]:
    """Latency of varied queries, each asked once: nothing is answered from memory."""
    engine, seconds, processor = env.unwrapped.search_engine, [], []
    queries = varied_queries(env)
    engine.search("warm up", 50)
    for query in queries:
        wall, cpu = time.perf_counter(), time.process_time()
        engine.search(query, 50)
        seconds.append(time.perf_counter() - wall)
        processor.append(time.process_time() - cpu)
    return {"queries": len(queries), "search_wall_ms": quantiles(seconds), "search_cpu_ms": quantiles(processor)}


def quantiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(1000 * value for value in seconds)
    places = {"median": 0.5, "p90": 0.9, "p99": 0.99}
    found = {name: round(ordered[min(int(len(ordered) * at), len(ordered) - 1)], 2) for name, at in places.items()}
    return {**found, "max": round(ordered[-1], 2)}


def steps(env: Any) -> dict[str, Any]:
    """Episodes of search, product, option, description, back, buy, each with another goal; resets are timed too."""
    manifest = env.unwrapped.manifest(None)
    wall, cpu, done = time.perf_counter(), time.process_time(), 0
    for task in manifest[:EPISODES]:
        _, info = env.reset(options={"task_id": task.task_id})
        _, _, _, _, info = env.step(f"search[{info['instruction'].split(', and price lower')[0]}]")
        product = next(text for text in info["clickables"] if text.startswith("b0"))
        _, _, _, _, info = env.step(f"click[{product}]")
        terminated = False
        for action in (f"click[{info['clickables'][-1]}]", "click[Description]", "click[< Prev]", "click[Buy Now]"):
            if not terminated:
                _, _, terminated, _, info = env.step(action)
                done += 1
        assert terminated, task.task_id
        done += 2
    return {
        "steps_per_cpu_second": round(done / (time.process_time() - cpu)),
        "steps_per_wall_second": round(done / (time.perf_counter() - wall)),
    }  # fmt: skip


def memory() -> dict[str, int]:
    """RSS, PSS and USS of this process in MB."""
    found = {}
    with open("/proc/self/smaps_rollup", encoding="ascii") as handle:
        for line in handle:
            name, _, rest = line.partition(":")
            if name in ("Rss", "Pss", "Private_Clean", "Private_Dirty"):
                found[name] = int(rest.split()[0]) // 1024
    return {"rss": found["Rss"], "pss": found["Pss"], "uss": found["Private_Clean"] + found["Private_Dirty"]}


# ---- the whole -------------------------------------------------------------------------------------------
def in_process(what: str, *arguments: str, **environment: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--inside", what, *arguments]
    ended = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **environment}
    )  # fmt: skip
    return json.loads(ended.stdout)


def measure(folder: Path, products: int) -> dict[str, Any]:
    """All figures of one size."""
    if not (folder / "items_human_ins.json").exists():
        script = [sys.executable, str(ROOT / "scripts/make_webshop_raw.py"), str(folder), "--products", str(products)]
        subprocess.run(script, check=True, cwd=ROOT)
    result: dict[str, Any] = {"products": products}
    kept = folder / "build.json"
    if not kept.exists():
        write_json(kept, in_process("build", str(folder)))
    result["build"] = json.loads(kept.read_text())
    catalog = folder / "catalog"
    uncached(catalog)
    result["cold"] = in_process("play", str(catalog), "cold")
    result["first"] = in_process("play", str(catalog))
    result["another_seed"] = in_process("play", str(catalog), "seed")
    result["further"] = further(catalog)
    with tempfile.TemporaryDirectory() as cache:  # where titles are remembered
        tagged = [in_process("play", str(catalog), "tagger", ICTO_CACHE=cache) for _ in range(2)]
    result["with_tagger"] = dict(zip(("new_titles", "remembered_titles"), tagged, strict=True))
    if products <= IN_MEMORY:
        bare = bare_folder(folder)
        result["in_memory"] = in_process("play", str(bare))
        result["ranking"] = in_process("ranking", str(catalog), str(bare))
    return result


def uncached(catalog: Path) -> None:
    """Put a catalogue out of the system's cache."""
    for path in catalog.iterdir():
        with open(path, "rb") as handle:
            os.fsync(handle.fileno())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bare_folder(folder: Path) -> Path:
    """The raw files without a build beside them."""
    bare = folder / "in-memory"
    bare.mkdir(exist_ok=True)
    for path in folder.glob("items_*.json"):
        (bare / path.name).unlink(missing_ok=True)
        os.link(path, bare / path.name)
    return bare


def further(catalog: Path) -> dict[str, Any]:
    """What a second process costs while the first one is alive, both having played."""
    command = [sys.executable, __file__, "--inside", "play", str(catalog), "stay"]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert first.stdout is not None and first.stdin is not None
    first.stdout.readline()
    second = in_process("play", str(catalog))
    first.stdin.close()
    first.wait()
    return {"memory_mb": second["memory_mb"], "memory_after_imports_mb": second["memory_after_imports_mb"]}


def inside(arguments: list[str]) -> None:
    print(json.dumps({"build": build, "play": play, "ranking": ranking}[arguments[0]](*arguments[1:])), flush=True)
    if arguments[-1] == "stay":
        sys.stdin.read()


def main() -> None:
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--products", type=int, nargs="+", default=SIZES)
    parser.add_argument("--json", help="write the result here")
    options = parser.parse_args()
    results = []
    for products in options.products:
        results.append(measure(options.folder.resolve() / str(products), products))
        print(json.dumps(results[-1]))
    if options.json:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()}
        write_json(options.json, {"sizes": results, "original": ORIGINAL, **machine})


if __name__ == "__main__":
    main()
