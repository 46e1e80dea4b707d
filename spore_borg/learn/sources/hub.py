"""``hf:ORG/MODEL[@REV][:PATH]``: a model's files from a hub, by huggingface_hub with its cache and offline mode.

``HF_ENDPOINT``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` are that library's own settings and hold here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spore_borg.learn.errors import SourceError
from spore_borg.learn.sources import files, licences, local

_SOURCE = re.compile(r"([\w.-]{1,96}/[\w.-]{1,96}|[\w.-]{1,96})(?:@([\w./-]{1,96}))?(?::(.{1,240}))?")
_OTHER_FRAMEWORKS = ("tf_model.h5", "flax_model.msgpack", "rust_model.ot")


def fetch(
    rest: str, *, offline: bool, each: Callable[[str], None]
) -> tuple[list[tuple[str, Path]], str, str, str]:
    """Files, origin, licence and name of ``ORG/MODEL[@REV][:PATH]``; files stay in the hub's cache.

    Raises SourceError: the library is missing, no such model, nothing in the cache while offline.
    """
    found = _SOURCE.fullmatch(rest)
    if found is None:
        raise SourceError(
            f"hf:{rest[:80]} names no model. Write hf:ORG/MODEL, hf:ORG/MODEL@REVISION or hf:ORG/MODEL:PATH."
        )
    repo, revision, path = found[1], found[2], found[3]
    try:
        import huggingface_hub
        from huggingface_hub import constants
    except ImportError as error:
        raise SourceError(
            "hf: needs huggingface_hub: install it with `pip install 'spore-borg[hf]'`."
        ) from error
    offline = offline or bool(constants.HF_HUB_OFFLINE)
    try:
        if offline:
            # Only what was fetched must be there: other frameworks' copies never were.
            needed = (
                [path, f"{path}/*.safetensors"]
                if path
                else ["*.safetensors", "config.json", "tokenizer*.json"]
            )
            top = Path(
                huggingface_hub.snapshot_download(
                    repo, revision=revision, local_files_only=True, allow_patterns=needed
                )
            )
            present = sorted(p.relative_to(top).as_posix() for p in top.rglob("*") if p.is_file())
            names = pick(present, path, f"hf:{repo} in the cache")
        else:
            names = _listed(huggingface_hub, repo, revision, path)
            each(f"fetch {len(names)} files of {repo}")
            # Names are taken literally: brackets and stars of a file's name are no pattern.
            literal = [re.sub(r"([\[\]*?])", r"[\1]", name) for name in names]
            top = Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=literal))
    except SourceError:
        raise
    except Exception as error:
        # Its own errors, those of the HTTP client that its version uses, and any other when an endpoint answers with
        # JSON of another form.
        raise SourceError(_why(error, repo, revision, offline)) from error
    taken = _inside(top, names)
    card = top / "README.md"
    licence = licences.of_card(card) if card.is_file() else local.licence_of(taken)
    origin = f"hf:{repo}@{top.name}" + (f":{path}" if path else "")
    return taken, origin, licence, repo.rsplit("/", 1)[-1]


def _why(error: Exception, repo: str, revision: str | None, offline: bool) -> str:
    """What went wrong at the hub, in one sentence, and what to do."""
    from huggingface_hub import constants, errors

    if offline:
        return f"hf:{repo} is not in the cache ({constants.HF_HUB_CACHE}), or not whole; fetch it once while online."
    if isinstance(error, errors.GatedRepoError):
        return f"hf:{repo} is gated: accept its terms on {constants.ENDPOINT}/{repo}, then give your token in HF_TOKEN."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"hf:{repo} has no revision {revision}; its page lists branches, tags and commits."
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        return (
            f"hf:{repo} is not there, or private. Check the name; a private one needs your token in HF_TOKEN."
        )
    if status == 403:
        return (
            f"hf:{repo}: the hub refuses it to you (403). Your token in HF_TOKEN needs the right to read it."
        )
    if status == 429:
        return f"hf:{repo}: the hub has had too many requests. Wait some minutes, or give your token in HF_TOKEN."
    if status is not None and status >= 500:
        return f"hf:{repo}: the hub at {constants.ENDPOINT} fails ({status}). Try again later."
    first = " ".join(str(error).split())[:200].rstrip(". ")
    return (
        f"hf:{repo} cannot be fetched from {constants.ENDPOINT}: {first}. Check the network and HF_ENDPOINT; "
        "what is in the cache comes with HF_HUB_OFFLINE=1."
    )


def pick(names: list[str], path: str | None, where: str) -> list[str]:
    """What to fetch of a repository's files: no other framework's copy of the weights, and pickled ones (``.bin``,
    ``.pt``, ``.pth``, ``.ckpt``) only where the same directory has no safetensors."""
    if path is not None:
        return files.select(names, path, where)
    safe = {name.rpartition("/")[0] for name in names if name.endswith(".safetensors")}

    def extra(name: str) -> bool:
        folder, _, last = name.rpartition("/")
        pickled = last.endswith((".bin", ".pt", ".pth", ".ckpt", ".bin.index.json"))
        return last in _OTHER_FRAMEWORKS or (pickled and folder in safe)

    return files.select([name for name in names if not extra(name)], None, where)


def _listed(hub: Any, repo: str, revision: str | None, path: str | None) -> list[str]:
    """The names to fetch, checked against the limits before anything is fetched."""
    info = hub.HfApi().model_info(repo, revision=revision, files_metadata=True)
    sizes = {one.rfilename: int(one.size or 0) for one in info.siblings or []}
    names = pick(sorted(sizes), path, f"hf:{repo}")
    if path is not None and "README.md" in sizes and "README.md" not in names:
        names = [*names, "README.md"]  # it states the licence
    total = sum(sizes[name] for name in names)
    if total > files.TOTAL_BYTES_MAX:
        raise SourceError(
            f"hf:{repo} has {total >> 30} GiB; at most {files.TOTAL_BYTES_MAX >> 30} GiB are taken."
        )
    return names


def _inside(top: Path, names: list[str]) -> list[tuple[str, Path]]:
    """Names with real paths. The cache's snapshots are links to its blobs, two directories up, and to nothing else."""
    cache = top.parent.parent.resolve()
    taken = []
    for name in sorted(names):
        real = (top / files.safe_name(name, str(top.name))).resolve()
        if not real.is_relative_to(cache):
            raise SourceError(f"{name} in the hub's cache is a link out of it; remove {top} and fetch again.")
        if real.is_file():
            taken.append((name, real))
    return taken
