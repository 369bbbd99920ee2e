"""Policies by name: ``make_policy("random" | "expert" | "hf:..." | "openai:..." | "my_package.module:MyPolicy")``."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from icto_gym.errors import ConfigError, check_name, did_you_mean
from trainers.policies.base import Policy, Turn, Usage, write_response

__all__ = ["Policy", "Turn", "Usage", "make_policy", "write_response"]

# name: (where it is made, what stands after the colon); strings, so that naming a policy imports nothing
_BUILT_IN: dict[str, tuple[str, str]] = {
    "random": ("trainers.policies.random:RandomPolicy", ""),
    "expert": ("trainers.policies.expert:ExpertPolicy", ""),
    "hf": ("trainers.policies.hf:HFPolicy.load", "<model name or checkpoint folder>"),
    "openai": ("trainers.policies.openai:OpenAIPolicy", "<model name>"),
}
_FORMS = [name + (f":{rest}" if rest else "") for name, (_, rest) in _BUILT_IN.items()]


def make_policy(spec: str, **options: Any) -> Policy:
    """Make a policy from its one-line description.

    Args:
        spec: ``"random"``, ``"expert"``, ``"hf:<model or checkpoint folder>"``, ``"openai:<model>"``, or
            ``"package.module:Name"`` of a class, of a function that returns a policy, or of a policy.
        options: keyword arguments of the policy's constructor.

    Raises:
        ConfigError: no such policy or option, with the nearest name.
    """
    kind, _, rest = spec.partition(":")
    if kind in _BUILT_IN or rest:
        policy = _built_in(kind, rest, options) if kind in _BUILT_IN else _by_path(spec, options)
        return note_recipe(policy, {"spec": spec, "model": None, "options": options})
    raise ConfigError(
        f"Unknown policy {spec!r}.{did_you_mean(kind, _BUILT_IN)} Give one of {', '.join(map(repr, _FORMS))}, "
        "or the dotted path 'my_package.module:MyPolicy'."
    )


def note_recipe(policy: Policy, recipe: Mapping[str, Any]) -> Policy:
    """Have a policy know, as ``made_by``, how it is made again; one that takes no attributes does not."""
    with contextlib.suppress(AttributeError):
        policy.made_by = recipe  # type: ignore[attr-defined]
    return policy


def _built_in(kind: str, rest: str, options: dict[str, Any]) -> Policy:
    target, wanted = _BUILT_IN[kind]
    if bool(rest) != bool(wanted):
        form = f"{kind}:{wanted}" if wanted else kind
        raise ConfigError(f"Policy {kind + ':' + rest!r} is not complete or says too much; write it as {form!r}.")
    make = _find(target)
    _check_options(kind, functools.partial(make, rest) if wanted else make, options)
    return make(rest, **options) if wanted else make(**options)


def _by_path(spec: str, options: dict[str, Any]) -> Policy:
    try:
        found = _find(spec)
    except (ImportError, AttributeError) as error:
        hint = did_you_mean(spec.partition(":")[0], _BUILT_IN)
        raise ConfigError(
            f"Policy {spec!r} could not be loaded ({error}).{hint} "
            "Give 'package.module:Name' of something importable from here."
        ) from error
    if inspect.isclass(found) or not hasattr(found, "act"):
        _check_options(spec, found, options)
        found = found(**options)
    elif options:
        raise ConfigError(f"Policy {spec!r} is a finished policy and takes no options; got {sorted(options)}.")
    if not isinstance(getattr(found, "name", None), str) or not callable(getattr(found, "act", None)):
        raise ConfigError(
            f"{spec!r} gave a {type(found).__name__}; a policy has name: str and act(turns) -> list[str]."
        )
    return found


def _find(path: str) -> Any:
    module, _, names = path.partition(":")
    found: Any = importlib.import_module(module)
    for name in names.split("."):
        found = getattr(found, name)
    return found


def _check_options(spec: str, make: Callable[..., Any], options: dict[str, Any]) -> None:
    if not callable(make):
        raise ConfigError(f"{spec!r} is a {type(make).__name__}; a policy has name: str and act(turns) -> list[str].")
    parameters = inspect.signature(make).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    keywords = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    keywords += [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    for name in options:
        check_name(name, keywords, f"option of policy {spec!r}")
