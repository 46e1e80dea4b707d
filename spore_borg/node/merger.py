"""Merges absorbed models of one lineage: brings the inputs' files here, has the worker merge and measure, claims.

What may be merged and with which weights is decided by ``policies.merging`` and ``views.lineage``.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spore_borg.errors import BorgError
from spore_borg.node import conversions
from spore_borg.node.conversions import Source
from spore_borg.node.requests import Request
from spore_borg.policies import absorber as policy
from spore_borg.policies import merging
from spore_borg.records.bodies import Absorption
from spore_borg.records.cid import Cid
from spore_borg.views import lineage

if TYPE_CHECKING:
    from spore_borg.node.absorber import Absorber


class Declined(BorgError):
    """{detail}"""


class Merger:
    """One node's merges; ``at``: the absorber whose worker, requests and hub it uses."""

    def __init__(self, at: Absorber) -> None:
        self._at = at

    def ask(self, cids: Sequence[str], rule: str, base: str | None) -> str:
        """Keep a wish to merge; the request's name. Raises Declined at once where there can be no such merge."""
        self._parsed(cids, rule, base)
        request = self._at.requests.add_merge(cids, rule, base)
        self._at.wake()
        return request.id

    def _parsed(self, cids: Sequence[str], rule: str, base: str | None) -> policy.Merging:
        try:
            return self.checked(
                [Cid.parse(text) for text in cids], rule, None if base is None else Cid.parse(base)
            )
        except ValueError as error:
            raise Declined(detail=f"Here is something that is no id of a record: {error}.") from error

    async def serve(self, request: Request, out: Path) -> None:
        """Merge what a person named."""
        merge = self._parsed(request.inputs, request.merging, request.base)
        name, _, licence = merging.words(self._at.hub.view, merge)
        request = self._at.requests.move(request, "fetching", "Brings the files of the models here.")
        cid, metric, answer = await self._merge(merge, out, self._at.reporter(request, name))
        self._at.published(request, cid, metric, answer, name, licence)

    def checked(self, inputs: Sequence[Cid], rule: str, base: Cid | None) -> policy.Merging:
        """The merge of these. Raises Declined with the reason if there can be none."""
        found = merging.merging_of(self._at.hub.view, self._at.hub.me, inputs, rule, base)
        if isinstance(found, str):
            raise Declined(detail=found)
        if self._at.hub.view.claims[found.inputs[0]].task.evaluator != self._at.evaluator:
            raise Declined(
                detail="They were measured by another version of this program; absorb them again first."
            )
        return found

    async def propose(self, inputs: tuple[Cid, ...]) -> None:
        """Merge members of a lineage, which nobody asked for."""
        merge = self.checked(inputs, merging.OWN_RULE, None)
        self._at.hub.event("merging", f"{merging.words(self._at.hub.view, merge)[0]}: one model for several")
        out = self._at.hub.home.work / f"merge-{hashlib.sha256(b''.join(inputs)).hexdigest()[:16]}"
        try:
            await self._merge(merge, out)
        finally:
            shutil.rmtree(out, ignore_errors=True)

    async def _merge(
        self, merge: policy.Merging, out: Path, report: Callable[[dict[str, Any]], None] | None = None
    ) -> tuple[Cid, int, dict[str, Any]]:
        """Merge, convert, measure and claim: cid, metric and what the worker said."""
        view = self._at.hub.view
        first = view.claims[merge.inputs[0]].body
        assert isinstance(first, Absorption), "checked when the merge was asked for"
        name, origin, licence = merging.words(view, merge)
        blobs = lineage.sources_of(view.claims, merge.inputs, merge.base)
        state = policy.state_for(view, self._at.hub.me, first.modality)
        folder = out / "source"
        async with conversions.sources(self._at.blob, blobs, folder) as files:
            extra = {
                "files": files, "origin": origin, "licence": licence, "name": name, "rule": first.rule,
                "steps": first.steps, **conversions.merge_job(view, merge, state, folder),
            }  # fmt: skip
            answer = await self._at.convert(first.task, state, extra, out, report)
        source = Source((), blobs, origin, licence, name)
        cid, metric = self._at.publish(
            first.task, source, state, answer, first.rule, first.steps, merge=merge
        )
        return cid, metric, answer
