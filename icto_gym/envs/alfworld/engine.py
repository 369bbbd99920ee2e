"""The native engine: the ALFRED text domain as a transition system over facts.

`Game` plays on after its goal holds, as TextWorld does; ending an episode is the environment's business.
"""

from __future__ import annotations

from collections.abc import Callable

from icto_gym.envs.alfworld import texts
from icto_gym.envs.alfworld.world import State, World

_GO, _OPEN, _CLOSE = frozenset({"atlocation"}), frozenset({"opened"}), frozenset({"opened"})
_TAKE = frozenset({"inreceptacle", "holds", "holdsany", "objectatlocation"})
_NONE: frozenset[str] = frozenset()


class Game:
    """One game in play."""

    name = "native"
    __slots__ = ("_handlers", "listed_verb", "shown", "state", "valid", "won", "world")

    def __init__(self, world: World, action_grammar: str | None = None) -> None:
        """Args:
        world: the compiled game.
        action_grammar: ``"move"``, ``"put"`` or ``"both"``: how laying down is worded in commands and
            their answers; None: as the game's own grammar says.
        """
        self.world = world
        self.listed_verb = world.rules.put_verb if action_grammar in (None, "both") else str(action_grammar)
        """``"move"`` or ``"put"``: the wording of the admissible commands."""
        self.shown = -1
        """The receptacle whose content the last answer told, else -1."""
        self.state: State = world.start
        self.won: bool = world.goal.holds(world.start)
        """The goal holds now."""
        self.valid = True
        """The last command was admissible."""
        self._handlers: dict[str, Callable[[str], tuple[str, frozenset[str]] | None]] = {
            "go": self._go, "open": self._open, "close": self._close, "examine": self._examine,
            "take": self._take, "use": self._use, "heat": self._heat, "cool": self._cool, "clean": self._clean,
            "slice": self._slice,
        }  # fmt: skip
        if action_grammar == "both" or self.listed_verb == "move":
            self._handlers["move"] = self._move
        if action_grammar == "both" or self.listed_verb == "put":
            self._handlers["put"] = self._put

    @property
    def score(self) -> int:
        """1 while the goal holds, else 0."""
        return int(self.won)

    def reset(self) -> str:
        """Begin anew; gives TextWorld's whole introduction."""
        self.restore(self.world.start)
        return texts.introduction(self.world, self.state)

    def snapshot(self) -> State:
        """The state: immutable, cheap to keep."""
        return self.state

    def restore(self, state: State) -> None:
        """Go on from a snapshot of the same game."""
        self.state, self.valid, self.shown = state, True, -1
        self.won = self.world.goal.holds(state)

    def step(self, command: str) -> str:
        """Carry out a command and answer it. A command counts whole, but for white space around it."""
        command = command.strip()
        self.shown = -1
        answer = self._carry_out(command)
        self.valid = answer is not None
        if answer is None:
            return texts.NOTHING_HAPPENS
        text, changed = answer
        if not changed.isdisjoint(self.world.goal.predicates):
            self.won = self.world.goal.holds(self.state)
        return text

    def _carry_out(self, command: str) -> tuple[str, frozenset[str]] | None:
        if command == "look":
            return texts.look(self.world, self.state), _NONE
        if command == "inventory":
            return texts.inventory(self.world, self.state), _NONE
        if command == "help":
            return (texts.help_text(self.listed_verb), _NONE) if self.world.rules.has_help else None
        verb, _, rest = command.partition(" ")
        handler = self._handlers.get(verb)
        return handler(rest) if handler else None

    # ---- what can be done ---------------------------------------------------------------------
    def admissible(self, state: State | None = None) -> list[str]:
        """The commands that would do something now, in TextWorld's order (sorted, each once).

        Args:
            state: a snapshot to ask about instead.
        """
        state = self.state if state is None else state
        commands = list(self._standing(state.location))  # sorted already: sorting what is added costs little
        for receptacle in self.world.at.get(state.location, ()):
            self._at_receptacle(receptacle, state, commands)
        for thing in state.holding:
            self._with_held(thing, state, commands)
        commands.sort()
        return commands

    def _standing(self, location: int) -> list[str]:
        known = self.world.standing_commands
        if location not in known:
            world = self.world
            go = [f"go to {world.receptacles[number]}" for number, place in enumerate(world.place_of)
                  if place not in (-1, location)]  # fmt: skip
            here = [f"examine {world.receptacles[number]}" for number in world.at.get(location, ())]
            known[location] = sorted([*go, *here, "inventory", "look", *(["help"] if world.rules.has_help else [])])
        return known[location]

    def _at_receptacle(self, receptacle: int, state: State, commands: list[str]) -> None:
        world = self.world
        name = world.receptacles[receptacle]
        free = not state.hands_full
        if receptacle in world.openable:
            shut = receptacle not in state.opened
            commands.append(f"open {name}" if shut else f"close {name}")
            free = free and not shut
        for thing in state.inside[receptacle]:
            if free and thing in world.pickupable:
                commands.append(f"take {world.objects[thing]} from {name}")
            if thing in world.toggleable:
                use = f"use {world.objects[thing]}"
                if use not in commands:  # the only command that two receptacles can offer
                    commands.append(use)

    def _with_held(self, thing: int, state: State, commands: list[str]) -> None:
        world = self.world
        name, fits = world.objects[thing], world.fits[thing]
        put, joint = ("move", "to") if self.listed_verb == "move" else ("put", "in/on")
        commands.append(f"examine {name}")
        for receptacle in world.at.get(state.location, ()):
            where = world.receptacles[receptacle]
            if receptacle in fits and (receptacle not in world.openable or receptacle in state.opened):
                commands.append(f"{put} {name} {joint} {where}")
            if receptacle in world.heaters and thing in world.heatable:
                commands.append(f"heat {name} with {where}")
            if receptacle in world.coolers and thing in world.coolable:
                commands.append(f"cool {name} with {where}")
            if receptacle in world.cleaners and thing in world.cleanable:
                commands.append(f"clean {name} with {where}")
        if thing in world.knives:
            commands += [
                f"slice {world.objects[other]} with {name}"
                for other, location in state.lying
                if location == state.location and other in world.sliceable
            ]

    # ---- what commands do: None if not possible, else the answer and what may have changed -----
    def _go(self, rest: str) -> tuple[str, frozenset[str]] | None:
        if not rest.startswith("to "):
            return None
        world = self.world
        receptacle = world.receptacle_numbers.get(rest[3:], -1)
        place = world.place_of[receptacle] if receptacle >= 0 else -1
        if place < 0 or place == self.state.location:
            return None
        self.state = self.state._replace(location=place)
        where = world.locations[place] if world.rules.names_locations else world.receptacles[receptacle]
        return f"You arrive at {where}. {self._show(receptacle)}", _GO

    def _open(self, rest: str) -> tuple[str, frozenset[str]] | None:
        receptacle = self._here(rest)
        if receptacle not in self.world.openable or receptacle in self.state.opened:
            return None
        self.state = self.state._replace(opened=self.state.opened | {receptacle})
        return f"You open the {rest}. {self._show(receptacle)}", _OPEN

    def _close(self, rest: str) -> tuple[str, frozenset[str]] | None:
        receptacle = self._here(rest)
        if receptacle not in self.world.openable or receptacle not in self.state.opened:
            return None
        self.state = self.state._replace(opened=self.state.opened - {receptacle})
        return f"You close the {rest}.", _CLOSE

    def _examine(self, rest: str) -> tuple[str, frozenset[str]] | None:
        receptacle = self._here(rest)
        if receptacle >= 0:
            return self._show(receptacle), _NONE
        thing = self._held(rest)
        return (texts.thing(self.world, self.state, thing), _NONE) if thing >= 0 else None

    def _take(self, rest: str) -> tuple[str, frozenset[str]] | None:
        world, state = self.world, self.state
        name, _, where = rest.partition(" from ")
        thing, receptacle = world.object_numbers.get(name, -1), self._here(where)
        if thing not in world.pickupable or state.hands_full or receptacle < 0:
            return None
        if thing not in state.inside[receptacle] or not self._is_accessible(receptacle):
            return None
        left = tuple(other for other in state.inside[receptacle] if other != thing)
        self.state = state._replace(
            holding=tuple(sorted({*state.holding, thing})), hands_full=True,
            inside=_replaced(state.inside, receptacle, left),
            lying=state.lying - {(thing, state.location)}, taken=state.taken | {(thing, receptacle)},
        )  # fmt: skip
        return f"You pick up the {name} from the {where}.", _TAKE

    def _move(self, rest: str) -> tuple[str, frozenset[str]] | None:
        name, _, where = rest.partition(" to ")
        return (f"You move the {name} to the {where}.", _TAKE) if self._lay_down(name, where) else None

    def _put(self, rest: str) -> tuple[str, frozenset[str]] | None:
        name, _, where = rest.partition(" in/on ")
        return (f"You put the {name} in/on the {where}.", _TAKE) if self._lay_down(name, where) else None

    def _lay_down(self, name: str, where: str) -> bool:
        world, state = self.world, self.state
        thing, receptacle = self._held(name), self._here(where)
        if thing < 0 or receptacle not in world.fits[thing] or not self._is_accessible(receptacle):
            return False
        self.state = state._replace(
            holding=tuple(other for other in state.holding if other != thing), hands_full=False,
            inside=_replaced(state.inside, receptacle, tuple(sorted({*state.inside[receptacle], thing}))),
            lying=state.lying | {(thing, state.location)}, taken=state.taken - {(thing, receptacle)},
        )  # fmt: skip
        return True

    def _use(self, rest: str) -> tuple[str, frozenset[str]] | None:
        world, state = self.world, self.state
        thing = world.object_numbers.get(rest, -1)
        if thing not in world.toggleable:
            return None
        if not any(thing in state.inside[receptacle] for receptacle in world.at.get(state.location, ())):
            return None
        self.state = state._replace(toggled=state.toggled | {thing}, on=state.on ^ {thing})
        return f"You turn on the {rest}.", frozenset({"istoggled", "ison"})

    def _heat(self, rest: str) -> tuple[str, frozenset[str]] | None:
        thing, text = self._treated(rest, "heat", self.world.heatable, self.world.heaters)
        if thing < 0:
            return None
        self.state = self.state._replace(hot=self.state.hot | {thing}, cool=self.state.cool - {thing})
        return text, frozenset({"ishot", "iscool"})

    def _cool(self, rest: str) -> tuple[str, frozenset[str]] | None:
        thing, text = self._treated(rest, "cool", self.world.coolable, self.world.coolers)
        if thing < 0:
            return None
        self.state = self.state._replace(cool=self.state.cool | {thing}, hot=self.state.hot - {thing})
        return text, frozenset({"ishot", "iscool"})

    def _clean(self, rest: str) -> tuple[str, frozenset[str]] | None:
        thing, text = self._treated(rest, "clean", self.world.cleanable, self.world.cleaners)
        if thing < 0:
            return None
        self.state = self.state._replace(clean=self.state.clean | {thing})
        return text, frozenset({"isclean"})

    def _treated(self, rest: str, verb: str, able: frozenset[int], tools: frozenset[int]) -> tuple[int, str]:
        name, _, where = rest.partition(" with ")
        thing, receptacle = self._held(name), self._here(where)
        if thing not in able or receptacle not in tools:
            return -1, ""
        return thing, f"You {verb} the {name} using the {where}."

    def _slice(self, rest: str) -> tuple[str, frozenset[str]] | None:
        world, state = self.world, self.state
        name, _, tool = rest.partition(" with ")
        thing, knife = world.object_numbers.get(name, -1), self._held(tool)
        if thing not in world.sliceable or knife not in world.knives or (thing, state.location) not in state.lying:
            return None
        self.state = state._replace(sliced=state.sliced | {thing})
        return f"You sliced the {name} with the {tool}.", frozenset({"issliced"})

    # ---- small questions ---------------------------------------------------------------------
    def _show(self, receptacle: int) -> str:
        if self._is_accessible(receptacle):
            self.shown = receptacle
        return texts.receptacle(self.world, self.state, receptacle)

    def _here(self, name: str) -> int:
        """The number of a receptacle at the agent's location, else -1."""
        receptacle = self.world.receptacle_numbers.get(name, -1)
        return receptacle if receptacle >= 0 and self.world.place_of[receptacle] == self.state.location else -1

    def _held(self, name: str) -> int:
        """The number of an object in hand, else -1."""
        thing = self.world.object_numbers.get(name, -1)
        return thing if thing in self.state.holding else -1

    def _is_accessible(self, receptacle: int) -> bool:
        return receptacle not in self.world.openable or receptacle in self.state.opened


def _replaced(contents: tuple[tuple[int, ...], ...], number: int, new: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    return (*contents[:number], new, *contents[number + 1 :])
