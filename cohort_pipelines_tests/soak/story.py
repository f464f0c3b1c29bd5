"""What random sequences are made of: steps, on the terms of one target. A story's text is the code that makes it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from random import Random
from typing import Any, Literal, get_args

from cohort_pipelines_tests.soak.receiver import FAULTS

IDS = 10
STRANGERS = 3
"""Further ids, which are in no audience: only somebody's hand ever puts them into the target."""

Numbers = frozenset[int]
NOBODY, EVERYBODY = Numbers(), Numbers(range(IDS))
What = Literal["window", "again", "backfill", "restore", "restore and pause", "pause", "resume", "approve"]
Amid = Literal["paused", "out of time", "overtaken"]


class _Told:
    """Says of itself only what is not as it is by default, so that a story is as short as it can be."""

    def __repr__(self) -> str:
        said = [(each.name, getattr(self, each.name), _usual(each)) for each in fields(self)]  # type: ignore[arg-type]
        return (
            f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value, usual in said if value != usual)})"
        )


def _usual(each: "Field[Any]") -> object:
    return each.default_factory() if callable(each.default_factory) else each.default


@dataclass(frozen=True, repr=False)
class Step(_Told):
    """Something is asked for, and something befalls it; then a while goes by.

    Attributes:
        what: a new window, the last one again, an older one, a restore, or a word to the sync. What is approved is
            then delivered.
        audience: numbers of the users in a new window.
        back: how many windows ago, for what is older.
        gated: behind the default gates, which hold a halved audience.
        dies_at: the commit, file or request at which the process is killed.
        faults: what happens to requests, by their number in this step.
        rejected: users whose row the partner refuses; ``poison``: users for whose sake it refuses a whole request.
        amid: what happens at request number ``amid_request``: somebody pauses the sync; the deadline passes; or the
            process sleeps beyond its lease, while another one delivers the opposite audience, and wakes again.
        late_lands: late requests take effect at the end of the step, else when they must have.
        edited: users, and others, whom somebody adds or removes at the partner by hand, at the end of the step.
        deleted: somebody deletes the target there, at the end of the step.
        minutes: how long until the next step.
    """

    what: What = "window"
    audience: Numbers = NOBODY
    back: int = 1
    gated: bool = False
    dies_at: int | None = None
    faults: dict[int, str] = field(default_factory=dict)
    rejected: Numbers = NOBODY
    poison: Numbers = NOBODY
    amid: Amid | None = None
    amid_request: int = 1
    late_lands: bool = False
    edited: Numbers = NOBODY
    deleted: bool = False
    minutes: int = 17


@dataclass(frozen=True, repr=False)
class Story(_Told):
    """Steps, and what is true of the target.

    Attributes:
        steps: what happens, in order.
        judges_rows: each id is a request of its own to the partner.
        rejection_tolerance: additions that may be refused in a delivery that counts as delivered.
        reconciles: what was edited by hand is undone.
        there: users, and others, whom the target holds from the start, and whom nobody of us has sent.
    """

    steps: tuple[Step, ...] = ()
    judges_rows: bool = False
    rejection_tolerance: int = 0
    reconciles: bool = False
    there: Numbers = NOBODY


_OFTEN, _SELDOM = 0.8, 0.4
_WHAT: dict[What, int] = {
    "window": 16,
    "again": 2,
    "backfill": 2,
    "restore": 3,
    "restore and pause": 1,
    "pause": 1,
    "resume": 2,
    "approve": 3,
}


def _few(chance: Random, ids: int = IDS) -> Numbers:
    return Numbers(chance.sample(range(ids), chance.randint(1, 2)))


_MISHAPS: dict[str, Callable[[Random], object]] = {
    "gated": lambda _: True,
    "dies_at": lambda chance: chance.randint(1, 40),
    "faults": lambda chance: {chance.randint(1, 6): chance.choice(sorted(FAULTS)) for _ in range(chance.randint(1, 2))},
    "rejected": _few,
    "poison": lambda chance: _few(chance) if chance.random() < _OFTEN else EVERYBODY,
    "amid": lambda chance: chance.choice(get_args(Amid)),
    "edited": lambda chance: _few(chance, IDS + STRANGERS),
    "deleted": lambda _: True,
}


def story_of(seed: int) -> Story:
    """Return the story that grows from ``seed``, always the same; only half of all mishaps can befall it.

    With all of them in every story hardly a delivery would come to its end, and little could go wrong afterwards.
    """
    chance = Random(seed)  # noqa: S311  seeded on purpose
    possible = [name for name in _MISHAPS if chance.random() < 1 / 2]
    audience, steps = _audience(chance), []
    for _ in range(chance.randint(3, 8)):
        audience = _audience(chance) if chance.random() < 1 / 2 else audience ^ _few(chance)
        steps.append(_step(chance, audience, possible))
    return Story(
        tuple(steps),
        judges_rows=chance.random() < 1 / 2,
        rejection_tolerance=chance.choice([0, 0, 1, 2]),
        reconciles=chance.random() < 1 / 2,
        there=Numbers(chance.sample(range(IDS + STRANGERS), chance.randint(0, IDS))),
    )


def _audience(chance: Random) -> Numbers:
    return Numbers(chance.sample(range(IDS), chance.randint(0, IDS)))


def _step(chance: Random, audience: Numbers, possible: Sequence[str]) -> Step:
    mishaps: dict[str, Any] = {name: _MISHAPS[name](chance) for name in possible if chance.random() < _SELDOM}
    return Step(
        what=chance.choices(list(_WHAT), list(_WHAT.values()))[0],
        audience=audience,
        back=chance.randint(1, 4),
        amid_request=chance.randint(1, 4),
        late_lands=chance.random() < 1 / 2,
        minutes=chance.choice([2, 6, 11, 17]),  # longer than a lease; shorter and longer than what settles
        **mishaps,
    )


def shrunk(story: Story, fails: Callable[[Story], bool]) -> Story:
    """Return a story that still fails, and would not if any one thing less happened in it."""
    smaller = next((each for each in _smaller(story) if fails(each)), None)
    return story if smaller is None else shrunk(smaller, fails)


def _smaller(story: Story) -> Iterator[Story]:
    for place, step in enumerate(story.steps):
        before, after = story.steps[:place], story.steps[place + 1 :]
        if len(story.steps) > 1:
            yield replace(story, steps=(*before, *after))
        yield from (replace(story, steps=(*before, each, *after)) for each in _calmer(step))
    yield from _calmer(story)


def _calmer(said: Any) -> Iterator[Any]:  # noqa: ANN401  a step or a story
    for each in fields(said):
        usual = _usual(each)
        if each.name != "steps" and getattr(said, each.name) != usual:
            yield replace(said, **{each.name: usual})
        if isinstance(usual, frozenset):
            yield from (
                replace(said, **{each.name: getattr(said, each.name) - {one}}) for one in getattr(said, each.name)
            )
