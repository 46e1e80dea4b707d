"""``borg run``: the supervisor. Starts every part of a node in one nursery and stops them together."""

from __future__ import annotations

import logging
import logging.handlers
import os
import random
import secrets
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import trio

from spore_borg.config import Config, load
from spore_borg.errors import NotAllowed, NotFound, TimedOut, UsageError
from spore_borg.home import Home
from spore_borg.node import blame, control, face, janitor, lattices, own_tasks, pages, sealer, setup
from spore_borg.node.absorber import Absorber, retract_own
from spore_borg.node.growing import GrowingResearcher
from spore_borg.node.hub import Hub
from spore_borg.node.invitations import Invitations
from spore_borg.node.lattices import evaluator_of
from spore_borg.node.peers import Peers
from spore_borg.node.researcher import Researcher
from spore_borg.node.tasks import task_body
from spore_borg.node.ticket import PREFIX
from spore_borg.node.ticket import parse as parse_ticket
from spore_borg.node.transport import Endpoint
from spore_borg.node.verifier import Verifier
from spore_borg.records.bodies import Task
from spore_borg.records.cid import Cid
from spore_borg.records.keys import node_name
from spore_borg.runner.client import Worker
from spore_borg.views.lattices import KIND, is_lattice
from spore_borg.views.reduce import View
from spore_borg.views.terms import takes_absorptions
from workspace.tasks import spec

LOG_BYTES_MAX = 4 << 20
HELLO_TIMEOUT_S = 300.0
DATASET_TIMEOUT_S = 1_800.0
BLOB_TIMEOUT_S = 20.0  # without any progress
SYNC_LOOK_S = 0.1
CONNECT_TIMEOUT_S = 10.0


def main(path: Path, options: Mapping[str, Any]) -> None:
    """Run a node until Ctrl-C, SIGTERM, or the end that the options set.

    Args:
        path: the home directory.
        options: of ``borg run``, by name; None where not given.
    Raises:
        Locked, UsageError, ConfigError, IntegrityError: before anything is started.
    """
    home = Home(path).create()
    config = load(home.config, options=_settings(options))
    with home.lock():
        _log_to(home.node_log)
        hub, seed = setup.open_hub(home, options.get("join"), epoch_ms=config.epoch_ms, name=config.name)
        try:
            trio.run(_until_stopped, Node(home, hub, seed, config, options), strict_exception_groups=True)
        except BaseExceptionGroup as group:
            error = blame.one_of(group)
            raise error from (None if error is group else group)
        finally:
            hub.close()


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are settings, under the settings' names."""
    host, port = options.get("listen") or (None, None)
    task = options["task"] if options.get("task") in own_tasks.SHIPPED else None  # others are no setting
    role = "verify" if options.get("verify_only") else "sync" if options.get("no_train") else None
    return {
        "name": options.get("name"), "task": task, "role": role, "resource": options.get("resource"),
        "epoch_ms": options.get("epoch_ms"), "listen_host": host, "listen_port": port,
        "suite": options.get("suite"), "offline": options.get("offline"),
        "explorer": False if options.get("no_explorer") else None, "explorer_port": options.get("explorer_port"),
    }  # fmt: skip


def _log_to(path: Path) -> None:
    handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=LOG_BYTES_MAX, backupCount=2, encoding="utf-8"
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("spore_borg")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)


async def _until_stopped(node: Node) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_on_signal, nursery.cancel_scope)
        seconds = node.options.get("seconds")
        if seconds is not None:
            nursery.cancel_scope.deadline = trio.current_time() + seconds
        await node.run()
        nursery.cancel_scope.cancel()


async def _stop_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
            return


class Node:
    """The parts of one running node."""

    def __init__(self, home: Home, hub: Hub, seed: bytes, config: Config, options: Mapping[str, Any]) -> None:
        self.home, self.hub, self.config, self.options = home, hub, config, options
        self.face = face.Face(hub)
        assert hub.mesh is not None, "setup chose a mesh"
        self.peers = Peers(
            seed, hub.mesh, hub.log, hub, hub.blobs,
            listen=Endpoint(config.listen_host, config.listen_port), next_free=options.get("listen") is None,
            role=config.role, agent=setup.AGENT,
        )  # fmt: skip
        self.address = (config.listen_host, config.listen_port)
        self.absorber: Absorber | None = None

    async def run(self) -> None:
        """Everything, until research has done what was asked or the caller cancels."""
        for warning in self.config.warnings:
            self.hub.event("warning", warning)
        self.hub.on_own = self.peers.publish
        async with trio.open_nursery() as nursery:
            endpoint = await nursery.start(self.peers.run)
            self.address = (endpoint.host, endpoint.port)
            self.invitations = Invitations(self.hub, self.address)
            self._dial()
            await nursery.start(control.serve, self.home.control, self._handlers())
            nursery.start_soon(self.hub.refresh_forever)
            if self.config.explorer:
                nursery.start_soon(
                    pages.serve_pages,
                    self.home.path,
                    self.config.explorer_bind,
                    self.config.explorer_port,
                    self._pages_ready,
                    self._pages_failed,
                )
            nursery.start_soon(partial(face.show_forever, self.face, as_json=bool(self.options.get("json"))))
            self.face.peers = self.peers.status
            self.face.node = {"address": f"{endpoint}", "mode": self.config.role, "pid": os.getpid()}
            self.hub.event("started", f"node {node_name(self.hub.me)[:8]} listens on {endpoint}")
            if self.config.role == "sync":
                await trio.sleep_forever()
            await self._work(nursery)
            nursery.cancel_scope.cancel()

    def _pages_ready(self, url: str) -> None:
        self.face.explorer = url
        self.hub.event("explorer", f"the explorer is at {url}", url=url)

    def _pages_failed(self, last_line: str) -> None:
        text = f"the explorer ended and is started again: {last_line}"
        if not any(item["text"] == text for item in self.hub.events):  # it may go on like this for ever
            self.hub.event("warning", text)

    def _dial(self) -> None:
        """Dial the configured peers, those of the command line and the inviting node."""
        came_by = setup.stored_ticket(self.hub)
        if came_by is not None:
            for host, port in came_by.addresses:
                self.peers.connect(Endpoint(host, port), came_by.key)
        for text in (*self.config.peers, *(self.options.get("connect") or ())):
            if text.startswith(PREFIX):
                ticket = parse_ticket(text)
                for host, port in ticket.addresses:
                    self.peers.connect(Endpoint(host, port), ticket.key)
            else:
                self.peers.connect(Endpoint.parse(text), None)

    # ---- work

    async def _work(self, nursery: trio.Nursery) -> None:
        """Research and verification, once the mesh and the worker are there."""
        hub = self.hub
        while hub.clock is None:
            if not hub.events or hub.events[-1]["event"] != "syncing":
                hub.event("syncing", "waits for the mesh's records from the inviting node")
            await hub.changed()
        await self._wait_for_own_past()
        async with (
            Worker(resource=self.config.resource) as judge,
            Worker(resource=self.config.resource) as second,
            Worker(threads=self.config.threads, resource=self.config.resource) as third,
        ):
            hello = await judge.call("hello", {"threads": self.config.threads}, timeout_s=HELLO_TIMEOUT_S)
            await self._wait_for_invitation()
            joined = partial(
                setup.ensure_join,
                hub,
                hello,
                self.config.role,
                self.config.verify_bytes_max,
                self.config.verify_ops_max,
            )
            joined()
            setup.ensure_profile(hub, self.config.name)
            hub.event("joined", f"as {hello['family']}, fingerprint {hello['fingerprint'][:12]}")
            nursery.start_soon(sealer.seal_forever, hub, joined)
            nursery.start_soon(janitor.tidy_forever, hub, self.config.blob_budget_mb * 1_000_000)
            nursery.start_soon(self._keep_ticket)
            verifier = Verifier(
                hub, judge, self._fetch, self._verifying, harness=bytes.fromhex(hello["evaluator"]),
                absorber=bytes.fromhex(hello["absorber"]), lattice=bytes.fromhex(hello["lattice"]),
            )  # fmt: skip
            nursery.start_soon(verifier.run)
            self.absorber = self._absorber(third, verifier, hello)
            nursery.start_soon(self.absorber.run)
            if self.config.role != "research":
                await trio.sleep_forever()
            maker = maker_of(hello["family"], judge, second)
            task = await self._task(maker, hello)
            await maker.call("hello", {"threads": self.config.threads}, timeout_s=HELLO_TIMEOUT_S)
            researcher = self._researcher(maker, hello, self.hub.view.tasks[task])
            await researcher.run(task, self.options.get("experiments"))
            hub.event("done", f"{researcher.count} experiments published; stops as asked")

    def _absorber(self, worker: Worker, verifier: Verifier, hello: Mapping[str, Any]) -> Absorber:
        from spore_borg.node.cheats import ABSORB_CHEATS

        made = ABSORB_CHEATS.get(self.options.get("absorb_cheat") or "", Absorber)
        return made(
            self.hub, worker, verifier.blob, family=hello["family"], fingerprint=bytes.fromhex(hello["fingerprint"]),
            evaluator=bytes.fromhex(hello["absorber"]), refine=self.config.role == "research",
            every_s=float(self.config.refine_every_s), offline=self.config.offline, small=self.config.suite == "small",
        )  # fmt: skip

    def _researcher(self, worker: Worker, hello: Mapping[str, Any], task: Task) -> Researcher:
        from spore_borg.node.cheats import CHEATS

        honest = GrowingResearcher if is_lattice(task) else Researcher
        made = CHEATS.get(self.options.get("cheat") or "", honest)
        return made(
            self.hub, worker, self._fetch, self._running, family=hello["family"],
            fingerprint=bytes.fromhex(hello["fingerprint"]), rng=random.Random(secrets.randbits(64)),
        )  # fmt: skip

    async def _wait_for_own_past(self) -> None:
        """With an empty log, first learn from a peer what this key may have signed before.

        A key whose log was lost would otherwise give a number a second time, and be banned for that.
        """
        hub = self.hub

        def caught_up() -> bool:
            return any(row["synced"] and not row["behind"] for row in self.peers.status())

        while not hub.has_written and not caught_up():  # noqa: ASYNC110 - the wire has no event for it
            await trio.sleep(SYNC_LOOK_S)

    async def _wait_for_invitation(self) -> None:
        """A join that uses an invitation must come after it."""
        came_by = setup.stored_ticket(self.hub)
        if came_by is not None and came_by.invite is not None and not self.hub.own("join"):
            await self.hub.until(lambda _: came_by.invite is not None and came_by.invite[0] in self.hub.seq)

    async def _task(self, worker: Worker, hello: Mapping[str, Any]) -> Cid:
        """The task to work on: the mesh's own of the wanted name, or, for a root, a new one."""
        wanted = self.options.get("task") or (
            self.config.task if self.config.sources.get("task") != "default" else None
        )
        hub = self.hub
        if hub.view.genesis is not None and hub.me in hub.view.genesis.body.roots:
            name = wanted or self.config.task
            if not _known(hub, wanted):
                if name not in own_tasks.SHIPPED:
                    hint = (
                        "`borg task list` shows the mesh's tasks; `borg task new` makes one of your own text."
                    )
                    raise NotFound(what="task", name=name, hint=hint)
                await self._publish_task(worker, name, hello)
                wanted = name
        if _choose(hub.view, wanted) is None:
            named = f" {wanted}" if wanted else ""
            here = f"for the mesh's task{named} to be acknowledged"
            hub.event(
                "waiting", here if _known(hub, wanted) else f"for a task{named}: no record of it is here yet"
            )
        await hub.until(lambda view: _choose(view, wanted) is not None)
        cid = _choose(hub.view, wanted)
        assert cid is not None, "waited for"
        if hub.view.tasks[cid].evaluator.hex() != evaluator_of(hub.view.tasks[cid], hello):
            raise NotAllowed(
                detail=f"The mesh measures task {hub.view.tasks[cid].name} with another version of the harness. "
                "Install the version of spore-borg that its founder runs, or take part with --no-train."
            )
        return cid

    async def _publish_task(self, worker: Worker, name: str, hello: Mapping[str, Any]) -> None:
        hub = self.hub
        hub.event("preparing", f"builds the dataset of task {name}")
        out = self.home.work / "dataset.safetensors"
        if name == lattices.NAME:
            job = {"kind": KIND, "out": str(out)}
            answer = await worker.call("dataset", job, timeout_s=DATASET_TIMEOUT_S)
            data = hub.blobs.put_file(answer["path"], move=True)
            settings = {**answer["task"], "corpus": answer["corpus"], "licence": answer["licence"]}
            hub.write(lattices.lattice_task(settings, data, bytes.fromhex(hello["lattice"])))
            hub.event("task", f"task {name}: {answer['train_characters']} characters to read")
            return
        answer = await worker.call("dataset", {"out": str(out)}, timeout_s=DATASET_TIMEOUT_S)
        data = hub.blobs.put_file(answer["path"], move=True)
        settings = spec(
            name, val_bytes=answer["val_bytes"][name], corpus=answer["corpus"], licence=answer["licence"]
        )
        hub.write(task_body(settings, data, bytes.fromhex(hello["evaluator"])))
        hub.event("task", f"task {name}: {answer['train_tokens']} training tokens")

    async def _keep_ticket(self) -> None:
        """Always have a ticket to show that nobody has used yet."""
        while True:
            text = self.invitations.current()
            if text != self.face.ticket:
                self.face.ticket = text
                if text is not None:
                    self.hub.event("ticket", f"invite a node: borg run --join {text}", ticket=text)
            await self.hub.changed()

    async def _fetch(self, cid: Cid, most_bytes: int | None = None) -> Path:
        if not self.hub.blobs.has(cid):
            await self.peers.fetch_blob(cid, timeout_s=BLOB_TIMEOUT_S, most_bytes=most_bytes)
        return self.hub.blobs.path(cid)

    def _running(self, what: dict[str, Any] | None) -> None:
        self.face.run = what

    def _verifying(self, what: str | None) -> None:
        self.face.verify = what

    # ---- commands

    def _handlers(self) -> dict[str, control.Handler]:
        async def status() -> dict[str, Any]:
            return {
                **self.face.node,
                "explorer": self.face.explorer,
                "node": node_name(self.hub.me),
                **self.face.state(),
            }

        async def peers() -> list[dict[str, Any]]:
            return self.peers.status()

        async def ticket(invite: bool = True) -> str:
            if not invite:
                return self.invitations.plain()
            text = self.invitations.fresh()
            if text is None:
                raise NotAllowed(
                    detail="This node has no trust yet, so it cannot invite. Use `borg ticket --no-invite`, "
                    "or ask a trusted node."
                )
            return text

        async def connect(address: str) -> str:
            if address.startswith(PREFIX):
                given = parse_ticket(address)
                if given.mesh != self.hub.mesh:
                    raise UsageError(
                        detail="That ticket is of another mesh; a node belongs to one. Use another --home."
                    )
                endpoint, key = Endpoint(*given.addresses[0]), given.key
            else:
                endpoint, key = Endpoint.parse(address), None
            self.peers.connect(endpoint, key)
            with trio.move_on_after(CONNECT_TIMEOUT_S):
                while not any(row["address"] == str(endpoint) for row in self.peers.status()):  # noqa: ASYNC110
                    await trio.sleep(0.1)
                return str(endpoint)
            raise TimedOut(
                what=f"Connecting to {endpoint}", limit_s=CONNECT_TIMEOUT_S,
                hint="This node goes on trying. Does a node of the same mesh listen there, past every firewall?",
            )  # fmt: skip

        async def fetch(cid: str) -> str:
            try:
                wanted = Cid.parse(cid)
            except ValueError as error:
                raise UsageError(detail=f"{cid[:80]!r} is no cid: {error}.") from error
            return str(await self._fetch(wanted))

        async def task(dataset: str, settings: str, evaluator: str) -> str:
            return await own_tasks.publish_from(self.hub, dataset, settings, evaluator)

        return {
            "status": status, "peers": peers, "ticket": ticket, "connect": connect, "fetch": fetch, "task": task,
            **self._absorb_handlers(),
        }  # fmt: skip

    def _absorb_handlers(self) -> dict[str, control.Handler]:
        async def absorb() -> str:
            """A request was written: look for it. What this node does with it then stands in the request."""
            if self.config.role == "sync":
                raise NotAllowed(detail="This node only keeps records (role sync), so it absorbs nothing.")
            if self.absorber is not None:
                self.absorber.wake()
            return "heard"

        async def retract(cid: str, why: str = "") -> str:
            return str(retract_own(self.hub, cid, why).cid)

        async def merge(cids: str, rule: str, base: str = "") -> str:
            """Keep a wish to merge these (ids with spaces between); the request's name. A sentence if none can be."""
            if self.absorber is None:
                raise NotAllowed(detail="This node absorbs nothing now (role sync, or it is still starting).")
            return self.absorber.merger.ask(cids.split(), rule, base or None)

        return {"absorb": absorb, "retract": retract, "merge": merge}


def maker_of(family: str, judge: Worker, second: Worker) -> Worker:
    """The worker for research. A processor has cores for both; on a card research and verification take turns."""
    return second if family.startswith("CPU") else judge


def _choose(view: View, name: str | None) -> Cid | None:
    """The acknowledged task of this name or id, else the first one of the mesh; none that takes absorptions."""
    research = [cid for cid, task in view.tasks.items() if not takes_absorptions(task)]
    tasks = sorted(research, key=lambda cid: (view.ack.get(cid, 0), cid))
    return next((cid for cid in tasks if own_tasks.fits(name, view.tasks[cid].name, cid)), None)


def _known(hub: Hub, wanted: str | None) -> bool:
    """Whether a record of the wanted task is here, acknowledged or not; None: of any research task."""
    return any(
        own_tasks.fits(wanted, record.body.name, record.cid)
        for record in hub.records
        if record.kind == "task" and not takes_absorptions(record.body)
    )
