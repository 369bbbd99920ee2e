"""Serving the shop to people, and to a browser of this process's own."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from icto_gym.errors import BackendError, ConfigError, InvalidTask, require
from icto_gym.store import TrajectoryStore
from icto_gym.wrappers.react import ReAct, write_response
from icto_gym.wrappers.record import RecordTrajectory

if TYPE_CHECKING:
    from icto_gym.envs.webshop.site.app import Site
    from icto_gym.envs.webshop.site.visits import Visit

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
HIGHEST_PORT = 65_535
STARTING = 20.0
"""Seconds that a server may take to start or to stop."""


@dataclass(frozen=True)
class ServeConfig:
    """Serve the shop as a web site on this machine, for people to play; Ctrl-C stops it."""

    host: str = LOOPBACK
    """Address to listen on; anything but a loopback address lets others in."""
    port: int = 3000
    """Port to listen on; 0: any free one."""
    allow_host: tuple[str, ...] = ()
    """Further names by which browsers may address the site."""
    split: str = "train"
    """Split that the welcome page offers first."""
    index: int | None = None
    """Task of the split that the welcome page offers first, from 0; left out: a drawn one."""
    record: Path | None = None
    """Append every finished episode to this file of trajectories."""
    policy: str = "person"
    """Who acts, as the trajectories say it."""
    max_episode_steps: int | None = None
    """Step limit; left out: the environment's published one."""
    pictures: bool = False
    """Let pages load product pictures from the web addresses in the data."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment, such as the folder of its data."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= HIGHEST_PORT:
            raise ConfigError(f"port is {self.port!r}; give 0 (any free one) to {HIGHEST_PORT}.")


class Till:
    """Starts people's visits: an ordinary environment, recorded like any policy's.

    Args:
        config: what is played and where it is written.

    Raises:
        ConfigError: arguments that the environment does not take.
        InvalidTask: the split or index of ``config`` does not exist.
        DataError, OSError: the recording cannot be read or written.
    """

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        every = self._make().unwrapped.manifest(None)
        self.splits: dict[str, int] = {}
        for task in every:
            self.splits[task.split] = self.splits.get(task.split, 0) + 1
        if config.split not in self.splits:  # a named list or a list file
            self.splits[config.split] = len(self._make().unwrapped.manifest(config.split))
        if config.index is not None:
            self._make().unwrapped.manifest(config.split).at(config.index)
        self.defaults = {"split": config.split, "index": "" if config.index is None else str(config.index)}
        self.recording = "" if config.record is None else str(config.record)
        if config.record is not None:
            _check_recording(config.record)

    def _make(self) -> Any:
        kwargs = dict(self._config.env_kwargs)
        if self._config.max_episode_steps is not None:
            kwargs["max_episode_steps"] = self._config.max_episode_steps
        try:
            return gym.make("icto/WebShop-v0", disable_env_checker=True, **kwargs)
        except TypeError as error:
            if "unexpected keyword argument" in str(error):
                raise ConfigError(f"env_kwargs: {error}.") from error
            raise

    def begin(self, split: str, index: int | None) -> Visit:
        """A visit at its start page.

        Raises:
            InvalidTask: no such task on offer.
        """
        from icto_gym.envs.webshop.site.visits import Visit

        if split not in self.splits:  # a person's choice: never a path
            raise InvalidTask(f"There is no split {split[:40]!r} here.")
        env = RecordTrajectory(ReAct(self._make()), self._config.record, policy=self._config.policy)
        options = {"split": split} if index is None else {"split": split, "index": index}
        _, info = env.reset(options=options)
        return Visit(env, info, write_response)


def _check_recording(path: Path) -> None:
    """Find what is wrong with the file before a person has played, not after."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab"):
        pass
    for _ in TrajectoryStore(path):
        pass


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens there.

    Raises:
        ConfigError: the address is not this machine's, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    with taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((host, port))
            taken.listen(128)  # from here on visitors wait instead of being turned away
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"Cannot listen on {host} port {port}: {error}. Choose another --port or --host."
            ) from error
        yield taken


def _server(app: Any) -> Any:
    uvicorn = require("uvicorn", extra="site")
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=100,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=16 * 1024,
    )  # fmt: skip  (no access log: addresses name visits, and those names are secrets)
    return uvicorn.Server(config)


class SiteThread:
    """A site on a free loopback port, served by a thread that ends with this process.

    Args:
        site: what is served.
    """

    def __init__(self, site: Site) -> None:
        from icto_gym.envs.webshop.site.guard import LOOPBACK_NAMES

        self._stack = contextlib.ExitStack()
        listener = self._stack.enter_context(listening(LOOPBACK, 0))
        self.address = f"http://{LOOPBACK}:{listener.getsockname()[1]}"
        self._server = _server(site.app(LOOPBACK_NAMES))
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="webshop site", daemon=True
        )
        self._thread.start()
        self._wait()

    def _wait(self) -> None:
        for _ in range(int(STARTING * 100)):
            if self._server.started:
                return
            self._thread.join(0.01)
            if not self._thread.is_alive():
                break
        self.stop()
        raise BackendError(f"The shop's web site did not start on {self.address}.")

    def stop(self) -> None:
        """Stop serving and free the port; harmless when called again."""
        self._server.should_exit = True
        self._thread.join(STARTING)
        self._stack.close()


def serve(config: ServeConfig, announce: Callable[[str], None]) -> None:
    """Serve the shop to people until interrupted.

    Args:
        config: where and what.
        announce: called with the site's address once it is listening.

    Raises:
        DependencyNotInstalled: naming the extra.
        ConfigError: an address, argument or split that cannot be used.
    """
    require("starlette", extra="site")
    require("jinja2", extra="site")
    from icto_gym.envs.webshop.site.app import Site
    from icto_gym.envs.webshop.site.guard import LOOPBACK_NAMES
    from icto_gym.envs.webshop.site.visits import Visits

    door = Till(config)
    with listening(config.host, config.port) as listener:
        port = listener.getsockname()[1]
        if config.host not in (LOOPBACK, "localhost", "::1"):
            logger.warning(
                "The shop listens on %s port %d: whoever reaches this machine can play and fill its memory and the "
                "recording, and nothing is encrypted. Leave out --host to keep it to this machine.", config.host, port
            )  # fmt: skip
        listed = f"[{config.host}]" if ":" in config.host else config.host
        site = Site(Visits(), door, pictures=config.pictures)
        announce(f"http://{listed}:{port}/")
        _server(site.app((*LOOPBACK_NAMES, listed, *config.allow_host))).run(sockets=[listener])
