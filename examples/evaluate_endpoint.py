"""Measure any OpenAI-compatible endpoint. Without a URL it serves a small rule-based one itself, on this machine only.

python examples/evaluate_endpoint.py
python examples/evaluate_endpoint.py http://localhost:8000/v1 my-model
icto evaluate openai:my-model --env-id icto/WebShop-v0 --policy-options '{base_url: "http://localhost:8000/v1"}' --out e
"""

import json
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from icto_gym import TrajectoryStore
from trainers.evaluation.metrics import summarize
from trainers.policies import make_policy
from trainers.rollout import RolloutConfig, plan_jobs, rollout


class FirstProduct(BaseHTTPRequestHandler):
    """Answers a chat by rules: search the instruction, open the first product, buy it."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = f"Thought: The first one will do.\nAction: {self._act([m['content'] for m in asked['messages']])}"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer}}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": asked["model"], "usage": usage}
        data = json.dumps({**body, "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _act(self, texts: list[str]) -> str:
        if "Buy Now" in texts[-1]:
            return "click[buy now]"
        product = re.search(r"\bB0\w{8}\b", texts[-1])
        if product:
            return f"click[{product[0].lower()}]"
        goal = re.search(r"Instruction: \[SEP\] (.+?)(?:, and price| \[SEP\])", texts[2])
        return f"search[{goal[1] if goal else texts[2][:80]}]"

    def log_message(self, *_: object) -> None:
        """The terminal is for the result."""


@contextmanager
def own_endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FirstProduct)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def measure(url: str, model: str, tasks: int) -> dict[str, float]:
    config = RolloutConfig(env_id="icto/WebShop-v0", split="dev", max_tasks=tasks, attempts=1)
    with tempfile.TemporaryDirectory() as folder:
        store = TrajectoryStore(Path(folder) / "trajectories.jsonl")
        rollout(make_policy(f"openai:{model}", base_url=url), config, plan_jobs(config), store)
        metrics = summarize(list(store))
    for name in ("average_reward", "success_rate", "mean_actions", "invalid_action_share"):
        found = metrics[name]
        print(f"{name:22} {found.value:.3f}  [{found.low:.3f}, {found.high:.3f}]  n={found.n}")
    return {name: estimate.value for name, estimate in metrics.items()}


def main(url: str = "", model: str = "first-product", tasks: int = 20) -> dict[str, float]:
    if url:
        return measure(url, model, tasks)
    with own_endpoint() as own:
        return measure(own, model, tasks)


if __name__ == "__main__":
    main(*sys.argv[1:3])
