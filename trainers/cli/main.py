"""The ``icto`` command: find the verb, call it, and end with a code and at most one clean line.

Results go to standard output, the log to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage,
130 interrupted.
"""

from __future__ import annotations

import importlib
import logging
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Sequence
from types import FrameType

from icto_gym.errors import ConfigError, IctoError, InvalidTask, did_you_mean

logger = logging.getLogger(__name__)

PACKAGES = ("icto_gym", "trainers")
DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130

# verb: (where it is, one line of help); strings, so that help imports nothing
VERBS: dict[str, tuple[str, str]] = {
    "tasks": ("trainers.cli.look:tasks", "list environments, splits, sizes and digests; or the tasks of one split"),
    "data": ("trainers.cli.data:data", "prepare a benchmark's raw data once, such as the full-size shop"),
    "play": ("trainers.cli.play:play", "play a task yourself by typing actions"),
    "serve": ("trainers.cli.serve:serve", "a benchmark as a web site, to play by hand and record"),
    "rollout": ("trainers.cli.files:rollout", "policy x tasks -> trajectories.jsonl"),
    "judge": ("trainers.cli.files:judge", "trajectories -> verdicts.jsonl"),
    "score": ("trainers.cli.files:score", "trajectories -> step_rewards.jsonl"),
    "pair": ("trainers.cli.files:pair", "trajectories, verdicts, step rewards -> pairs.jsonl"),
    "train": ("trainers.cli.train:train", "sft | dpo | reward | preference | ppo: trajectories or pairs -> checkpoint"),
    "run": ("trainers.cli.run:run", "a whole method, such as icto or bc: all of the above in turn"),
    "evaluate": ("trainers.cli.measure:evaluate", "policy x splits -> metrics.json, with intervals; or repeat one"),
    "compare": ("trainers.cli.measure:compare", "two results on the same tasks -> which is better, in words"),
    "report": ("trainers.cli.report:report", "run folders -> one HTML page"),
    "import": ("trainers.cli.exchange:import_", "records of ETO, AgentGym, TRL or datasets -> trajectories or pairs"),
    "export": ("trainers.cli.exchange:export", "trajectories or pairs -> TRL, ShareGPT, Parquet or Minari"),
    "doctor": ("trainers.cli.look:doctor", "what is installed and what this machine can do"),
}

HELP = """usage: icto VERB ...

An agent plays text tasks, every episode becomes a trajectory, trajectories are judged and contrasted,
the contrasts train the agent, and it plays again. One verb per stage; each takes files and leaves files.

{verbs}

icto VERB --help explains a verb and shows examples. Every verb also takes
  --debug     show the whole traceback of an error
  --quiet     log warnings only

examples:
  icto doctor
  icto tasks icto/WebShop-v0
  icto data webshop ~/webshop/data
  icto play icto/WebShop-v0 --split dev --index 3
  icto run icto --config examples/configs/demo.yaml --run runs/demo
  icto run icto --config examples/configs/demo.yaml --dpo.beta 0.2 --run runs/beta02
  icto evaluate hf:runs/demo/sft/checkpoint --config examples/configs/demo.yaml --split test --out runs/demo-test

exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted (the same command continues)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug, quiet = _take_flag(words, "--debug"), _take_flag(words, "--quiet")
    handler = _set_up(quiet)
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # a user's own module:Name lies where the command is given
    try:
        return _call(words)
    except KeyboardInterrupt:
        print(f"\nInterrupted. What was finished is kept; continue with:\n  {_command(words)}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # such as `icto tasks ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except ModuleNotFoundError as error:
        extra = _extra_with(error.name or "")
        if debug or extra is None:
            raise
        mend = f"Install it: pip install 'icto-gym[{extra}]'"
        print(f"icto: error: {error.name!r} is not installed. {mend}", file=sys.stderr)
        return FAILED
    except (IctoError, OSError) as error:
        if debug:
            raise
        print(f"icto: error: {_message(error)}", file=sys.stderr)
        return WRONG_USAGE if isinstance(error, (ConfigError, InvalidTask)) else FAILED
    finally:
        _put_back(handler)


def _call(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        listed = "\n".join(f"  {verb:<10}{line}" for verb, (_, line) in VERBS.items())
        print(HELP.format(verbs=listed), end="")
        return DONE if words else WRONG_USAGE
    if words[0] == "--version":
        from icto_gym import __version__

        print(f"icto-gym {__version__}")
        return DONE
    if words[0] not in VERBS:
        raise ConfigError(f"Unknown verb {words[0]!r}.{did_you_mean(words[0], VERBS)} Known: {', '.join(VERBS)}.")
    module, _, name = VERBS[words[0]][0].partition(":")
    try:
        getattr(importlib.import_module(module), name)(words[1:])
    except SystemExit as stop:  # how tyro ends after --help (0) and wrong usage (2)
        return stop.code if isinstance(stop.code, int) else FAILED
    return DONE


def _extra_with(module: str) -> str | None:
    """The extra that brings a missing module; None where it is no optional package of ours."""
    from trainers.cli.look import extras

    top = module.partition(".")[0]
    return next((extra for extra, packages in extras().items() if top in packages), None)


def _take_flag(words: list[str], flag: str) -> bool:
    present = flag in words
    while flag in words:
        words.remove(flag)
    return present


def _set_up(quiet: bool) -> logging.Handler:
    """Only the command line sets handlers; models' own chatter stays out of the log."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.getLogger().addHandler(handler)
    for name in PACKAGES:
        logging.getLogger(name).setLevel(_level(quiet))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)  # of packages, about packages
    try:
        signal.signal(signal.SIGTERM, _interrupt)
    except ValueError:  # not the main thread: someone else owns the signals
        logger.debug("SIGTERM keeps its handler")
    return handler


def _put_back(handler: logging.Handler) -> None:
    """Leave logging as it was, for whoever calls `main` from a program."""
    logging.getLogger().removeHandler(handler)
    for name in PACKAGES:
        logging.getLogger(name).setLevel(logging.NOTSET)


def _level(quiet: bool) -> int:
    """Of several processes only the first speaks, unless something is wrong."""
    if os.environ.get("RANK", "0") != "0":
        return logging.ERROR
    return logging.WARNING if quiet else logging.INFO


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _command(words: list[str]) -> str:
    return "icto " + " ".join(shlex.quote(word) for word in words)


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and not isinstance(error, IctoError) and error.errno is not None:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}"
    return str(error)
