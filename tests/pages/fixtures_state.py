"""What the page fixtures hold of absorbed models and of Ψ: friendly, and as a liar would write it."""

from __future__ import annotations

import json

from spore_borg.records.cid import Cid
from spore_borg.views.health import PARTS, psi
from tests.pages.maker import Maker, text_of


def absorbed(make: Maker, keys: list[bytes], task: Cid, last: int) -> None:
    """Absorbed models: members of three modalities, and all the ways of not being one."""
    probes = {"text": ("genre", "language", "tone"), "image": ("digits", "clothes"), "audio": ("words",)}
    reasons = (
        ("confirmed", "even", "No probe is better: it does not join."),
        ("confirmed", "worse", "It makes language worse."),
        ("inconclusive", "unknown", "A split of the drawn nodes decides nothing."),
        ("refuted", "unknown", "A drawn node computed other losses."),
        ("unverified", "unknown", "It waits for the drawn nodes."),
        ("confirmed", "even", "It was measured against another state and must be measured again."),
    )
    base: str | None = None
    for number in range(90):
        modality = ("text", "image", "audio")[number % 3]
        member = number % 5 != 0
        verdict, word, why = ("confirmed", "better", "") if member else reasons[number // 5 % len(reasons)]
        gains = [
            {"probe": probe, "pairs": 8, "gain": (number * 37 % 50 + 5) * 8_000_000 * (-1 if word == "worse" else 1),
             "word": word if place == number % len(probes[modality]) else "even"}
            for place, probe in enumerate(probes[modality])
        ]  # fmt: skip
        cid = make.shard(
            keys[number % len(keys)], max(1, last - 200 + number), task, "CPU_X86_64", name=f"model-{number}",
            head=("classifier", "embedder", "causal_lm")[number % 3], modality=modality, verdict=verdict,
            member=int(member), standing=why or f"It makes {probes[modality][0]} better and nothing worse.",
            gains=json.dumps(gains), metric=(number * 7919 % 90 + 1) * 100_000, layers=4 + number % 20,
            params_count=1_000_000 * (1 + number * number), stage="drawn" if verdict == "unverified" else "settled",
            base=base if number % 10 == 7 else None, settled=int(verdict != "unverified"),
        )  # fmt: skip
        base = text_of(cid)
    make.meta(state_digest="5a" * 32, state_members=72)


def health(make: Maker, settled: int) -> None:
    """Ψ and its parts of the last settled rounds, as waves; the first points have nothing to compare with."""
    rounds = [*range(max(15, settled - 47 * 16), settled, 16), settled]
    for number, round_ in enumerate(rounds):
        values: list[int | None] = [
            900_000 - 40_000 * (number % 5), 985_000 - 9_000 * (number % 4), 910_000 - 20_000 * (number % 7),
            470_000 + 30_000 * (number % 6 - 3) if number > 2 else None,
        ]  # fmt: skip
        whole = psi(values)
        for part, value in zip(("psi", *PARTS), (whole, *values), strict=True):
            make.insert("health", round=round_, part=part, value=value, a=35 + number, b=40 + number)


def hostile(make: Maker, texts: tuple[str, ...]) -> None:
    """Absorbed models and health whose every text is an attack and whose every number is absurd."""
    me, task = make.rng.randbytes(32), make.task(make.rng.randbytes(32), texts[2], 1)
    for number, text in enumerate(texts):
        said = json.dumps(
            [{"probe": text, "pairs": -number, "gain": 10**30, "word": text}, 7, {"probe": 1}, text]
        )
        better = json.dumps([{"probe": text, "pairs": 0, "gain": 10**18, "word": "better"}])
        make.shard(
            me, number, task, text, name=text, origin=text, licence=text, head=text, modality=text, rule=text,
            operator=text, why=text, outcome=text, verdict=text, stage=text, reason=text, standing=text,
            member=number % 3, gains=better if number % 2 else said, sources=json.dumps([[text, text], 7]), state=text,
            weights=text, metric=-(10**15) * number, sparsity_ppm=10**12, params_count=-1, steps=-1, fingerprint=text,
        )  # fmt: skip
    make.meta(state_digest=texts[1], state_members=texts[2])
    for number, value in enumerate((None, -(10**15), 10**15)):
        for part in ("psi", *PARTS, texts[0]):
            make.insert("health", round=number * 10**9, part=part, value=value, a=-1, b=10**15)
