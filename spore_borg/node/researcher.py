"""The research loop: propose, declare, run, publish, again.

Every number in a claim comes from the harness in the worker; the seed comes from what others reveal after the run
was declared, so nobody chooses it. While one run trains, the seeds of the next ripen.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import trio

from spore_borg.errors import NotFound
from spore_borg.node.drawer import Drawer, pack_run
from spore_borg.node.hub import Hub
from spore_borg.node.plans import Plan, Plans
from spore_borg.node.tasks import task_spec
from spore_borg.policies import deck, prover
from spore_borg.policies.operators import Proposal, Space, Trial, space_of
from spore_borg.policies.proposer import Situation, propose
from spore_borg.records.bodies import Task
from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record
from spore_borg.runner.client import Worker
from spore_borg.runner.errors import WorkerError, WorkerRefused
from spore_borg.views.frontier import Frontier, short_unit, show
from spore_borg.views.reduce import View
from spore_borg.views.seeds import Drawn
from spore_borg.views.settle import recipe_digest
from workspace import recipe

Fetch = Callable[[Cid], Awaitable[Path]]
Progress = Callable[[dict[str, Any] | None], None]

PENDING_MAX = 6  # own claims without a verdict; beyond that research waits for verification
INTENT_EPOCHS = (
    20  # length of a lease on a recipe, beside twice the time that it and those before it should train
)
IDLE_S = 5.0
PAUSE_S, PAUSE_S_MAX = (
    2.0,
    300.0,
)  # after a run that failed for no reason of its recipe; doubled each time in a row
RESULTS = frozenset(("recipe", "crashed"))  # kinds of refusal that say something about the recipe


def seq_max(task: Task) -> int:
    """The longest sequence that a recipe of this task may have, in tokens."""
    return int(task.spec.get("seq", 64))


class Researcher:
    """One node's research on one task.

    Args:
        family, fingerprint: hardware class and measured fingerprint of the worker.
        share: part of the time in which experiments run (0…1).
    """

    def __init__(
        self,
        hub: Hub,
        worker: Worker,
        fetch: Fetch,
        progress: Progress,
        *,
        family: str,
        fingerprint: bytes,
        rng: Random,
    ) -> None:
        self.hub, self.worker, self.fetch, self.progress = hub, worker, fetch, progress
        self.family, self.fingerprint, self.rng = family, fingerprint, rng
        self.runs = Drawer(hub.home.work / "runs")
        self.count = 0
        self.failures = 0  # in a row, and not by the recipe's fault
        self.run_s = 0.0  # how long the last run trained
        self._checked: dict[Cid, bool] = {}  # experiment → whether its recipe is one of the task's

    async def run(self, task_cid: Cid, experiments: int | None) -> None:
        """Research until cancelled, or until ``experiments`` runs are published."""
        task, plans = self.hub.view.tasks[task_cid], Plans(self.hub, task_cid)
        while experiments is None or self.count < experiments:
            data = await self._dataset(task)  # each time: it may be gone, and come back from a peer
            left = None if experiments is None else experiments - self.count
            await self._declare(task_cid, task, plans, left)
            await self._wait_for_verification()
            plan, drawn = await self._ripe(task_cid, task, plans, left)
            self.count += await self._experiment(task_cid, task, data, plan, drawn)
            plans.drop(plan)
            if self.failures:
                await trio.sleep(min(PAUSE_S_MAX, PAUSE_S * 2 ** min(self.failures, 16)))

    async def _dataset(self, task: Task) -> Path:
        """The dataset's file; waits for a peer that has it."""
        told = False
        while True:
            try:
                return await self.fetch(task.data)
            except NotFound:
                if not told:
                    self.hub.event(
                        "waiting", f"no peer that is connected has the dataset of task {task.name} yet"
                    )
                    told = True
                await trio.sleep(IDLE_S)

    async def _wait_for_verification(self) -> None:
        """Research must not outrun verification: states on the disk and the others' time are limited."""
        told = False
        while sum(claim.author == self.hub.me for claim in self.hub.view.pending) >= PENDING_MAX:
            if not told:
                self.hub.event("waiting", f"{PENDING_MAX} own claims wait for verification; research pauses")
                told = True
            await self.hub.changed()

    # ---- what to run

    async def _ripe(self, task_cid: Cid, task: Task, plans: Plans, left: int | None) -> tuple[Plan, Drawn]:
        """The next declared run that has a seed. Before it begins, others are declared: their seeds ripen meanwhile."""
        while True:
            await self._declare(task_cid, task, plans, left)
            found = plans.ripe()
            if found is not None:
                return found
            with trio.move_on_after(IDLE_S):
                await self.hub.changed()

    async def _declare(self, task_cid: Cid, task: Task, plans: Plans, left: int | None) -> None:
        """Declare runs while there is room; at least one is waiting afterwards, if there may be any."""
        while plans.room() > 0 and (left is None or len(plans.waiting) < left):
            proposal = await self._propose(task_cid, task, plans.recipes(), wait=not plans.waiting)
            if proposal is None:
                return
            epoch_s = self.hub.clock.epoch_ms / 1000 if self.hub.clock else 1.0
            training = int(2 * self.run_s * (len(plans.waiting) + 1) / epoch_s)
            plans.declare(proposal, self.hub.epoch() + INTENT_EPOCHS + training)

    async def _propose(
        self, task_cid: Cid, task: Task, declared: frozenset[bytes], *, wait: bool
    ) -> Proposal | None:
        """The policy's next proposal.

        Args:
            declared: digests of recipes that are not to be proposed again.
            wait: whether to wait while there is nothing to start from; else None.
        """
        told = False
        while True:
            try:
                # In a thread: a model of many runs takes its time, and the connections go on meanwhile.
                proposal = await trio.to_thread.run_sync(
                    self.decide, self._situation(task_cid, task, declared), abandon_on_cancel=True
                )
            except ValueError as error:  # of the task itself; verification goes on
                proposal = None
                if not told:
                    self.hub.event("warning", f"nothing can be proposed for task {task.name}: {error}")
                    told = True
            if proposal is not None or not wait:
                return proposal
            with trio.move_on_after(IDLE_S):
                await self.hub.changed()

    def decide(self, now: Situation) -> Proposal | None:
        """What to run next, from what is known; called in a thread."""
        return propose(now, self.rng)

    def space(self, task: Task) -> Space:
        """The recipes of a task."""
        return space_of(recipe, deck.NEEDS, seq_max=seq_max(task))

    def _situation(self, task_cid: Cid, task: Task, declared: frozenset[bytes]) -> Situation:
        view, epoch = self.hub.view, self.hub.epoch()
        trials = {trial.cid: trial for trial in self.trials(view, task_cid)}
        frontier = view.solo[task_cid, self.family] if (task_cid, self.family) in view.solo else Frontier()
        leased = frozenset(
            record.body.recipe for record in self.hub.records
            if record.kind == "intent" and record.author != self.hub.me and record.body.until >= epoch
        ) | declared  # fmt: skip
        return Situation(
            space=self.space(task), baseline=task.baseline,
            trials=tuple(trials.values()),
            frontier=tuple(trials[step.cid] for step in frontier.steps if step.cid in trials),
            taken=frozenset(recipe_digest(trial.recipe) for trial in trials.values()) | leased, leased=leased,
            sigma=task.sigma, gain_min=task.gain_min, epoch=epoch, key=self.hub.me,
        )  # fmt: skip

    def trials(self, view: View, task_cid: Cid) -> list[Trial]:
        """Everyone's runs of the task in this node's class, and this node's own unverified ones."""
        found = []
        metrics = {
            r.cid: r.body.metric
            for r in self.hub.records
            if r.kind == "experiment" and r.body.metric is not None
        }
        for record in self.hub.records:  # also those that the view has not folded yet
            if (
                record.kind != "experiment"
                or record.body.task != task_cid
                or record.body.family != self.family
                or not self._usable(record, view.tasks[task_cid])
            ):
                continue
            claim, body = view.claims.get(record.cid), record.body
            accepted = claim is not None and claim.verdict in ("accepted", "solo")
            if claim is not None and claim.verdict == "refuted":
                continue
            gain = None
            if body.metric is not None and body.bases and body.bases[0] in metrics:
                gain = metrics[body.bases[0]] - body.metric
            found.append(
                Trial(
                    cid=record.cid,
                    recipe=body.recipe,
                    metric=body.metric,
                    author=record.author,
                    accepted=accepted,
                    operator=body.operator,
                    bases=body.bases,
                    gain=gain,
                    epoch=record.epoch,
                )
            )
        return found

    def _usable(self, record: Record, task: Task) -> bool:
        """Whether the harness would take the recipe. Anyone may sign any; operators need every field in its bounds."""
        known = self._checked.get(record.cid)
        if known is None:
            try:
                self.space(task).validate(record.body.recipe)
            except ValueError:
                known = False
            else:
                known = True
            self._checked[record.cid] = known
        return known

    # ---- running it

    async def _experiment(self, task_cid: Cid, task: Task, data: Path, plan: Plan, drawn: Drawn) -> bool:
        """Do a declared run and publish it; whether it was published."""
        out = self.hub.home.work / "run"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        proposal = plan.proposal
        seed = int.from_bytes(drawn.seed, "big")
        began, what = time.monotonic(), f"{proposal.operator}: {proposal.why}"
        self.hub.event("experiment", f"begins: {what}")

        def report(step: dict[str, Any]) -> None:
            done, steps = step.get("step", 0), step.get("steps", 0)
            eta_s = (time.monotonic() - began) * (steps - done) / done if done else None
            self.progress({"what": what, "eta_s": eta_s, "started_ms": int(time.time() * 1000), **step})

        job = {**self.job(task, proposal, seed), "data_path": str(data), "out_dir": str(out)}
        limit_s = 40 * int(task.spec.get("cpu_s_max", 600))
        try:
            answer = await self.worker.call("train", job, on_progress=report, timeout_s=limit_s)
            self.failures = 0
        except WorkerError as error:  # a recipe that this task does not allow is a result too
            answer = {"status": "crashed", "error": str(error.fields.get("detail", error))}
            of_recipe = isinstance(error, WorkerRefused) and error.fields.get("kind") in RESULTS
            self.failures = 0 if of_recipe else self.failures + 1
        finally:
            self.progress(None)
        self.run_s = time.monotonic() - began
        self.publish(task_cid, task, plan, drawn.seed, answer)
        shutil.rmtree(out, ignore_errors=True)
        return True

    def job(self, task: Task, proposal: Proposal, seed: int) -> dict[str, Any]:
        """What the worker is asked to train."""
        return {"task": task_spec(task), "recipe": proposal.recipe, "seed": seed}

    def publish(self, task_cid: Cid, task: Task, plan: Plan, seed: bytes, answer: dict[str, Any]) -> None:
        """Store the run's files and secrets, then sign its claim."""
        proposal = plan.proposal
        facts = prover.Facts(
            recipe=proposal.recipe, operator=proposal.operator, why=proposal.why, bases=plan.intent.body.bases,
            intent=plan.intent.cid, seed=seed, family=self.family, fingerprint=self.fingerprint,
            params_count=answer.get("params_count", 0),
            steps=answer.get("steps", 0), flops=answer.get("flops", 0), cpu_ms=answer.get("cpu_ms", 0),
            curve=tuple(answer.get("curve", ())),
        )  # fmt: skip
        if answer["status"] == "crashed":
            self.hub.write(prover.crash_body(task_cid, facts, answer["error"]))
            self.hub.event("crashed", f"{proposal.operator}: {proposal.why}: {answer['error']}")
            return
        run = self.secrets(int.from_bytes(seed, "big"), answer)
        weights = self.hub.blobs.put_file(answer["weights_path"], move=True)
        states = [self.hub.blobs.put_file(path, move=True) for path in answer["state_paths"][1:]]
        outcome = self._outcome(task_cid, proposal, sum(run.losses) // task.val_bytes)
        body = prover.claim_body(task_cid, task, facts, run, weights, states, outcome)
        assert body.state_root is not None and body.metric is not None, "a finished run has commitments"
        self.runs.put(body.state_root, pack_run(run))
        record = self.hub.write(body)
        self.hub.event(
            "published", f"{outcome}: {proposal.operator}: {proposal.why}: {show(body.metric)} {short_unit(task.unit)}",
            cid=str(record.cid), metric=body.metric, outcome=outcome,
        )  # fmt: skip

    def secrets(self, seed: int, answer: dict[str, Any]) -> prover.Run:
        """The run's commitments-to-be, with salts that only this key can derive."""
        octets, key = bytes.fromhex, self.hub.key
        return prover.Run(
            losses=tuple(answer["losses"]), digests=tuple(octets(d) for d in answer["digests"]),
            params=octets(answer["params"]), tail=octets(answer["tail"]),
            loss_secret=prover.secret(key.derive("losses"), "losses", seed),
            state_secret=prover.secret(key.derive("states"), "states", seed),
        )  # fmt: skip

    def _outcome(self, task_cid: Cid, proposal: Proposal, metric: int) -> str:
        """The author's own word: kept if the run beats the best known by its mean, or else its own base."""
        frontier = self.hub.view.solo.get((task_cid, self.family))
        if frontier is not None and frontier.steps:
            return "kept" if metric < frontier.mean(frontier.steps[-1].recipe) else "discarded"
        bases = [r.body.metric for r in self.hub.records if r.cid in proposal.bases]
        return "kept" if all(base is None or metric < base for base in bases) else "discarded"
