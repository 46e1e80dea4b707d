"""Carries out verification duties: fetch, recompute in the worker, remember, commit, open, reveal.

What to do is decided by ``policies.verifier``; numbers come from the worker; nothing here judges.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from spore_borg.errors import BorgError, IntegrityError, NotFound
from spore_borg.limits import DATASET_BYTES_MAX
from spore_borg.node import conversions
from spore_borg.node.drawer import Drawer, pack_found, unpack_found, unpack_run
from spore_borg.node.hub import Hub
from spore_borg.node.lattices import base_weights
from spore_borg.node.tasks import task_spec
from spore_borg.policies import prover
from spore_borg.policies.verifier import Duty, duties
from spore_borg.records.bodies import STEP_PPM_MAX, Absorption, Announce, Experiment, Trace, TraceStates
from spore_borg.records.cid import Cid
from spore_borg.runner.client import Worker
from spore_borg.runner.errors import WorkerRefused, WorkerTimedOut
from spore_borg.views import onestep
from spore_borg.views.draw import Probe
from spore_borg.views.lattices import is_lattice
from spore_borg.views.verdicts import Claim

Fetch = Callable[[Cid, int | None], Awaitable[Path]]  # cid; the most bytes that are wanted of it

PROBE_TIMEOUT_S = 600.0  # of one evaluation or replay, at most; a run that is silent for longer is given up
CONVERSION_TIMEOUT_S = 3_600.0  # the same of an absorption, which no budget of FLOPs bounds
UNDER_WAY_MAX = 6  # duties at once; most of them wait for a blob or for the worker
RETRY_S = 20.0  # a duty that failed is tried again after this long
TRIES_MAX = (
    5  # of one duty that fails here; one that only waits for a blob is tried until it is no duty any more
)
COMPUTED = frozenset(("trace", "jury", "probe", "shadow"))  # duties whose numbers the evaluator makes
ZERO = bytes(32)


class GivenUp(BorgError):
    """{detail}"""


async def _first(wait: Callable[[], Awaitable[object]], scope: trio.CancelScope) -> None:
    """Wait, then end the others that wait in the same scope."""
    await wait()
    scope.cancel()


class Verifier:
    """One node's verification.

    Args:
        hub: records and view; worker: the torch process; fetch: brings a blob here, from us or from peers.
        busy: told what is being done, for the live views.
        harness, absorber, lattice: digests of the evaluators of experiments, absorptions and lattices here; claims on
            tasks of other ones are left to others.
    """

    def __init__(
        self, hub: Hub, worker: Worker, fetch: Fetch, busy: Callable[[str | None], None], *, harness: bytes,
        absorber: bytes = b"", lattice: bytes = b"",
    ) -> None:  # fmt: skip
        self.hub, self.worker, self.busy = hub, worker, busy
        self.harness, self.absorber, self.lattice = harness, absorber, lattice
        self._fetch = fetch
        self._in_use: Counter[Cid] = Counter()
        self._tries: Counter[tuple[str, Cid, object]] = Counter()
        self._foreign: set[Cid] = set()
        self.evidence = Drawer(hub.home.work / "evidence")
        self.runs = Drawer(hub.home.work / "runs")
        self._done: set[tuple[str, Cid, object]] = set()
        self._later: dict[tuple[str, Cid, object], float] = {}
        self._under_way: set[tuple[str, Cid, object]] = set()
        self._ended = trio.Event()

    async def run(self) -> None:
        """Do what is due, most urgent first, a few at a time; wait for the next view when nothing is.

        A duty that waits for a silent peer does not hold up the others; the worker takes one job at a time.
        """
        async with trio.open_nursery() as nursery:
            while True:
                duty = self._next() if len(self._under_way) < UNDER_WAY_MAX else None
                if duty is not None:
                    self._under_way.add(self._key(duty))
                    nursery.start_soon(self._one, duty)
                    continue
                self._ended = trio.Event()
                with trio.move_on_after(RETRY_S):
                    async with trio.open_nursery() as either:
                        either.start_soon(_first, self.hub.changed, either.cancel_scope)
                        either.start_soon(_first, self._ended.wait, either.cancel_scope)

    async def _one(self, duty: Duty) -> None:
        key = self._key(duty)
        try:
            await self._perform(duty)
            self._done.add(key)
        except (BorgError, OSError) as error:
            self._failed(duty, key, error)
        finally:
            self._under_way.discard(key)
            self._ended.set()
            if not self._under_way:
                self.busy(None)

    def _failed(self, duty: Duty, key: tuple[str, Cid, object], error: BorgError | OSError) -> None:
        """Try again later, but nobody's claim may cost this node without end.

        A run that takes too long is given up at the first time: whether the author or this machine is to blame
        cannot be told from here, so it is no evidence against the author.
        """
        which = f"{duty.what} of {str(duty.experiment)[-8:]}"
        if not isinstance(error, NotFound):
            self._tries[key] += 1
        if isinstance(error, WorkerTimedOut | GivenUp) or self._tries[key] >= TRIES_MAX:
            self._done.add(key)
            self.hub.event("abandoned", f"{which}: {error}")
            return
        self._later[key] = time.monotonic() + RETRY_S
        self.hub.event("delayed", f"{which} is put off: {error}")

    def _ours(self, duty: Duty) -> bool:
        """Whether the evaluator here is the task's. Another one would compute other numbers and accuse the honest."""
        claim = self.hub.view.claims.get(duty.experiment)
        if claim is None:
            return False
        ours = self.absorber if isinstance(claim.body, Absorption) else self.harness
        if is_lattice(claim.task):
            ours = self.lattice
        if duty.what not in COMPUTED or claim.task.evaluator == ours:
            return True
        task = claim.body.task
        if task not in self._foreign:
            self._foreign.add(task)
            self.hub.event(
                "warning",
                f"task {claim.task.name} is measured with another version of the harness; this node does not verify "
                "it. Install the version of spore-borg that the mesh's founder runs.",
            )
        return False

    def _next(self) -> Duty | None:
        now = time.monotonic()
        for duty in duties(self.hub.view, self.hub.me):
            key = self._key(duty)
            if not self._ours(duty):
                continue
            if key not in self._done and key not in self._under_way and self._later.get(key, 0.0) <= now:
                return duty
        return None

    def _key(self, duty: Duty) -> tuple[str, Cid, object]:
        """Under what a duty is remembered; each announcement of one experiment is another duty."""
        if duty.what == "announce":
            claim = self.hub.view.claims.get(duty.experiment)
            return duty.what, duty.claim, claim.announced if claim is not None else None
        return duty.what, duty.claim, duty.named

    async def _perform(self, duty: Duty) -> None:
        claim = self.hub.view.claims.get(duty.experiment)
        if claim is None or (duty.what != "announce" and claim.cid != duty.claim):
            return  # announced again meanwhile: there will be a fresh duty
        match duty.what:
            case "open":
                await self._open(claim)
            case "trace":
                await self._trace(claim, duty)
            case "states":
                await self._states(claim, duty)
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
        found = await self._judge_steps(claim) if duty.steps else await self._recompute(claim, duty.probe)
        nonce = secrets.token_bytes(16)
        body = prover.commit_body(duty.claim, self.hub.me, nonce, found, duty.named)
        self.evidence.put(body.digest, pack_found(nonce, found))
        self.hub.write(body)
        self.hub.event(
            "evidence",
            f"{kind}: {len(found.losses)} blocks, {len(found.segments)} segments and {len(found.steps)} single steps "
            f"of {str(duty.experiment)[-8:]} recomputed in {time.monotonic() - began:.1f} s",
        )

    async def _recompute(self, claim: Claim, probe: Probe) -> prover.Found:
        """Do what a probe asks for: evaluate blocks of the published weights, replay segments."""
        if isinstance(claim.body, Absorption):
            cache = self.hub.home.work / "absorb-cache"
            return await conversions.recompute(self.hub.view, self._call, self.blob, claim, probe, cache)
        segments = []
        async with self.blob(claim.task.data, most_bytes=DATASET_BYTES_MAX) as data:
            common = {"task": task_spec(claim.task), "recipe": claim.recipe, "data_path": str(data)}
            params, losses, cpu_ms = (
                await self._evaluate(claim, probe, common) if probe.blocks else (None, (), 0)
            )
            for segment, step in probe.segments:
                start, inner, end, spent_ms = await self._replay(claim, segment, step, common)
                segments.append((segment, step, start, inner, end))
                cpu_ms += spent_ms
        return prover.Found(params, losses, tuple(segments), cpu_ms)

    @asynccontextmanager
    async def blob(
        self, cid: Cid | None, *, keep: bool = True, most_bytes: int | None = None
    ) -> AsyncIterator[Path | None]:
        """A blob's file, here and whole: bytes that rotted on this disk must not become evidence against anybody.

        Args:
            cid: None gives None. keep: False removes the blob when nobody here uses it any more.
            most_bytes: a larger one is not fetched.
        Raises:
            TooLarge: it is larger.
        """
        if cid is None:
            yield None
            return
        self._in_use[cid] += 1
        try:
            path = await self._fetch(cid, most_bytes)
            try:
                await trio.to_thread.run_sync(self.hub.blobs.verify, cid)
            except IntegrityError:
                self.hub.blobs.remove(cid)  # to be fetched again
                raise
            yield path
        finally:
            self._in_use[cid] -= 1
            if not self._in_use[cid]:
                del self._in_use[cid]
                if not keep:
                    self.hub.blobs.remove(cid)

    @asynccontextmanager
    async def bases(self, claim: Claim, segment: int) -> AsyncIterator[dict[str, list[str]]]:
        """What a job on this segment needs of the run's bases: their lattices, where it joins them."""
        cids = base_weights(self.hub.view, claim, segment)
        async with AsyncExitStack() as stack:
            paths = [str(await stack.enter_async_context(self.blob(cid))) for cid in cids]
            yield {"base_paths": paths} if paths else {}

    async def _evaluate(
        self, claim: Claim, probe: Probe, common: dict[str, Any]
    ) -> tuple[bytes, tuple[tuple[int, int], ...], int]:
        assert claim.body.weights is not None, "a claim has weights"
        async with self.blob(claim.body.weights) as weights:
            job = {**common, "weights_path": str(weights), "blocks": list(probe.blocks)}
            unusable = {"params": ZERO.hex(), "losses": [[block, 0] for block in probe.blocks]}
            answer = await self._call("evaluate", job, unusable)
        losses = tuple((int(block), int(loss)) for block, loss in answer["losses"])
        return bytes.fromhex(answer["params"]), losses, int(answer.get("cpu_ms", 0))

    async def _replay(
        self, claim: Claim, segment: int, step: int, common: dict[str, Any]
    ) -> tuple[bytes, bytes, bytes, int]:
        state = claim.body.states[segment - 1] if segment else None
        unusable = dict.fromkeys(("start", "inner", "end"), ZERO.hex())
        async with self.blob(state, keep=self._mine(claim)) as path, self.bases(claim, segment) as bases:
            job = {
                **common, **bases, "seed": self._seed(claim), "segment": segment, "inner_step": step,
                "to_end": not self._mine(claim), "state_path": None if path is None else str(path),
            }  # fmt: skip
            answer = await self._call("replay", job, unusable)
        start, inner, end = (bytes.fromhex(answer[name]) for name in ("start", "inner", "end"))
        return start, inner, end, int(answer.get("cpu_ms", 0))

    async def _call(self, op: str, params: dict[str, Any], unusable: dict[str, Any] | None) -> dict[str, Any]:
        """Ask the worker; what an author published and the harness cannot use is ``unusable``, which fits no claim."""
        try:
            limit_s = min(PROBE_TIMEOUT_S, 2.0 * int(params["task"].get("cpu_s_max", PROBE_TIMEOUT_S)))
            if op in ("measure", "redo"):
                limit_s = CONVERSION_TIMEOUT_S
            return await self.worker.call(op, params, timeout_s=limit_s)
        except WorkerRefused as error:
            if unusable is None or error.fields.get("kind") not in ("data", "recipe", "crashed"):
                raise
            self.hub.event("unusable", f"{op}: {error}")
            return unusable

    def _mine(self, claim: Claim) -> bool:
        """Whether to keep states, which are large: their author does until the verdict."""
        return claim.author == self.hub.me

    def _seed(self, claim: Claim) -> int:
        body = claim.body
        assert isinstance(body, Experiment), "only experiments have seeds"
        return int.from_bytes(body.seed, "big")  # compared with the intent's before this was a claim

    def _reveal(self, claim: Claim, duty: Duty) -> None:
        item = (claim.evidence if duty.named is None else claim.jury).get(self.hub.me)
        if item is None:
            return  # late records have changed the view: no such duty any more
        kept = self.evidence.get(item.commit.body.digest)
        try:
            nonce, found = unpack_found(kept or {})
        except (KeyError, TypeError, ValueError) as error:
            raise GivenUp(detail="the evidence behind this node's commit is lost") from error
        self.hub.write(prover.reveal_body(duty.claim, item.commit.cid, nonce, found))

    # ---- a disputed segment, step by step

    async def _trace(self, claim: Claim, duty: Duty) -> None:
        """Tell every state of the disputed segment as this node computes it."""
        assert duty.named is not None, "a trace answers a dispute"
        segment = duty.named[1]
        self.busy(f"tracing segment {segment} of {str(duty.experiment)[-8:]}")
        unusable = {"digests": [ZERO.hex()] * (claim.disputed_steps() + 1)}
        answer = await self._traced(claim, segment, {}, unusable)
        body = Trace(target=claim.cid, segment=segment, digests=tuple(map(bytes.fromhex, answer["digests"])))
        if claim.author == self.hub.me and (fault := self._own_fault(claim, segment, body)):
            raise GivenUp(detail=f"this node cannot show its own training again: {fault}")
        self.hub.write(body)
        self.hub.event(
            "traced", f"{len(body.digests) - 1} steps of segment {segment} of {str(duty.experiment)[-8:]}"
        )

    def _own_fault(self, claim: Claim, segment: int, body: Trace) -> str:
        assert claim.opening is not None, "a dispute follows an opening"
        return onestep.trace_fault(claim.opening.body, segment, claim.disputed_steps(), body.digests)

    async def _states(self, claim: Claim, duty: Duty) -> None:
        """Publish the own states around the steps that the jury recomputes."""
        assert duty.named is not None, "states answer a dispute"
        segment, steps = duty.named[1], [step for step in duty.steps if step]
        self.busy(f"publishing states of segment {segment} of {str(duty.experiment)[-8:]}")
        out = self.hub.home.work / f"trace-{str(claim.cid)[-16:]}"
        try:
            save = sorted({*steps, *(step - 1 for step in steps)})
            answer = await self._traced(claim, segment, {"save": save, "out_dir": str(out)}, None)
            blobs = {
                int(step): self.hub.blobs.put_file(Path(path), move=True) for step, path in answer["saved"]
            }
        finally:
            shutil.rmtree(out, ignore_errors=True)
        states = tuple((step, blobs[step - 1], blobs[step]) for step in steps)
        self.hub.write(TraceStates(target=claim.cid, segment=segment, states=states))
        self.hub.event("published", f"states around {len(steps)} steps of {str(duty.experiment)[-8:]}")

    async def _traced(
        self, claim: Claim, segment: int, extra: dict[str, Any], unusable: dict[str, Any] | None
    ) -> dict[str, Any]:
        state = claim.body.states[segment - 1] if segment else None
        async with (
            self.blob(claim.task.data, most_bytes=DATASET_BYTES_MAX) as data,
            self.blob(state, keep=self._mine(claim)) as path,
            self.bases(claim, segment) as bases,
        ):
            job = {
                **bases, "task": task_spec(claim.task), "recipe": claim.recipe, "data_path": str(data),
                "segment": segment, "seed": self._seed(claim), "state_path": None if path is None else str(path),
                **extra,
            }  # fmt: skip
            return await self._call("trace", job, unusable)

    async def _judge_steps(self, claim: Claim) -> prover.Found:
        """The relative error of each disputed step, from the author's state before it, on this node's hardware."""
        assert claim.named is not None, "a jury serves in a dispute"
        segment, told = claim.named[1], claim.traces[claim.author][1].body.digests
        given = {} if claim.states is None else {step: (a, b) for step, a, b in claim.states.body.states}
        start = claim.body.states[segment - 1] if segment else None
        common = {
            "task": task_spec(claim.task), "recipe": claim.recipe, "segment": segment,
            "seed": self._seed(claim),
        }  # fmt: skip
        steps, cpu_ms, unusable = [], 0, {"before": ZERO.hex(), "after": None, "ppm": STEP_PPM_MAX}
        for step in claim.steps:
            before, after = given[step] if step else (start, None)
            keep = self._mine(claim)
            async with (
                self.blob(claim.task.data, most_bytes=DATASET_BYTES_MAX) as data,
                self.blob(before, keep=keep) as before_path,
                self.blob(after, keep=keep) as after_path,
                self.bases(claim, segment) as bases,
            ):
                job = {
                    **common, **bases, "step": step, "data_path": str(data),
                    "before_path": None if before_path is None else str(before_path),
                    "after_path": None if after_path is None else str(after_path),
                }  # fmt: skip
                answer = await self._call("step_distance", job, unusable)
            said = (answer["before"], answer["after"])
            due = (told[max(0, step - 1)].hex(), told[step].hex() if step else None)
            steps.append((step, int(answer["ppm"]) if said == due else STEP_PPM_MAX))
            cpu_ms += int(answer.get("cpu_ms", 0))
        return prover.Found(None, (), (), cpu_ms, tuple(steps))

    # ---- an author's side

    async def _open(self, claim: Claim) -> None:
        self.busy(f"opening {str(claim.target.cid)[-8:]}")
        assert claim.body.state_root is not None, "a claim has commitments"
        kept = self.runs.get(claim.body.state_root)
        try:
            run = unpack_run(kept or {})
        except (KeyError, TypeError, ValueError) as error:
            raise GivenUp(detail="the secrets of this run are lost; it stays without a verdict") from error
        inner: dict[tuple[int, int], bytes] = {}
        for segment, step in prover.asked_inner(claim):
            found = await self._recompute(claim, Probe((), ((segment, step),)))
            inner[segment, step] = found.segments[0][3]
        now = self.hub.view.claims.get(claim.target.cid)
        if now is not None and now.cid == claim.cid:
            self.hub.write(prover.opening(claim, run, inner))
            self.hub.event("opened", f"{str(claim.target.cid)[-8:]} for {len(claim.evidence)} verifier(s)")
