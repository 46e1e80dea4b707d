"""Makes ``spec/vectors/lattice/lattice.json``: what another implementation of spec/53-lattice.md must compute.

Run: ``python -m tests.vectors.lattice_vectors``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from workspace import lattice, lattice_model, lattice_recipe, radicals, sketch
from workspace.lattice import Lattice, Published
from workspace.lattice_data import codes_of

FILE = Path(__file__).parents[2] / "spec" / "vectors" / "lattice" / "lattice.json"
SLICE_CHARACTERS = 5_200
TEXTS = ("In the beginning was the Word. 道可道，非常道。", "and the Word was with God: 名可名，非常名。")
HELD, FIT = "In the end was the Word: 道常無名。", "the word was there 可名"
CHARACTERS = "a z 0é一人⼈他松龠亜𠀀한"
NUMBERS = (1, 2, 3, 10, 255, 1 << 20, (1 << 31) - 1, 1 << 31, 10**12 + 7, (1 << 62) - 1, (1 << 63) - 1)
ROWS = (255, 0b00111101)
RECIPES: tuple[dict[str, Any], ...] = (
    {}, {"exclusion": 230, "backoff": "kinds"}, {"weights": "income", "smoothing": 77, "escape": 3},
)  # fmt: skip


def part(number: int) -> Lattice:
    """What slice ``number`` of the two says."""
    codes = codes_of(TEXTS[number])
    keys, counts = lattice.counted(codes, number, ROWS[number])
    read = np.zeros(lattice.SLICES, np.int64)
    read[number] = ROWS[number]
    return Lattice(keys, counts, read, sketch.of(codes))


def made() -> dict[str, Any]:
    """The vectors."""
    one, two = part(0), part(1)
    both, held, fit = lattice.join(one, two), codes_of(HELD), codes_of(FIT)
    recipes = [{**lattice_recipe.BASELINE, **changes} for changes in RECIPES]
    codes = []
    for recipe in recipes:
        weights = lattice_model.weights(both, str(recipe["weights"]), fit)
        length = lattice_model.length(lattice_model.model(both, recipe, weights), held)
        codes.append(
            {"recipe": recipe, "digest": lattice_recipe.digest(recipe).hex(), "weights": weights[:2].tolist(),
             "length": length, "nano_bits": lattice_model.to_nano(length)}
        )  # fmt: skip
    published = Published(both, (SLICE_CHARACTERS, sketch.count(one.seen), sketch.count(two.seen)),
                          lattice_recipe.digest(recipes[0]))  # fmt: skip
    raw = published.encode(SLICE_CHARACTERS)
    return {
        "radicals": [[char, radicals.radical(ord(char)), radicals.range_of(ord(char))] for char in CHARACTERS],
        "log2": [[str(number), int(lattice_model.log2(np.array([number]))[0])] for number in NUMBERS],
        "texts": list(TEXTS), "rows": list(ROWS), "held": HELD, "fit": FIT, "slice_characters": SLICE_CHARACTERS,
        "entries": [[chr(key >> 27), chr(key >> 6 & 0x1FFFFF), key & 63, count]
                    for key, count in zip(both.keys.tolist(), both.counts.tolist(), strict=True)],
        "sketches": [{"registers_sha256": hashlib.sha256(bytes(x.seen)).hexdigest(), "runs": sketch.count(x.seen)}
                     for x in (one, two, both)],
        "codes": codes, "params": published.params.hex(), "file_sha256": hashlib.sha256(raw).hexdigest(),
        "file_header": raw[8 : 8 + int.from_bytes(raw[:8], "little")].decode().rstrip(),
    }  # fmt: skip


def text() -> str:
    """The file's content."""
    return json.dumps(made(), ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(text(), encoding="utf-8", newline="\n")
