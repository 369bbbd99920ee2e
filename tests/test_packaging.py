"""What is installed elsewhere is the whole of it: pages, presets and games travel with the code."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LISTING = """
import json
from setuptools import Distribution

made = Distribution({"script_name": "setup.py"})
made.parse_config_files()
build = made.get_command_obj("build_py")
build.ensure_finalized()
data = [f"{folder}/{name}" for _, folder, _, names in build.data_files for name in names]
print(json.dumps([*build.get_source_files(), *data]))
"""


def test_every_file_of_the_packages_is_installed():
    listed = subprocess.run([sys.executable, "-c", LISTING], cwd=ROOT, capture_output=True, text=True, check=True)
    installed = {Path(name).as_posix() for name in json.loads(listed.stdout.splitlines()[-1])}
    there = {
        path.relative_to(ROOT).as_posix()
        for package in ("icto_gym", "trainers")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    assert len(there) > 200
    assert there - installed == set()


def test_make_bench_can_run_every_benchmark_that_it_names():
    """It gives them no arguments, so none may need any."""
    files = sorted((ROOT / "benchmarks").glob("*_speed.py"))
    assert files
    for file in files:
        for argument in re.findall(r"add_argument\((.*)\)", file.read_text(encoding="utf-8")):
            assert "required=True" not in argument, f"{file.name}: {argument}"
            assert argument.startswith('"-') or "nargs=" in argument, f"{file.name}: {argument}"
