"""Which evaluators this installation has: a digest of each, taken of its source files. Torch is not imported."""

from __future__ import annotations

from spore_borg.learn.digest import learn_digest
from workspace.digest import harness_digest
from workspace.lattice_harness import lattice_digest


def digests() -> dict[str, str]:
    """``evaluator absorber lattice``: of experiments, absorptions and lattices, in hexadecimal, as in ``hello``."""
    return {
        "evaluator": harness_digest().hex(),
        "absorber": learn_digest().hex(),
        "lattice": lattice_digest().hex(),
    }
