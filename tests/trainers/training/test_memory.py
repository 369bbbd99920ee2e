"""Freed memory is kept while a training goes on, or returned: a heap full of holes shrinks to what is alive."""

import platform
import subprocess
import sys

import pytest

# Other C libraries neither keep so much nor can be asked to return it.
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory in such holes")

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


@pytest.mark.parametrize("when", ["forward", "backward"])
def test_holes_between_tensors_are_returned(when):
    assert kept("returned", when) < 0.7 * kept("as it is", when)


FREED = """
import ctypes
from trainers.training.memory import keep_freed_memory, return_all_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def held():
    \"""Memory in KB that is still held when 320 MB of blocks were taken, used and freed.\"""
    blocks = [libc.malloc(1_600_000) for _ in range(200)]
    for block in reversed(blocks):
        ctypes.memset(block, 1, 1_600_000)
        libc.free(block)
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

libc.free(libc.malloc(28_000_000))  # which teaches glibc to keep blocks of up to 28 MB
print(held())
assert keep_freed_memory()
print(held())
return_all_freed_memory()
print(held())
"""


def test_freed_memory_is_kept_until_the_training_has_ended():
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    before, within, after = (int(number) for number in done.stdout.split())
    assert within - before > 250_000 and after - before < 60_000


TRAINED = """
import sys
import torch
from trainers.runs import Run
from trainers.stages import train_stage

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

def work():
    torch.ones(7_000_000)  # freed, which teaches glibc to keep blocks of up to 28 MB
    model = [[torch.ones(400_000)] for _ in range(200)]  # 320 MB
    for one, other in zip(model, model[1:]):
        one.append(other)
    other.append(model[0])  # a circle, as models and their optimisers are
    print(resident())
    (out / "checkpoint").mkdir(parents=True)
    (out / "checkpoint" / "checkpoint.json").write_text("{}")
    return {}

with Run(sys.argv[1]) as run:
    out = run.path("sft")
    print(resident())
    train_stage(run, out, work, {})
    print(resident())
"""


def test_a_training_that_has_ended_keeps_no_memory(tmp_path):
    done = subprocess.run([sys.executable, "-c", TRAINED, str(tmp_path)], capture_output=True, text=True, check=True)
    before, within, after = (int(number) for number in done.stdout.split())
    assert within - before > 300_000 and after - before < 60_000
