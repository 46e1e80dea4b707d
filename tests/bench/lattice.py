"""How a lattice of the shipped text grows, and what an experiment and its verification cost.

    python -m tests.bench.lattice [--seed N]

One process plays both nodes: it reads slice after slice, joins each with what was read, and does after every
experiment what a verifier draws: half of the blocks, and one segment. CPU times are of this process, without its start.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

from workspace import lattice_data, lattice_harness
from workspace.lattice_recipe import BASELINE

TUNED: dict[str, Any] = {"exclusion": 230, "backoff": "kinds"}


class Growth:
    """A lattice that grows, and the CPU milliseconds that were spent on it."""

    def __init__(self, room: Path, rng: random.Random) -> None:
        self.room, self.rng, self.data = room, rng, room / "text"
        self.task: dict[str, Any] = lattice_data.build(self.data)["task"]
        self.spent: dict[str, list[int]] = {"experiment": [], "half of the blocks": [], "one segment": []}
        self.last: dict[str, Any] | None = None

    def run(self, **changes: Any) -> dict[str, Any]:
        """One experiment on the last one, and its verification."""
        base = self.last
        recipe = {**BASELINE, **changes, "bases": "" if base is None else base["params"]}
        paths = [] if base is None else [Path(base["weights_path"])]
        out = self.room / f"run{len(self.spent['experiment'])}"
        done = lattice_harness.train(self.task, recipe, self.data, out, base_paths=paths)
        self.spent["experiment"].append(done["cpu_ms"])
        blocks = sorted(self.rng.sample(range(64), 32))
        found = lattice_harness.evaluate(self.task, recipe, self.data, Path(done["weights_path"]), blocks)
        assert found["losses"] == [[block, done["losses"][block]] for block in blocks]
        self.spent["half of the blocks"].append(found["cpu_ms"])
        segment = self.rng.randrange(self.task["segments"])
        state = done["state_paths"][segment]
        replayed = lattice_harness.replay(
            self.task, recipe, self.data, segment, state_path=None if state is None else Path(state),
            base_paths=paths if segment == self.task["segments"] - 1 else [],
        )  # fmt: skip
        assert [replayed["start"], replayed["end"]] == done["digests"][segment : segment + 2]
        self.spent["one segment"].append(replayed["cpu_ms"])
        self.last = done
        return done


def main() -> None:
    """Print the growth, then the costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    seed = parser.parse_args().seed
    print(f"seed {seed}")
    with tempfile.TemporaryDirectory() as room:
        growth = Growth(Path(room), random.Random(seed))
        print("slices  bits/character  entries  file, bytes")
        for number in range(63):
            done = growth.run(slice=number)
            if number in (0, 1, 3, 7, 15, 31, 62):
                size = Path(done["weights_path"]).stat().st_size
                print(f"{number + 1:6}  {done['metric'] / 1e9:14.4f}  {done['params_count']:7}  {size:11}")
        for name, changes in (
            ("exclusion 230, kinds", TUNED),
            ("the same with income", {**TUNED, "weights": "income"}),
        ):
            print(f"{growth.run(**changes)['metric'] / 1e9:14.4f}  {name}")
        for what, spent in growth.spent.items():
            print(f"CPU of {what}: median {statistics.median(spent):.0f} ms, most {max(spent)} ms")


if __name__ == "__main__":
    main()
