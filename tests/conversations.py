"""Scripted conversations with a tiny model, whatever it answers."""

import random

from icto_gym.dialogue import Message
from trainers.models.loading import load_model
from trainers.policies.base import Turn
from trainers.policies.hf import HFPolicy

TINY = load_model("tiny-random")


def policy(loaded=TINY, **options):
    return HFPolicy(loaded.model, loaded.tokenizer, **{"max_new_tokens": 10, "batch_size": 8, **options})


def scripted(number, turns):
    """Observations of one conversation; those of numbers 0 and 1 begin alike, as two attempts at one task do."""
    draw = random.Random(max(number, 1))
    return [" ".join(draw.choices(["shoe", "red", "$5", "Next >"], k=draw.randint(1, 30))) for _ in range(turns)]


def play(acting, episodes=5, turns=3, temperature=0.0, leave_out=lambda turn, episode: False):
    """Everything said in scripted conversations; an episode left out of a turn has its response from elsewhere."""
    talks = [
        [Message("user", "You act. " * 8), Message("assistant", "OK"), Message("user", scripted(number, 1)[0])]
        for number in range(episodes)
    ]
    said = []
    for turn in range(turns):
        asked = [number for number in range(episodes) if not leave_out(turn, number)]
        questions = [Turn(talks[n], {}, f"episode {n}", temperature, seed=100 * turn + n) for n in asked]
        answers = dict(zip(asked, acting.act(questions), strict=True))
        said.append(answers)
        for number, messages in enumerate(talks):
            response = answers.get(number, "Action: drawn at random")
            seen = scripted(number, turns + 1)[turn + 1]
            talks[number] = [*messages, Message("assistant", response), Message("user", f"Observation: {seen}")]
    return said
