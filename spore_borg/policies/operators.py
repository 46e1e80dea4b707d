"""What a proposal is, and the operators that make one from what is known: mutation, crossover, random, replicate.

The space of recipes is passed in (``Space``), so that nothing here depends on a task. Chance is passed in too.
An operator returns None when it has nothing to offer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, floor, isqrt, log10
from typing import Any, Protocol, TypeVar

from spore_borg.records.cid import Cid
from spore_borg.views.frontier import show as decimal

Value = int | bool | str
Recipe = dict[str, Value]
T = TypeVar("T")

WHY_CHARACTERS_MAX = 280
MUTATED_FIELDS_MAX = 3
REDRAWN_SHARE = 1 / 3  # of the fields, by ``redraw``
LOG_STEP_SD = 0.5  # of the natural logarithm: a factor of 1.6 either way
LINEAR_STEP_SD = 0.15  # of the field's whole range
FIXED_DIGITS = 3  # significant digits of a fixed-point value: finer steps are below any noise
REPLICATES_MAX = 3  # further seeds after which a result must have become significant, if its mean stayed


class Rng(Protocol):
    """The part of ``random.Random`` that is used here."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...

    def randrange(self, stop: int, /) -> int:
        """An integer in [0, stop)."""
        ...

    def gauss(self, mu: float, sigma: float) -> float:
        """A normal number."""
        ...

    def betavariate(self, alpha: float, beta: float) -> float:
        """A Beta-distributed number in [0, 1]."""
        ...

    def getrandbits(self, k: int, /) -> int:
        """An integer of k bits."""
        ...


class FieldSpec(Protocol):
    """One knob: see ``workspace.recipe.Field``."""

    @property
    def kind(self) -> str:
        """int, choice, bool or fixed."""
        ...

    @property
    def low(self) -> int:
        """Lowest value of an int or fixed."""
        ...

    @property
    def high(self) -> int:
        """Highest value of an int or fixed."""
        ...

    @property
    def choices(self) -> tuple[int | str, ...]:
        """Values of a choice."""
        ...

    @property
    def log(self) -> bool:
        """Whether ratios are the natural steps."""
        ...


@dataclass(frozen=True, slots=True)
class Space:
    """The recipes that may be proposed.

    Attributes:
        fields: name → spec. validate: returns the recipe or raises ValueError. digest: 32 bytes of a recipe.
        show: a value as a person writes it.
        needs: field → (other field, values of it under which the field has an effect at all).
    """

    fields: Mapping[str, FieldSpec]
    validate: Callable[[Recipe], Recipe]
    digest: Callable[[Recipe], bytes]
    show: Callable[[str, Value], str]
    needs: Mapping[str, tuple[str, tuple[Value, ...]]] = field(default_factory=dict)

    def active(self, recipe: Recipe, name: str) -> bool:
        """Whether the field has an effect in this recipe."""
        if name not in self.needs:
            return True
        other, values = self.needs[name]
        return recipe[other] in values

    def changes(self, before: Recipe, after: Recipe) -> list[str]:
        """Names of the fields that differ."""
        return [name for name in self.fields if before[name] != after[name]]

    def describe(self, before: Recipe, after: Recipe) -> str:
        """The difference in one line: ``lr 0.003 → 0.006, width 64 → 80``."""
        return ", ".join(
            f"{name} {self.show(name, before[name])} → {self.show(name, after[name])}"
            for name in self.changes(before, after)
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """One experiment of the task and hardware class, whoever ran it.

    ``metric`` in the task's unit, smaller is better, None for a crash; ``gain`` against its base, positive is better;
    ``accepted``: the others' verdict.
    """

    cid: Cid
    recipe: Recipe
    metric: int | None
    author: bytes
    accepted: bool
    operator: str
    bases: tuple[Cid, ...] = ()
    gain: int | None = None
    epoch: int = 0

    @property
    def base(self) -> Cid | None:
        """The experiment that the gain is measured against: the first base."""
        return self.bases[0] if self.bases else None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A recipe to run: from which experiments it starts (0 to 2), which operator made it, and why, in one line."""

    recipe: Recipe
    bases: tuple[Cid, ...]
    operator: str
    why: str


def one_line(text: str) -> str:
    """The text on one line, cut to what a record may hold."""
    text = " ".join(text.split())
    return text if len(text) <= WHY_CHARACTERS_MAX else text[: WHY_CHARACTERS_MAX - 1] + "…"


def pick(rng: Rng, items: Sequence[T]) -> T:
    """One of the items, all equally likely."""
    return items[rng.randrange(len(items))]


def taste(key: bytes, name: str) -> float:
    """How much the node of this key likes a field or an idea, in [0.25, 1.25): makes nodes search differently."""
    drawn = hashlib.sha256(b"spore-borg/taste\0" + key + b"\0" + name.encode()).digest()
    return 0.25 + int.from_bytes(drawn[:4], "big") / (1 << 32)


def settle(space: Space, base: Recipe, wanted: Recipe) -> Recipe | None:
    """The wanted recipe, made runnable and without idle changes; None if nothing of it is left.

    A change without effect is taken back. Where a rule that ties fields together is broken, changes are taken back:
    one, if one is enough, else one after another.
    """
    recipe = dict(wanted)
    for name in space.changes(base, recipe):
        if not space.active(recipe, name):
            recipe[name] = base[name]
    changed = space.changes(base, recipe)
    found = _valid(space, recipe)
    for name in changed if found is None else ():
        found = _valid(space, {**recipe, name: base[name]})
        if found is not None:
            break
    for name in changed if found is None else ():
        recipe[name] = base[name]
        found = _valid(space, recipe)
        if found is not None:
            break
    return found if found is not None and found != base else None


def _valid(space: Space, recipe: Recipe) -> Recipe | None:
    try:
        return space.validate(recipe)
    except ValueError:
        return None


def rounded(spec: FieldSpec, value: float) -> int:
    """Within bounds; a fixed-point value or a ratio to a few significant digits, so that recipes can be read."""
    if (spec.kind == "fixed" or spec.log) and value:
        unit = 10 ** max(0, floor(log10(abs(value))) + 1 - FIXED_DIGITS)
        value = round(value / unit) * unit
    return min(spec.high, max(spec.low, round(value)))


def draw(spec: FieldSpec, rng: Rng) -> Value:
    """Any value of the field, ratios evenly where these are natural."""
    if spec.kind == "bool":
        return rng.random() < 0.5
    if spec.kind == "choice":
        return pick(rng, spec.choices)
    if spec.log and spec.low > 0:
        return rounded(spec, spec.low * (spec.high / spec.low) ** rng.random())
    return rounded(spec, spec.low + (spec.high - spec.low) * rng.random())


def nudge(spec: FieldSpec, value: Value, rng: Rng) -> Value:
    """Another value of the field, mostly near the old one."""
    if spec.kind == "bool":
        return not value
    if spec.kind == "choice":
        return _nudge_choice(spec, value, rng)
    assert isinstance(value, int), "int and fixed fields hold integers"
    for _ in range(8):
        if spec.log:
            moved = rounded(spec, value * exp(rng.gauss(0.0, LOG_STEP_SD)))
        elif spec.kind == "int":
            moved = rounded(spec, value + (1 if rng.random() < 0.5 else -1))
        else:
            moved = rounded(spec, value + rng.gauss(0.0, LINEAR_STEP_SD) * (spec.high - spec.low))
        if moved != value:
            return moved
    return draw(spec, rng)


def _nudge_choice(spec: FieldSpec, value: Value, rng: Rng) -> Value:
    others = [choice for choice in spec.choices if choice != value]
    if not others:
        return value
    if isinstance(value, int) and rng.random() < 2 / 3:  # sizes: a neighbour is the likelier improvement
        at = spec.choices.index(value)
        near = [spec.choices[i] for i in (at - 1, at + 1) if 0 <= i < len(spec.choices)]
        return pick(rng, near)
    return pick(rng, others)


def mutate(space: Space, base: Trial, key: bytes, rng: Rng) -> Proposal | None:
    """One to three fields of the base, moved."""
    names = [name for name in space.fields if space.active(base.recipe, name)]
    wanted = dict(base.recipe)
    for _ in range(1 + rng.randrange(MUTATED_FIELDS_MAX)):
        name = _weighted(names, [taste(key, name) for name in names], rng)
        wanted[name] = nudge(space.fields[name], wanted[name], rng)
    return _proposal(space, base, wanted, (base.cid,), "mutate", "a small step from the best")


def _weighted(names: Sequence[str], weights: Sequence[float], rng: Rng) -> str:
    left = rng.random() * sum(weights)
    for name, weight in zip(names, weights, strict=True):
        left -= weight
        if left < 0:
            return name
    return names[-1]


def redraw(space: Space, base: Trial, key: bytes, rng: Rng) -> Proposal | None:
    """A third of the fields drawn anew from their whole range."""
    wanted = dict(base.recipe)
    for name, spec in space.fields.items():
        if rng.random() < REDRAWN_SHARE * taste(key, name) / 0.75:
            wanted[name] = draw(spec, rng)
    return _proposal(space, base, wanted, (base.cid,), "random", "somewhere else altogether")


def crossover(space: Space, base: Trial, trials: Sequence[Trial], rng: Rng) -> Proposal | None:
    """What another accepted result changed, on the best one; or half of what distinguishes the two.

    The better of three accepted results is taken as the other parent.
    """
    others = sorted(
        (t for t in trials if t.accepted and t.metric is not None and space.changes(base.recipe, t.recipe)),
        key=lambda t: t.cid,
    )
    if not others:
        return None
    other = min((pick(rng, others) for _ in range(3)), key=lambda t: (t.metric or 0, t.cid))
    by_cid = {trial.cid: trial for trial in trials}
    origin = by_cid.get(other.base) if other.base is not None else None
    if origin is not None and rng.random() < 0.5:
        names = space.changes(origin.recipe, other.recipe)
    else:
        names = [name for name in space.changes(base.recipe, other.recipe) if rng.random() < 0.5]
    wanted = {**base.recipe, **{name: other.recipe[name] for name in names}}
    text = f"the best, with what {str(other.cid)[-8:]} does differently"
    return _proposal(space, base, wanted, (base.cid, other.cid), "crossover", text)


def _proposal(
    space: Space, base: Trial, wanted: Recipe, bases: tuple[Cid, ...], operator: str, text: str
) -> Proposal | None:
    recipe = settle(space, base.recipe, wanted)
    if recipe is None:
        return None
    return Proposal(recipe, bases, operator, one_line(f"{text}: {space.describe(base.recipe, recipe)}"))


def proposal_on(space: Space, base: Trial, wanted: Recipe, operator: str, text: str) -> Proposal | None:
    """A proposal on one base, made runnable; None if nothing of the change is left. See ``settle``."""
    return _proposal(space, base, wanted, (base.cid,), operator, text)


def noise_threshold(sigma: int, gain_min: int, runs: int, rivals: int) -> int:
    """The gain that counts: ``max(gain_min, 3 sigma sqrt(1/runs + 1/rivals))``, rounded up; as the frontier has it."""
    square = -(-9 * sigma * sigma * (runs + rivals) // (runs * rivals))
    root = isqrt(square)
    return max(gain_min, root + (root * root < square))


def replicate(
    space: Space, best: Trial, trials: Sequence[Trial], sigma: int, gain_min: int
) -> Proposal | None:
    """The most promising recipe whose gain is still within the noise, for a further seed.

    Only where one to three further seeds with the same mean would make it significant, and none is on its way.
    """
    runs: dict[bytes, list[Trial]] = {}
    for trial in trials:
        if trial.metric is not None:
            runs.setdefault(space.digest(trial.recipe), []).append(trial)
    top = space.digest(best.recipe)
    rivals = [t.metric for t in runs.get(top, [best]) if t.accepted and t.metric is not None]
    if not rivals:
        return None
    found: list[tuple[int, Cid, Trial, int, int]] = []
    for digest, same in runs.items():
        metrics = [t.metric for t in same if t.accepted and t.metric is not None]
        if digest == top or not metrics or len(metrics) < len(same):
            continue  # a run without a verdict: wait for it before paying for another
        gain = sum(rivals) // len(rivals) - sum(metrics) // len(metrics)
        now = noise_threshold(sigma, gain_min, len(metrics), len(rivals))
        later = noise_threshold(sigma, gain_min, len(metrics) + REPLICATES_MAX, len(rivals))
        if later < gain <= now:
            first = min(same, key=lambda t: (t.epoch, t.cid))
            found.append((-gain, first.cid, first, len(metrics), now))
    if not found:
        return None
    loss, _, trial, count, now = min(found, key=lambda item: item[:2])
    runs_said = "1 run" if count == 1 else f"{count} runs"
    gained, limit = decimal(-loss), decimal(now)
    why = f"one more seed of {str(trial.cid)[-8:]}: its gain of {gained} over {runs_said} is within the noise, {limit}"
    bases = () if trial.base is None else (trial.base,)
    return Proposal(dict(trial.recipe), bases, "replicate", one_line(why))


def simplest(space: Space, baseline: Recipe, trials: Sequence[Trial], noise: int) -> Trial | None:
    """Of the accepted results within ``noise`` of the best metric, the one with the fewest changes to the baseline.

    Equal result with less is an improvement. Ties go to the better metric, then to the smaller cid.
    """
    scored = [(t.metric, t) for t in trials if t.accepted and t.metric is not None]
    if not scored:
        return None
    limit = min(metric for metric, _ in scored) + noise
    equal = [item for item in scored if item[0] <= limit]
    return min(equal, key=lambda item: (len(space.changes(baseline, item[1].recipe)), item[0], item[1].cid))[
        1
    ]


def space_of(module: Any, needs: Mapping[str, tuple[str, tuple[Value, ...]]], **limits: int) -> Space:
    """The space of a recipe module (``FIELDS``, ``validate``, ``digest``, ``show``), as ``workspace.recipe`` is one.

    Args:
        module: passed in, because policies import no workspace.
        needs: see ``Space``; ``deck.NEEDS`` for the default tasks.
        limits: keyword arguments for ``validate``, the task's ``seq_max`` say.
    """
    return Space(
        fields=module.FIELDS,
        validate=lambda recipe: dict(module.validate(recipe, **limits)),
        digest=module.digest,
        show=module.show,
        needs=needs,
    )
