"""A deck of named ideas from the literature on small language models, each a small change to the best recipe.

A card is played on the recipe at the frontier; when the frontier moves, the cards may be played again on the new one.
Each node has the deck in an order of its own, made from its key, and plays what failed least often first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spore_borg.policies.operators import Proposal, Recipe, Space, Trial, Value, proposal_on, taste

PREFIX = "deck:"  # of the operator's name in a record; the card's name follows

# Fields that do nothing unless another has one of these values
NEEDS: dict[str, tuple[str, tuple[Value, ...]]] = {
    "rope_base": ("pos", ("rope",)),
    "head_lr_mult": ("tie", (False,)),
    "muon_lr": ("opt", ("muon",)),
    "muon_momentum": ("opt", ("muon",)),
}


@dataclass(frozen=True, slots=True)
class Times:
    """A change of an int or fixed field by a ratio ``up / down``."""

    up: int
    down: int = 1


@dataclass(frozen=True, slots=True)
class Next:
    """A change by steps: along the choices of a choice, or added to an int."""

    steps: int


@dataclass(frozen=True, slots=True)
class Card:
    """An idea: its name, why it may help, and what it changes (a value, a ratio, or steps)."""

    name: str
    why: str
    changes: dict[str, Value | Times | Next]


CARDS: tuple[Card, ...] = (
    Card("muon", "orthogonalised updates learn more from each step", {"opt": "muon", "muon_lr": 20_000}),
    Card("muon-faster", "few steps want large ones", {"opt": "muon", "muon_lr": Times(2)}),
    Card("muon-slower", "large steps may overshoot", {"opt": "muon", "muon_lr": Times(1, 2)}),
    Card("muon-momentum", "less momentum suits short runs", {"opt": "muon", "muon_momentum": 900_000}),
    Card("lion", "the sign of the update, with smaller steps", {"opt": "lion", "lr": Times(1, 3), "wd": Times(3)}),
    Card("adamw", "back to the plain optimizer", {"opt": "adamw"}),
    Card("lr-up", "the budget is short, so learn faster", {"lr": Times(2)}),
    Card("lr-down", "smaller steps may end lower", {"lr": Times(1, 2)}),
    Card("emb-lr-3", "rare tokens need larger steps than matrices", {"emb_lr_mult": Times(3)}),
    Card("emb-lr-third", "the embedding may move too fast", {"emb_lr_mult": Times(1, 3)}),
    Card("head-lr-half", "a slower head is steadier", {"tie": False, "head_lr_mult": Times(1, 2)}),
    Card("head-lr-2", "a faster head fits frequent tokens sooner", {"tie": False, "head_lr_mult": Times(2)}),
    Card("beta2-98", "a longer memory of the gradient's size", {"beta2": 980_000}),
    Card("beta2-90", "a shorter memory follows a short run", {"beta2": 900_000}),
    Card("beta1-80", "less momentum of the mean", {"beta1": 800_000}),
    Card("no-decay", "one pass over the data needs no decay", {"wd": 0}),
    Card("more-decay", "decay keeps the weights in range", {"wd": 200_000}),
    Card("clip-off", "normalised updates need no clipping", {"clip": 0}),
    Card("clip-half", "tighter clipping tames spikes", {"clip": 500_000}),
    Card("no-warmup", "short runs cannot afford a slow start", {"warmup": 0}),
    Card("long-warmdown", "most of the gain comes while the rate falls", {"warmdown": 800_000}),
    Card("short-warmdown", "stay at full speed for longer", {"warmdown": 300_000}),
    Card("to-zero", "end at a rate of zero", {"final_lr": 0}),
    Card("cosine", "a smooth fall of the rate", {"sched": "cosine"}),
    Card("batch-half", "twice the steps for the same budget", {"batch": Times(1, 2)}),
    Card("batch-double", "quieter gradients", {"batch": Times(2)}),
    Card("seq-short", "shorter sequences cost less", {"seq": Next(-1), "batch": Times(2)}),
    Card("seq-long", "longer sequences give more context", {"seq": Next(1), "batch": Times(1, 2)}),
    Card("wider", "more channels", {"width": Next(1)}),
    Card("narrower", "a smaller model takes more steps", {"width": Next(-1)}),
    Card("deeper", "one more block", {"depth": Next(1)}),
    Card("shallower", "one block less, more steps", {"depth": Next(-1)}),
    Card("more-heads", "more, smaller heads", {"heads": Next(1)}),
    Card("one-head", "attention in one piece", {"heads": 1}),
    Card("mlp-3", "a leaner MLP takes more steps", {"mlp_ratio": 3_000_000}),
    Card("mlp-6", "a wider MLP", {"mlp_ratio": 6_000_000}),
    Card("swiglu", "a gated MLP at equal cost", {"act": "swiglu", "mlp_ratio": 2_667_000}),
    Card("relu2", "squared ReLU is sparse and cheap", {"act": "relu2"}),
    Card("emb-norm", "norm after the embedding", {"emb_norm": True}),
    Card("value-embed", "token identity straight into the values", {"value_embed": True}),
    Card("x0-skip", "every block sees the embedding again", {"x0_skip": True}),
    Card("zero-init", "blocks start as the identity", {"zero_init_proj": True}),
    Card("untie", "input and output want different vectors", {"tie": False}),
    Card("tie", "half the parameters in the vocabulary", {"tie": True}),
    Card("qk-norm-off", "small models may not need it", {"qk_norm": False}),
    Card("rope-short", "short sequences need short wavelengths", {"pos": "rope", "rope_base": 200}),
    Card("softcap-off", "unbounded logits", {"softcap": 0}),
    Card("softcap-30", "a looser bound on the logits", {"softcap": 30_000_000}),
    Card("init-half", "start closer to zero", {"init_std": Times(1, 2)}),
    Card("init-double", "start further from zero", {"init_std": Times(2)}),
    Card("emb-init-third", "start from a quiet embedding", {"emb_init_std": Times(1, 3)}),
    Card("zloss", "keep the partition function in range", {"zloss": 100}),
)  # fmt: skip


LATTICE_CARDS: tuple[Card, ...] = (
    Card("smooth-less", "the more was read the less need be guessed", {"smoothing": Times(1, 2)}),
    Card("smooth-more", "rare first characters have too few counts", {"smoothing": Times(2)}),
    Card("exclude", "what was seen once was mostly luck", {"exclusion": 192}),
    Card("exclude-more", "a larger discount for what others exclude", {"exclusion": Times(5, 4)}),
    Card("kinds", "who follows many kinds of neighbours follows new ones", {"backoff": "kinds"}),
    Card("escape-more", "most characters are known by now", {"escape": Times(2)}),
    Card("escape-less", "new characters still come", {"escape": Times(1, 2)}),
    Card("income", "slices that help on other text count more", {"weights": "income"}),
    Card("read-more", "more slices in one run", {"slices": Times(2)}),
)


def apply(space: Space, recipe: Recipe, card: Card) -> Recipe:
    """The recipe with the card's changes, not yet validated; changes of fields that the space lacks are left out."""
    out = dict(recipe)
    for name, change in card.changes.items():
        spec = space.fields.get(name)
        if spec is None:
            continue
        value = out[name]
        if isinstance(change, Times):
            assert isinstance(value, int), "ratios are for numbers"
            out[name] = min(spec.high, max(spec.low, value * change.up // change.down))
        elif isinstance(change, Next) and spec.kind == "choice":
            at = spec.choices.index(value) + change.steps
            out[name] = spec.choices[min(len(spec.choices) - 1, max(0, at))]
        elif isinstance(change, Next):
            assert isinstance(value, int), "steps are for numbers and choices"
            out[name] = min(spec.high, max(spec.low, value + change.steps))
        else:
            out[name] = change
    return out


def play(
    space: Space, base: Trial, trials: Sequence[Trial], taken: frozenset[bytes], key: bytes
) -> Proposal | None:
    """The next card of this node on the base.

    Args:
        space: of recipes. base: what the card is played on. trials: for how often each card failed before.
        taken: digests of recipes that are not to be proposed. key: the node's, for its order.
    """
    failed: dict[str, int] = {}
    for trial in trials:
        if trial.operator.startswith(PREFIX) and not (trial.accepted and (trial.gain or 0) > 0):
            name = trial.operator.removeprefix(PREFIX)
            failed[name] = failed.get(name, 0) + 1
    cards = (*CARDS, *LATTICE_CARDS)  # those that change nothing in this space drop out
    for card in sorted(cards, key=lambda card: (failed.get(card.name, 0), -taste(key, card.name))):
        wanted = apply(space, base.recipe, card)
        found = proposal_on(space, base, wanted, PREFIX + card.name, card.why)
        if found is not None and space.digest(found.recipe) not in taken:
            return found
    return None
