"""The whole method in a minute: ICTO with a tiny random model. It learns nothing, but every stage runs.

    python examples/icto_tiny.py runs/tiny                                on a toy game
    python examples/icto_tiny.py runs/tiny-shop icto/WebShop-v0           a benchmark is one word:
    python examples/icto_tiny.py runs/tiny-home icto/ALFWorld-v0
    python examples/icto_tiny.py runs/tiny-lab icto/ScienceWorld-v0

The same with a real language model: make demo
"""

import sys
from pathlib import Path

from trainers.cli import main as icto


def main(run: str = "runs/tiny", env_id: str = "icto_gym.testing:Scripted-v0") -> int:
    config = Path(__file__).parent / "configs" / "tiny.yaml"
    return icto(["run", "icto", "--config", str(config), "--rollout.env-id", env_id, "--run", run])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
