"""The cases of ``tests/sim/adversaries.py``: a small one always, the table's size when slow tests run."""

from __future__ import annotations

import pytest

from tests.sim.adversaries import CASES, simulate


@pytest.mark.parametrize("case", ["lazy 30 %", "Sybil 50 %"])
def test_small_mesh_accepts_no_lie(case: str) -> None:
    outcome = simulate(case, nodes=7, epochs=24, seed=3)
    assert outcome.false_accepted == 0 and outcome.honest_refuted == 0
    assert outcome.honest_accepted == outcome.honest_claims > 0
    assert outcome.influence < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("case", list(CASES))
def test_case_at_the_tables_size(case: str, seed: int) -> None:
    outcome = simulate(case, nodes=16, epochs=40, seed=seed)
    print(outcome)
    assert outcome.honest_refuted == 0
    assert outcome.false_accepted <= outcome.false_claims // 20
    assert outcome.influence < 0.1
    assert outcome.honest_accepted >= 0.7 * outcome.honest_claims
