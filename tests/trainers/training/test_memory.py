"""Freed memory is returned: a heap full of holes shrinks to what is alive."""

import subprocess
import sys

import pytest

HOLES = """
import gc, sys
import torch
from trainers.training.memory import return_freed_memory

layers = [torch.nn.Linear(2, 2) for _ in range(4)]
if sys.argv[1] == "returned":
    assert return_freed_memory(layers, every=3)
torch.ones(7_000_000)  # freed, which teaches glibc to keep blocks of up to 28 MB
blocks = [torch.ones(400_000 + 1_000 * (number % 7)) for number in range(400)]  # 1.6 MB each
hidden = torch.ones(1, 2, requires_grad=True)
if sys.argv[2] == "forward":
    del blocks[::2], blocks[-1]
for layer in layers:
    hidden = layer(hidden)
if sys.argv[2] == "backward":
    del blocks[::2], blocks[-1]
gc.collect()
hidden.sum().backward()
resident = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
print(int(resident.split()[1]) * 1024 / sum(block.nbytes for block in blocks))
"""


def kept(how: str, when: str) -> float:
    done = subprocess.run([sys.executable, "-c", HOLES, how, when], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("when", ["forward", "backward"])
def test_holes_between_tensors_are_returned(when):
    assert kept("returned", when) < 0.7 * kept("as it is", when)
