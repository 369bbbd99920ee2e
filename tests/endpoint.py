"""A real HTTP server that speaks OpenAI's chat protocol, here or (``python endpoint.py PORT``) in its own process."""

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


class Endpoint:
    """A real HTTP server; ``answers`` are given in turn, then ``default`` (a function of the request)."""

    def __init__(self, port=0):
        self.requests, self.answers, self.busy, self.most_busy = [], [], 0, 0
        self.default = lambda request: good(f"Action: {request['messages'][-1]['content']}")
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                request = json.loads(raw)
                request["_raw"] = raw
                request["_path"], request["_authorization"] = self.path, self.headers["Authorization"]
                with outer._lock:
                    outer.requests.append(request)
                    outer.busy += 1
                    outer.most_busy = max(outer.most_busy, outer.busy)
                    answer = outer.answers.pop(0) if outer.answers else outer.default
                status, body, headers, delay = answer(request) if callable(answer) else answer
                time.sleep(delay)
                with outer._lock:
                    outer.busy -= 1
                try:
                    self.send_response(status)
                    for name, value in {"Content-Type": "application/json", **headers}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # the client gave up waiting

            def log_message(self, *args):
                pass

        self._server = _Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def good(text, usage=(7, 3), delay=0.0, reason="stop"):
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
    body["choices"] = [{"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text}}]
    if usage:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return 200, json.dumps(body).encode(), {}, delay


def bad(status, message="no", headers=None, code=None, delay=0.0):
    body = {"error": {"message": message, "type": "error", "code": code}}
    return status, json.dumps(body).encode(), headers or {}, delay


def play(request):
    """A policy that is a function of the conversation: it searches, then looks about, then says something else."""
    said = sum(message["role"] == "assistant" for message in request["messages"])
    action = ("search[red shoes]", "click[next >]", "click[< prev]", "click[back to search]")[said % 4]
    return good(f"Thought: step {said}\nAction: {action}", (len(request["messages"]), 3))


def main(port, answers=None):
    """Serve at this port until killed; after so many answers the server kills itself."""
    left = [answers]
    lock = threading.Lock()

    def default(request):
        with lock:
            if left[0] is not None:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        return play(request)

    endpoint = Endpoint(port)
    endpoint.default = default
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
