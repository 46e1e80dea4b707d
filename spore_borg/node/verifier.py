"""Carries out verification duties: fetch, recompute in the worker, remember, commit, open, reveal.

What to do is decided by ``policies.verifier``; numbers come from the worker; nothing here judges.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from spore_borg.errors import BorgError
from spore_borg.node.drawer import Drawer, pack_found, unpack_found, unpack_run
from spore_borg.node.hub import Hub
from spore_borg.node.tasks import task_spec
from spore_borg.policies import prover
from spore_borg.policies.verifier import Duty, duties
from spore_borg.records.bodies import Announce
from spore_borg.records.cid import Cid
from spore_borg.runner.client import Worker
from spore_borg.views.draw import Probe
from spore_borg.views.verdicts import Claim

Fetch = Callable[[Cid], Awaitable[Path]]

PROBE_TIMEOUT_S = 600.0  # of one evaluation or replay; a run that is silent for longer is given up
RETRY_S = 20.0  # a duty that failed is tried again after this long
ZERO = bytes(32)


class Verifier:
    """One node's verification.

    Args:
        hub: records and view; worker: the torch process; fetch: brings a blob here, from us or from peers.
        busy: told what is being done, for the live views.
    """

    def __init__(self, hub: Hub, worker: Worker, fetch: Fetch, busy: Callable[[str | None], None]) -> None:
        self.hub, self.worker, self.fetch, self.busy = hub, worker, fetch, busy
        self.evidence = Drawer(hub.home.work / "evidence")
        self.runs = Drawer(hub.home.work / "runs")
        self._done: set[tuple[str, Cid, object]] = set()
        self._later: dict[tuple[str, Cid, object], float] = {}

    async def run(self) -> None:
        """Do what is due, most urgent first; wait for the next view when nothing is."""
        while True:
            duty = self._next()
            if duty is None:
                with trio.move_on_after(RETRY_S):
                    await self.hub.changed()
                continue
            key = (duty.what, duty.claim, duty.named)
            try:
                await self._perform(duty)
                self._done.add(key)
            except BorgError as error:
                self._later[key] = time.monotonic() + RETRY_S
                self.hub.event("delayed", f"{duty.what} of {str(duty.experiment)[-8:]} is put off: {error}")
            finally:
                self.busy(None)

    def _next(self) -> Duty | None:
        now = time.monotonic()
        for duty in duties(self.hub.view, self.hub.me):
            key = (duty.what, duty.claim, duty.named)
            if duty.what == "announce":
                key = (duty.what, duty.claim, self.hub.view.claims[duty.experiment].announced)
                if key in self._done:
                    continue
                self._done.add(key)
                return duty
            if key not in self._done and self._later.get(key, 0.0) <= now:
                return duty
        return None

    async def _perform(self, duty: Duty) -> None:
        claim = self.hub.view.claims[duty.experiment]
        if claim.cid != duty.claim:
            return  # announced again meanwhile: there will be a fresh duty
        match duty.what:
            case "open":
                await self._open(claim)
            case "reveal":
                self._reveal(claim, duty)
            case "announce":
                self.hub.write(Announce(target=duty.experiment))
                self.hub.event("announced", f"{str(duty.experiment)[-8:]} asks again for verification")
            case _:
                await self._probe(claim, duty)

    # ---- a verifier's side

    async def _probe(self, claim: Claim, duty: Duty) -> None:
        kind = {"jury": "jury service", "shadow": "shadow verification"}.get(duty.what, "verification")
        self.busy(f"{kind} of {str(duty.experiment)[-8:]}")
        began = time.monotonic()
        found = await self._recompute(claim, duty.probe)
        nonce = secrets.token_bytes(16)
        body = prover.commit_body(duty.claim, self.hub.me, nonce, found, duty.named)
        self.evidence.put(body.digest, pack_found(nonce, found))
        self.hub.write(body)
        self.hub.event(
            "evidence",
            f"{kind}: {len(found.losses)} blocks and {len(found.segments)} segments of {str(duty.experiment)[-8:]} "
            f"recomputed in {time.monotonic() - began:.1f} s",
        )

    async def _recompute(self, claim: Claim, probe: Probe) -> prover.Found:
        body, cpu_ms = claim.body, 0
        assert body.weights is not None, "a claim has weights"
        data = await self.fetch(claim.task.data)
        common = {"task": task_spec(claim.task), "recipe": body.recipe, "data_path": str(data)}
        params, losses, segments = None, (), []
        if probe.blocks:
            weights = await self.fetch(body.weights)
            answer = await self._call(
                "evaluate", {**common, "weights_path": str(weights), "blocks": list(probe.blocks)}
            )
            params, losses = bytes.fromhex(answer["params"]), tuple((b, loss) for b, loss in answer["losses"])
            cpu_ms += answer.get("cpu_ms", 0)
        seed = self._seed(claim)
        for segment, step in probe.segments:
            state = None if segment == 0 else await self.fetch(body.states[segment - 1])
            job = {**common, "seed": seed, "segment": segment, "inner_step": step}
            answer = await self._call("replay", {**job, "state_path": None if state is None else str(state)})
            segments.append(
                (segment, step, *(bytes.fromhex(answer[name]) for name in ("start", "inner", "end")))
            )
            cpu_ms += answer.get("cpu_ms", 0)
        for segment, _ in probe.segments:
            if segment and claim.author != self.hub.me:
                self.hub.blobs.remove(
                    body.states[segment - 1]
                )  # large, and the author keeps it until the verdict
        return prover.Found(params, losses, tuple(segments), cpu_ms)  # type: ignore[arg-type]

    async def _call(self, op: str, params: dict[str, Any]) -> dict[str, Any]:
        return await self.worker.call(op, params, timeout_s=PROBE_TIMEOUT_S)

    def _seed(self, claim: Claim) -> int:
        value = self.hub.view.seed_value(claim.target)
        assert value is not None, "a claim's seed was checked when it was acknowledged"
        return self.hub.view.seed_of(claim.target, value)

    def _reveal(self, claim: Claim, duty: Duty) -> None:
        item = (claim.evidence if duty.named is None else claim.jury)[self.hub.me]
        kept = self.evidence.get(item.commit.body.digest)
        if kept is None:
            raise BorgError(detail="the evidence behind this node's commit is lost")
        nonce, found = unpack_found(kept)
        self.hub.write(prover.reveal_body(duty.claim, item.commit.cid, nonce, found))

    # ---- an author's side

    async def _open(self, claim: Claim) -> None:
        self.busy(f"opening {str(claim.target.cid)[-8:]}")
        assert claim.body.state_root is not None, "a claim has commitments"
        kept = self.runs.get(claim.body.state_root)
        if kept is None:
            raise BorgError(detail="the secrets of this run are lost; it stays without a verdict")
        inner: dict[tuple[int, int], bytes] = {}
        for segment, step in prover.asked_inner(claim):
            found = await self._recompute(claim, Probe((), ((segment, step),)))
            inner[segment, step] = found.segments[0][3]
        if self.hub.view.claims[claim.target.cid].cid == claim.cid:
            self.hub.write(prover.opening(claim, unpack_run(kept), inner))
            self.hub.event("opened", f"{str(claim.target.cid)[-8:]} for {len(claim.evidence)} verifier(s)")
