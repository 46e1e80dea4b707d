"""Absorbs models: fetch the source, convert it, measure it, publish files and claim; measure again; refine.

What to claim is decided by ``policies.absorber``; every number comes from a worker process of its own, which is ended
when there is nothing to absorb.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from spore_borg.errors import BorgError, NotAllowed, NotFound, UsageError
from spore_borg.node import conversions
from spore_borg.node.conversions import Source
from spore_borg.node.drawer import Drawer, pack_run, unpack_run
from spore_borg.node.hub import Hub
from spore_borg.node.merger import Declined, Merger
from spore_borg.node.requests import Request, Requests
from spore_borg.node.tasks import suite_task_body, task_spec
from spore_borg.policies import absorber as policy
from spore_borg.policies import merging, prover
from spore_borg.records.bodies import Absorption, Merge, Retract
from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record
from spore_borg.records.keys import node_name
from spore_borg.runner.client import Worker
from spore_borg.runner.errors import WorkerRefused
from spore_borg.views import budget, gate, lineage, terms
from spore_borg.views.verdicts import Claim

Blob = Callable[[Cid], "conversions.Whole"]

FETCH_TIMEOUT_S = 3_600.0
CONVERT_TIMEOUT_S = 4 * 3_600.0
TRIES_MAX = 3  # of one request that this node's death or lack of blobs interrupts
IDLE_S = 5.0
WORKER_IDLE_S = 120.0  # without work for so long the worker process ends
OWN_PARTS = 10  # at most one part in ten of the time goes into refinements and merges that nobody asked for
TOLD_S = 1.0  # between two notes of progress on the disk
REFINE_OPERATOR = "free-energy"


class Absorber:
    """One node's absorptions.

    Args:
        worker: a process for this alone; blob: brings a blob here and keeps it while it is used.
        evaluator: digest of the code that measures; refine: whether to propose refinements and merges;
        every_s: least time between two of them, and from the start to the first.
        offline: fetch nothing from outside the mesh; small: a new mesh's suite is small.
    """

    def __init__(
        self, hub: Hub, worker: Worker, blob: Blob, *, family: str, fingerprint: bytes, evaluator: bytes,
        refine: bool = True, every_s: float = 900.0, offline: bool = False, small: bool = False,
    ) -> None:  # fmt: skip
        self.hub, self.worker, self.blob = hub, worker, blob
        self.family, self.fingerprint, self.evaluator, self.refine = family, fingerprint, evaluator, refine
        self.offline, self.small = offline, small
        self.requests = Requests(hub.home)
        self.runs = Drawer(hub.home.work / "runs")
        self.cache = hub.home.work / "absorb-cache"
        self.merger = Merger(self)
        self._asked = trio.Event()
        self._every_s = every_s
        self._rest_until_s = time.monotonic() + every_s  # nothing that nobody asked for before
        self._failed: set[Cid | tuple[Cid, ...]] = (
            set()
        )  # own claims, bases or inputs on which work has failed here

    def wake(self) -> None:
        """A request was written."""
        self._asked.set()

    async def run(self) -> None:
        """Do what is asked, one thing at a time, until cancelled."""
        idle_s = time.monotonic()
        while True:
            if await self._next():
                idle_s = time.monotonic()
                continue
            if self.worker.pid is not None and time.monotonic() - idle_s > WORKER_IDLE_S:
                await self.worker.stop()
            self._asked = trio.Event()
            with trio.move_on_after(IDLE_S):
                await self._asked.wait()

    async def _next(self) -> bool:
        """Do the most urgent thing; False if there is none."""
        request = self.requests.next()
        if request is not None:
            await self._serve(request)
            return True
        view = self.hub.view
        again = next((cid for cid in policy.stale(view, self.hub.me) if self._may_measure(cid)), None)
        if again is not None:
            await self._guard(again, self._measure_again(view.claims[again]))
            return True
        if self.refine and time.monotonic() > self._rest_until_s:
            return await self._own()
        return False

    def _may_measure(self, cid: Cid) -> bool:
        """Whether an own stale claim is not measured again already, in a record that the view has not folded yet."""
        body = self.hub.view.claims[cid].body
        assert isinstance(body, Absorption), "only absorptions are stale"
        return cid not in self._failed and self._unfolded(terms.work_of(body)) is None

    def _unfolded(self, work: terms.Work) -> Cid | None:
        """The record of this work that nobody has acknowledged yet."""
        view, kinds = self.hub.view, ("absorption", "refinement", "merge")
        return next(
            (r.cid for r in self.hub.records if r.kind in kinds and r.cid not in view.ack
             and r.cid not in view.claims and terms.work_of(r.body) == work),
            None,
        )  # fmt: skip

    async def _own(self) -> bool:
        """Refine or merge what nobody asked for; False if there is nothing to do."""
        view, began_s = self.hub.view, time.monotonic()
        me, mine = self.hub.me, self.fingerprint
        bases = policy.to_refine(view, me, mine, self._failed)
        base = next((one for one in bases if merging.is_my_turn(view, me, f"refine/{one}", mine)), None)
        inputs = next((one for one in merging.to_merge(view, me) if one not in self._failed), None)
        if inputs is not None:
            await self._guard(inputs, self.merger.propose(inputs))
        elif base is not None:
            await self._guard(base, self._refine(view.claims[base]))
        else:
            return False
        took_s = time.monotonic() - began_s
        self._rest_until_s = time.monotonic() + max(self._every_s, (OWN_PARTS - 1) * took_s)
        return True

    async def _guard(self, what: Cid | tuple[Cid, ...], work: Awaitable[None]) -> None:
        """Work that nobody asked for by name: what fails is told and not tried again before a restart."""
        try:
            await work
        except (BorgError, OSError) as error:
            self._failed.add(what)
            names = ", ".join(str(cid)[-8:] for cid in (what if isinstance(what, tuple) else (what,)))
            self.hub.event("delayed", f"{names} cannot be measured again, refined or merged here: {error}")

    # ---- what a person asked for

    async def _serve(self, request: Request) -> None:
        request = replace(request, tries=request.tries + 1)
        out = self.hub.home.work / f"absorb-{request.id}"
        try:
            if request.tries > TRIES_MAX:
                raise Declined(detail=f"Given up: it was begun {TRIES_MAX} times and never came to an end.")
            request = self.requests.move(request, "fetching", "Waits for the mesh's probe suite.")
            task_cid = await self._task()
            if request.inputs:
                await self.merger.serve(request, out)
                return
            request = self.requests.move(request, "fetching", f"Fetches {request.source}.")
            source = await self._fetch(request, out)
            await self._absorb(request, task_cid, source, out)
        except Taken as error:
            self._end(request, "refused", str(error), cid=str(error.fields.get("cid") or "") or None)
        except (BorgError, OSError) as error:
            detail = error.fields.get("detail") if isinstance(error, WorkerRefused) else None
            self._end(request, "failed", str(detail or error))
        finally:
            shutil.rmtree(out, ignore_errors=True)
            self.requests.tidy()

    def _end(self, request: Request, stage: str, text: str, **more: Any) -> None:
        self.requests.move(request, stage, text, **more)
        self.hub.event(
            "absorbed" if stage == "published" else "warning", f"{request.source[:80]}: {text}", **more
        )

    async def _task(self) -> Cid:
        """The mesh's task for absorptions; a trusted node publishes one where there is none."""
        hub = self.hub
        while (cid := hub.view.suites.get(self.evaluator)) is None:
            mine = [
                r
                for r in hub.own("task")
                if terms.takes_absorptions(r.body) and r.body.evaluator == self.evaluator
            ]
            if not mine and hub.view.ledger.trust.get(hub.me):
                await self._publish_task()
            await hub.changed()
        return cid

    async def _publish_task(self) -> None:
        self.hub.event("preparing", "builds the probe suite that absorbed models are measured on")
        out = self.hub.home.work / "suite"
        try:
            job = {"out_dir": str(out), "offline": self.offline, "small": self.small}
            answer = await self.worker.call("suite", job, timeout_s=FETCH_TIMEOUT_S)
            data = self.hub.blobs.put_file(Path(answer["path"]), move=True)
        finally:
            shutil.rmtree(out, ignore_errors=True)
        self.hub.write(suite_task_body(answer["probes"], data, self.evaluator))
        self.hub.event("task", f"task absorb: {len(answer['probes'])} probes")

    async def _fetch(self, request: Request, out: Path) -> Source:
        """Bring the source here and put its files among the blobs."""
        job = {"source": request.source, "out_dir": str(out / "source"), "offline": self.offline}
        answer = await self.worker.call("source", job, timeout_s=FETCH_TIMEOUT_S)
        licence = str(answer["licence"])
        if licence.strip().lower() in ("", "unknown") and not request.licence_ok:
            raise Declined(
                detail=f"{answer['name']} says nothing of its licence. Read its terms; if they allow sharing it with "
                "the mesh, ask again with --licence-ok."
            )
        files = tuple(sorted((str(name), Path(path)) for name, path in answer["files"]))
        put = self.hub.blobs.put_file
        blobs = []
        for name, path in files:
            blobs.append((name, await trio.to_thread.run_sync(put, path)))
        # Cut before the conversion: the shard's metadata hold these words, and verifiers read them in the record.
        origin, licence, name = (
            prover.clip(text, size)
            for text, size in ((str(answer["origin"]), 300), (licence, 200), (str(answer["name"]), 200))
        )
        return Source(files, tuple(blobs), origin, licence, name)

    async def _absorb(self, request: Request, task_cid: Cid, source: Source, out: Path) -> None:
        size = conversions.source_bytes(self.hub.blobs.size, source.blobs)
        _refuse(budget.too_large(self._limits(task_cid), size, 0))
        about = await self.worker.call("inspect", source.job(), timeout_s=FETCH_TIMEOUT_S)
        work = (task_cid, tuple(sorted({cid for _, cid in source.blobs})), request.rule, request.steps, None)
        state = policy.state_for(self.hub.view, self.hub.me, str(about["modality"]))
        self._check_free(work, str(about["name"]), state)
        request = self.requests.move(request, "converting", f"Converts {about['name']} ({about['head']}).")
        report = self.reporter(request, str(about["name"]))
        extra = {**source.job(), "rule": request.rule, "steps": request.steps}
        answer = await self.convert(task_cid, state, extra, out, report)
        self._check_free(work, str(about["name"]), state)  # somebody may have been faster
        record_cid, metric = self.publish(task_cid, source, state, answer, request.rule, request.steps)
        self.published(request, record_cid, metric, answer, str(about["name"]), source.licence)

    def reporter(self, request: Request, name: str) -> Callable[[dict[str, Any]], None]:
        """Writes a worker's progress into a request, now and then."""
        told_s = 0.0

        def report(step: dict[str, Any]) -> None:
            nonlocal told_s
            if time.monotonic() - told_s >= TOLD_S:
                told_s = time.monotonic()
                layers = max(1, int(step.get("layers") or 1))
                text = f"{str(step.get('stage', 'converts')).capitalize()} {name}."
                part = min(1.0, int(step.get("layer") or 0) / layers)
                self.requests.move(request, "converting", text, part=part)

        return report

    def published(
        self, request: Request, cid: Cid, metric: int, answer: dict[str, Any], name: str, licence: str
    ) -> None:
        """End a request whose claim is stored."""
        self._end(
            request, "published",
            f"{name} is a shard with fidelity {(10**9 - metric) / 10**9:.4f}; the mesh verifies it now. `borg state` "
            "tells whether it joins the state.",
            cid=str(cid), part=1.0,
            result={"fidelity_nano": 10**9 - metric, "report": answer.get("report", {}), "head": answer["head"],
                    "modality": answer["modality"], "name": name, "licence": licence},
        )  # fmt: skip

    def _check_free(self, work: terms.Work, name: str, state: Sequence[Cid]) -> None:
        """Raise Taken if the mesh has this work already, in the view or in records that it has not folded yet.

        What the gate refused may be offered once more when the state has other members.
        """
        view = self.hub.view
        held = terms.holder(view, work)
        why = "" if held is None else terms.why_taken(view, held)
        if held is None or terms.may_offer_again(view, held, state):
            held = self._unfolded(work)
        if held is not None:
            raise Taken(name=name, cid=held, why=why and f" {why}")

    @asynccontextmanager
    async def _state(self, state: Sequence[Cid]) -> AsyncIterator[list[list[str]]]:
        """The members' shards as ``[[cid, path]]``, here while the block lasts."""
        async with AsyncExitStack() as stack:
            yield await conversions.state_files(self.hub.view, self.blob, state, stack)

    def named(self, source: Source) -> Source:
        """The source as the record will name it."""
        return source

    def claimed(self, answer: dict[str, Any]) -> dict[str, Any]:
        """What the worker found, as the record will claim it."""
        return answer

    async def convert(
        self, task_cid: Cid, state: Sequence[Cid], extra: dict[str, Any], out: Path,
        report: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Have the worker convert and measure; ``extra``: what it is told besides task, suite and state."""
        task = self.hub.view.tasks[task_cid]
        async with self.blob(task.data) as suite, self._state(state) as members:
            job = {
                "task": task_spec(task), "suite_path": str(suite), "state": members, "out_dir": str(out / "shard"),
                "cache_dir": str(self.cache), "ops_max": self._limits(task_cid).ops_max, **extra,
            }  # fmt: skip
            return await self.worker.call("absorb", job, on_progress=report, timeout_s=CONVERT_TIMEOUT_S)

    def publish(
        self, task_cid: Cid, source: Source, state: Sequence[Cid], answer: dict[str, Any], rule: str, steps: int,
        base: Claim | None = None, merge: policy.Merging | None = None,
    ) -> tuple[Cid, int]:  # fmt: skip
        """Store shard and secrets, then sign the claim; its cid and metric."""
        answer, source = self.claimed(answer), self.named(source)
        told = answer.get("report", {})
        operator, why = (
            ("ask", "Its owner asked for it.") if merge is None else ("merge", "One model for several.")
        )
        if base is not None:
            assert isinstance(base.body, Absorption), "only absorptions are refined"
            operator, why = REFINE_OPERATOR, f"Refines {base.body.name}."
        weights = self.hub.blobs.put_file(Path(answer["shard_path"]), move=True)
        facts = policy.Facts(
            sources=source.blobs, origin=source.origin, licence=source.licence, name=source.name,
            head=str(answer["head"]), modality=str(answer["modality"]), rule=rule, steps=steps, state=tuple(state),
            operator=operator, why=why, family=self.family, fingerprint=self.fingerprint,
            params_count=int(answer["params_count"]), layers=len(answer.get("layers", ())),
            sparsity_ppm=_sparsity(told), cpu_ms=int(answer["cpu_ms"]),
            source_bytes=conversions.source_bytes(self.hub.blobs.size, source.blobs),
            shard_bytes=self.hub.blobs.size(weights), ops=int(answer["ops"]),
            base=None if base is None else base.target.cid, merge=merge,
            fewer=0 if merge is None else lineage.fewer(self.hub.view, merge.inputs, state),
        )  # fmt: skip
        run = self._secrets(answer["losses"], answer["digests"], answer["params"], answer["tail"], state)
        opened = None if base is None or base.opening is None else base.opening.body.losses
        return self._claim(
            policy.claim_body(task_cid, self.hub.view.tasks[task_cid], facts, run, weights, opened), run
        )

    def _limits(self, task_cid: Cid) -> budget.Limits:
        return budget.limits(self.hub.view.tasks[task_cid].spec)

    def _claim(self, body: Absorption, run: prover.Run) -> tuple[Cid, int]:
        _refuse(budget.fault(self.hub.view.tasks[body.task], body))
        self.runs.put(body.state_root, pack_run(run))
        record = self.hub.write(body)
        self.hub.event(
            "published", f"{body.outcome}: {body.name} as {body.rule} with {body.steps} steps",
            cid=str(record.cid), metric=body.metric, outcome=body.outcome,
        )  # fmt: skip
        return record.cid, body.metric

    def _secrets(
        self, losses: Sequence[int], digests: Sequence[str], params: str, tail: str, state: Sequence[Cid]
    ) -> prover.Run:
        """The commitments-to-be, with salts that only this key can derive."""
        octets, key = bytes.fromhex, self.hub.key
        seed = policy.salt_seed(octets(params), state)
        return prover.Run(
            losses=tuple(losses), digests=tuple(map(octets, digests)), params=octets(params), tail=octets(tail),
            loss_secret=prover.secret(key.derive("losses"), "losses", seed),
            state_secret=prover.secret(key.derive("states"), "states", seed),
        )  # fmt: skip

    # ---- what nobody asked for

    async def _measure_again(self, claim: Claim) -> None:
        """Claim an own shard once more, measured against the state as it is now."""
        body = claim.body
        assert isinstance(body, Absorption), "only absorptions are stale"
        kept = self.runs.get(body.state_root)
        try:
            run = unpack_run(kept or {})
        except (KeyError, TypeError, ValueError) as error:
            raise Declined(detail="the secrets of this conversion are lost") from error
        self.hub.event("measuring", f"{body.name} again: the state has other members now")
        state = policy.state_for(self.hub.view, self.hub.me, body.modality)
        answer = await conversions.measure(
            self.hub.view, self._call, self.blob, claim, range(gate.BLOCKS), self.cache, state
        )
        losses = [int(loss) for _, loss in answer["losses"]]
        fresh = self._secrets(losses, [d.hex() for d in run.digests], run.params.hex(), run.tail.hex(), state)
        base = conversions.base_claim(self.hub.view, body)
        opened = None if base is None or base.opening is None else base.opening.body.losses
        fewer = lineage.fewer(self.hub.view, body.inputs, state) if isinstance(body, Merge) else 0
        root = conversions.commitments(fresh)
        again = replace(
            body, state=state, operator="measure", why="The state had moved on.",
            outcome=policy.own_word(fresh.losses, opened, fewer),
            metric=gate.infidelity(fresh.losses, claim.task, body.modality), **root,
        )  # fmt: skip
        self._claim(again, fresh)

    async def _call(self, op: str, job: dict[str, Any], _unusable: dict[str, Any] | None) -> dict[str, Any]:
        return await self.worker.call(op, job, timeout_s=CONVERT_TIMEOUT_S)

    async def _refine(self, base: Claim) -> None:
        """Convert a member's source anew, better than its shard, by lowering its free energy."""
        body = base.body
        assert isinstance(body, Absorption), "only absorptions are members"
        self.hub.event("refining", f"{body.name}: looks for better thresholds and timings")
        out = self.hub.home.work / f"refine-{hashlib.sha256(base.target.cid).hexdigest()[:16]}"
        state = policy.state_for(self.hub.view, self.hub.me, body.modality)
        try:
            async with (
                conversions.sources(self.blob, body.sources, out / "source") as files,
                self.blob(body.weights) as shard,
            ):
                extra = {
                    "files": files, "origin": body.origin, "licence": body.licence, "name": body.name,
                    "rule": body.rule, "steps": body.steps, "base_path": str(shard), "base_cid": str(base.target.cid),
                }  # fmt: skip
                answer = await self.convert(body.task, state, extra, out)
                if bytes.fromhex(answer["params"]) == body.params:
                    raise Declined(detail="its refinement is the same shard")
                source = Source((), body.sources, body.origin, body.licence, body.name)
                self.publish(body.task, source, state, answer, body.rule, body.steps, base)
        finally:
            shutil.rmtree(out, ignore_errors=True)


def retract_own(hub: Hub, text: str, why: str) -> Record:
    """Take an own absorption out of the state.

    Raises:
        UsageError: the text is no cid. NotFound: no such absorption here. NotAllowed: it is somebody else's.
    """
    try:
        cid = Cid.parse(text)
    except ValueError as error:
        raise UsageError(detail=f"{text[:80]!r} is no cid: {error}.") from error
    record = next((r for r in hub.records if r.cid == cid and isinstance(r.body, Absorption)), None)
    if record is None:
        raise NotFound(what="absorption", name=text[:80], hint="`borg state` lists them.")
    if record.author != hub.me:
        raise NotAllowed(
            detail=f"{record.body.name} was absorbed by {node_name(record.author)[:8]}; only its author can retract it."
        )
    return hub.write(Retract(target=cid, why=prover.clip(why, prover.WHY_BYTES)))


class Taken(BorgError):
    """{name} is already absorbed by {cid}: the same source, rule and time steps.{why} `borg show {cid}` tells more."""


def _refuse(why: str) -> None:
    if why:
        raise Declined(detail=f"{why} Choose a smaller model, or a mesh that takes more.")


def _sparsity(report: dict[str, Any]) -> int:
    """Part of the values that give no spike, in millionths, from a conversion's report."""
    active = report.get("active")
    return max(0, min(1_000_000, round((1 - float(active)) * 1_000_000))) if active is not None else 0
