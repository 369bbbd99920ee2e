"""The whole method in a minute: ICTO with a tiny random model on a toy game. It learns nothing, but every stage runs.

    python examples/icto_tiny.py runs/tiny

The same with a real language model: make demo
"""

import sys
from pathlib import Path

from trainers.cli import main as icto


def main(run: str = "runs/tiny") -> int:
    config = Path(__file__).parent / "configs" / "tiny.yaml"
    return icto(["run", "icto", "--config", str(config), "--run", run])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
