"""Trajectories as hypothesis draws them, and hand-made records laid out like the published files."""

from hypothesis import strategies as st

from icto_gym.dialogue import Message
from icto_gym.trajectory import Step, Trajectory
from icto_gym.wrappers.react import parse_response
from trainers.records import PreferencePair

TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
PLAIN = TEXTS.map(str.strip)  # conversations keep no white space at the ends of a message


@st.composite
def trajectories(draw, texts=PLAIN):
    """What `RecordTrajectory` would write: thought and action are those of the response."""
    steps, rewards = [], draw(st.lists(st.sampled_from([0.0, 0.25, 0.5]), min_size=1, max_size=2))
    for reward in rewards:
        response = draw(texts | texts.map(lambda text: f"Thought: Why?\nAction: go {text}".strip()))
        parsed = parse_response(response)
        steps.append(Step(draw(texts), response, parsed.thought, parsed.action, reward, draw(st.booleans())))
    task = draw(st.integers(0, 99))
    return Trajectory(
        f"toy/{task}@p#{draw(st.integers(0, 9))}", "toy/Env-v0", f"toy/{task}", draw(texts), draw(texts), tuple(steps),
        draw(TEXTS), sum(rewards) / 2, draw(st.booleans()), draw(st.booleans()), draw(st.booleans()), "p",
        draw(st.integers(0, 2**31)), draw(st.none() | TEXTS), draw(st.none() | st.just({"best": 0.5})),
    )  # fmt: skip


@st.composite
def pairs(draw):
    """Pairs of whole episodes that differ."""
    first, last = Message("assistant", "yes" + draw(TEXTS)), Message("assistant", draw(TEXTS))
    chosen = (first, Message("user", draw(TEXTS)), last)
    rejected = (Message("assistant", "no" + draw(TEXTS)),)
    prompt = (Message("user", draw(TEXTS)), Message("assistant", "OK"), Message("user", draw(TEXTS)))
    return PreferencePair("toy/1", prompt, chosen, rejected, draw(st.floats(0.01, 1)), "step", "a", "b", (0.5,))


def turns(*texts: str) -> list[dict[str, str]]:
    """Alternating ShareGPT messages from human to gpt."""
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]


ETO_WEBSHOP = {
    "id": 4116,
    "conversations": turns(
        "You are web shopping.\nI will give you instructions about what to do.", "OK",
        "WebShop [SEP] Instruction: [SEP] i need a red hat [SEP] Search",
        "Thought: I should search.\nAction: search[red hat]",
        "Observation:\nInstruction: [SEP] i need a red hat [SEP] Back to Search [SEP] B0001",
        "Thought: I think this fits.\nAction: click[B0001]",
    ),
    "reward": 0.75,
    "source": "human",
}  # fmt: skip
ETO_ALFWORLD = {
    "id": 12,
    "game_file": "data/json_2.1.1/train/pick_and_place_simple-Mug-None-Desk-307/trial_T20190907_072329_828593",
    "conversations": turns(
        "Interact with a household to solve a task.", "OK",
        "You are in the middle of a room. You see a desk 1.\n\nYour task is to: put a mug in desk.",
        "Thought: Take it.\nAction: go to shelf 1",
        "Observation: On the shelf 1, you see a mug 1.",
        "Thought: And put it.\nAction: put mug 1 in/on desk 1",
    ),
}  # fmt: skip
ETO_SCIENCEWORLD = {
    "id": "9_412",
    "conversations": turns(
        "You are a helpful assistant to do some scientific experiment in an environment.", "OK",
        "Your task is to determine if glass is electrically conductive. First, focus on the glass.",
        "Thought: I should find it.\nAction: look around",
        "Observation: This room is called the hallway.",
        "Thought: There.\nAction: focus on glass",
    ),
}  # fmt: skip
ETO_PAIR = {
    "id": "4116",
    "prompt": ETO_WEBSHOP["conversations"][:3],
    "chosen": ETO_WEBSHOP["conversations"][3:],
    "rejected": turns("", "Thought: Any.\nAction: click[buy now]")[1:],
}
AGENTGYM = {
    "conversations": [
        {"from": "human", "loss": None, "value": "Interact with a household to solve a task."},
        {"from": "gpt", "loss": False, "value": "OK. I'll follow your instructions and try my best to solve the task."},
        {"from": "human", "loss": None, "value": "You see a desk 1.\nYour task is to: put some mug on desk.\n"
                                                 "AVAILABLE ACTIONS: go to desk 1,inventory,look"},
        {"from": "gpt", "loss": True, "value": "Thought:\nI need a mug.\n\nAction:\ngo to shelf 1"},
        {"from": "human", "loss": None, "value": "On the shelf 1, you see a mug 1."},
        {"from": "gpt", "loss": True, "value": "Action: put mug 1 in/on desk 1 "},
    ],
    "item_id": "pick_and_place_simple-Mug-None-Desk-307_trial_T20190907_072329_828593",
}  # fmt: skip
