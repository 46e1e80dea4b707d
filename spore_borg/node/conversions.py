"""Recomputes parts of absorptions in the worker: losses of blocks, and layer groups converted again.

Used by verifiers and by authors; nothing here judges.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spore_borg.errors import BorgError
from spore_borg.node.download import TooLarge
from spore_borg.node.tasks import task_spec
from spore_borg.policies import prover
from spore_borg.policies.absorber import Merging
from spore_borg.records import merkle
from spore_borg.records.bodies import Absorption, Merge, Refinement
from spore_borg.records.cid import Cid
from spore_borg.views import lineage
from spore_borg.views.draw import Probe
from spore_borg.views.reduce import View
from spore_borg.views.verdicts import Claim

Whole = AbstractAsyncContextManager[Path | None]  # a blob's file, here and whole while it is used
Blob = Callable[..., Whole]  # cid, and most_bytes where a larger one is not wanted
Call = Callable[
    [str, dict[str, Any], dict[str, Any] | None], Awaitable[dict[str, Any]]
]  # op, params, unusable
ZERO = bytes(32)


class Undeclared(BorgError):
    """{what} has another size than its claim declares."""


@dataclass(frozen=True, slots=True)
class Source:
    """A model's original files, here and as blobs."""

    files: tuple[tuple[str, Path], ...]
    blobs: tuple[tuple[str, Cid], ...]
    origin: str
    licence: str
    name: str

    def job(self) -> dict[str, Any]:
        """What the worker is told of it."""
        files = [[name, str(path)] for name, path in self.files]
        return {"files": files, "origin": self.origin, "licence": self.licence, "name": self.name}


@asynccontextmanager
async def sources(
    blob: Blob, named: Sequence[tuple[str, Cid]], out: Path, size_bytes: int | None = None
) -> AsyncIterator[list[list[str]]]:
    """The original files under their names as ``[[name, path]]``: links into the blobs, gone afterwards.

    Names were checked when the record was admitted: they lead nowhere but below ``out``.

    Args:
        size_bytes: of all different files, as declared; nothing beyond it is fetched. None: any.
    Raises:
        Undeclared: they have another size.
    """
    async with AsyncExitStack() as stack:
        found: dict[Cid, Path] = {}
        files, left = [], size_bytes
        try:
            for name, cid in named:
                if cid not in found:
                    found[cid] = await stack.enter_async_context(sized(blob, cid, left, "The source"))
                    left = None if left is None else left - found[cid].stat().st_size
                files.append([name, _linked(out / name, found[cid])])
            if left:
                raise Undeclared(what="The source")
            yield files
        finally:
            shutil.rmtree(out, ignore_errors=True)


@asynccontextmanager
async def sized(blob: Blob, cid: Cid, most_bytes: int | None, what: str) -> AsyncIterator[Path]:
    """A blob's file, of at most this size. Raises Undeclared for a larger one, which is not fetched."""
    async with AsyncExitStack() as stack:
        try:
            path = await stack.enter_async_context(blob(cid, most_bytes=most_bytes))
        except TooLarge as error:
            raise Undeclared(what=what) from error
        assert path is not None, "a blob has a file"
        if most_bytes is not None and path.stat().st_size > most_bytes:
            raise Undeclared(what=what)
        yield path


def source_bytes(sizes: Callable[[Cid], int], named: Sequence[tuple[str, Cid]]) -> int:
    """What all different files of a source have together; ``sizes`` says it of a blob that is here."""
    return sum(sizes(cid) for cid in {cid for _, cid in named})


def _linked(path: Path, target: Path) -> str:
    """Make a name for a blob's file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target.absolute())
    return str(path)


async def state_files(view: View, blob: Blob, state: Sequence[Cid], stack: AsyncExitStack) -> list[list[str]]:
    """The shards of the members of a state as ``[[cid, path]]``, here until the stack ends."""
    found = []
    for cid in state:
        weights = view.claims[cid].body.weights
        assert weights is not None, "an absorption has a shard"
        found.append([str(cid), str(await stack.enter_async_context(blob(weights)))])
    return found


def merge_job(view: View, merge: Merge | Merging, state: Sequence[Cid], folder: Path) -> dict[str, Any]:
    """What the worker needs besides files to make one model of several; ``folder``: where their files are linked."""
    gone = [str(cid) for cid in lineage.replaced_by(view, merge.inputs, state)]
    told = {"rule": merge.merging, "incomes": list(merge.incomes), "base": merge.base is not None}
    # No source lies in this folder: the names of a merge's sources begin with a number or with "base".
    return {"merge": told, "replaced": gone, "scratch_dir": str(folder / "merged")}


def base_claim(view: View, body: Absorption) -> Claim | None:
    """The claim that a refinement builds on; None for an absorption."""
    return view.claims.get(body.base) if isinstance(body, Refinement) else None


def commitments(run: prover.Run) -> dict[str, Any]:
    """The fields of a body that commit to losses and digests."""
    root = merkle.loss_root(run.loss_secret, list(run.losses))
    return {
        "loss_root": root.digest, "loss_sum": root.total,
        "state_root": merkle.state_root(run.state_secret, list(run.digests)),
    }  # fmt: skip


@asynccontextmanager
async def job_of(
    view: View, blob: Blob, claim: Claim, scratch: Path, state: Sequence[Cid] | None = None
) -> AsyncIterator[dict[str, Any]]:
    """What the worker must have to recompute a part of a claim; the files stay while the block lasts.

    Args:
        scratch: a directory for the sources' names; removed afterwards.
        state: measured against these members instead of the claim's own.
    """
    body = claim.body
    assert isinstance(body, Absorption), "only absorptions are converted"
    base = base_claim(view, body)
    async with AsyncExitStack() as stack:
        against = body.state if state is None else state
        files = await stack.enter_async_context(sources(blob, body.sources, scratch, body.source_bytes))
        suite = await stack.enter_async_context(blob(claim.task.data))
        shard = await stack.enter_async_context(sized(blob, body.weights, body.shard_bytes, "The shard"))
        if shard.stat().st_size != body.shard_bytes:
            raise Undeclared(what="The shard")
        job: dict[str, Any] = {
            "task": task_spec(claim.task), "files": files, "origin": body.origin, "licence": body.licence,
            "name": body.name, "suite_path": str(suite), "shard_path": str(shard), "rule": body.rule,
            "steps": body.steps, "ops": body.ops,
            "state": await state_files(view, blob, against, stack),
        }  # fmt: skip
        if isinstance(body, Merge):
            job |= merge_job(view, body, against, scratch)
        if base is not None:
            assert isinstance(base.body, Absorption), "checked when the refinement became a claim"
            whole = await stack.enter_async_context(blob(base.body.weights))
            job |= {"base_path": str(whole), "base_cid": str(base.target.cid)}
        yield job


async def measure(
    view: View, call: Call, blob: Blob, claim: Claim, blocks: Iterable[int], cache: Path, state: Sequence[Cid]
) -> dict[str, Any]:
    """Losses of blocks of a shard against a state: ``losses [[block, nano]] params cpu_ms``."""
    async with job_of(view, blob, claim, _scratch(cache, claim), state) as job:
        return await call("measure", {**job, "blocks": list(blocks), "cache_dir": str(cache)}, None)


async def recompute(
    view: View, call: Call, blob: Blob, claim: Claim, probe: Probe, cache: Path
) -> prover.Found:
    """Do what a probe asks for: losses of blocks, layer groups converted again.

    What an author published and the code here cannot use, or what costs more than declared, gives evidence that fits
    no claim.
    """
    try:
        return await _recompute(view, call, blob, claim, probe, cache)
    except Undeclared:
        nothing = tuple((segment, step, ZERO, ZERO, ZERO) for segment, step in probe.segments)
        return prover.Found(ZERO, tuple((block, 0) for block in probe.blocks), nothing, 0)


async def _recompute(
    view: View, call: Call, blob: Blob, claim: Claim, probe: Probe, cache: Path
) -> prover.Found:
    params: bytes | None = None
    losses: tuple[tuple[int, int], ...] = ()
    segments, cpu_ms = [], 0
    async with job_of(view, blob, claim, _scratch(cache, claim)) as job:
        if probe.blocks:
            unusable = {"params": ZERO.hex(), "losses": [[block, 0] for block in probe.blocks]}
            wanted = {**job, "blocks": list(probe.blocks), "cache_dir": str(cache)}
            answer = await call("measure", wanted, unusable)
            params, cpu_ms = bytes.fromhex(answer["params"]), int(answer.get("cpu_ms", 0))
            losses = tuple((int(block), int(loss)) for block, loss in answer["losses"])
        for segment, step in probe.segments:
            nothing = dict.fromkeys(("start", "inner", "end"), ZERO.hex())
            answer = await call("redo", {**job, "segment": segment, "inner_step": step}, nothing)
            start, inner, end = (bytes.fromhex(answer[name]) for name in ("start", "inner", "end"))
            segments.append((segment, step, start, inner, end))
            cpu_ms += int(answer.get("cpu_ms", 0))
    return prover.Found(params, losses, tuple(segments), cpu_ms)


def _scratch(cache: Path, claim: Claim) -> Path:
    return cache / f"source-{str(claim.target.cid)[-16:]}-{secrets.token_hex(4)}"
