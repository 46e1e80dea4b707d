"""The OpenAPI 3.1 description of the JSON twins, made from the dataclasses that they are."""

from __future__ import annotations

import dataclasses
import types
import typing
from functools import cache
from typing import Any

from explorer import export, pages, show
from explorer.pages.common import TEXT_MAX
from explorer.pages.dag import VIEWS
from explorer.pages.failures import SORTS
from explorer.pages.plot import AXES
from explorer.pages.records import KINDS
from explorer.routes import ROUTES, Route
from explorer.values import Page

_SIMPLE: dict[object, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    object: {},
}
_CID, _NAME, _SIGNATURE = (found.pattern for found in (show.CID_RE, show.NODE_RE, show.SIGNATURE_RE))
Form = dict[str, Any]


def _like(pattern: str) -> Form:
    return {"type": "string", "pattern": f"^({pattern})$"}


def _one_of(*words: str) -> Form:
    return {"type": "string", "enum": list(words)}


_TEXT: Form = {"type": "string", "maxLength": TEXT_MAX}
_PLACES: dict[str, tuple[Form, str]] = {
    "cid": (_like(_CID), "A record's id."),
    "name": (_like(_NAME), "A node's name."),
    "signature": (_like(_SIGNATURE), "A failure's signature."),
    "chapter": (_like(show.CHAPTER_RE.pattern), "A chapter's name."),
    "digest": (_like(show.DIGEST_RE.pattern), "A state's digest."),
}
_QUERY: dict[str, tuple[Form, str]] = {
    "task": (_TEXT, "A task's name or id."),
    "class": (_TEXT, "A hardware class."),
    "x": (_one_of(*AXES), "The horizontal axis of the plot."),
    "from": (
        {"type": "integer", "minimum": 0, "maximum": 10**18 - 1},
        "Where the part of the axis begins that is shown.",
    ),
    "to": ({"type": "integer", "minimum": 0, "maximum": 10**18 - 1}, "Where it ends."),
    "view": (_one_of(*VIEWS), "Which view of the graph."),
    "kind": (_one_of(*KINDS, "all"), "The kind of record; default: experiment."),
    "outcome": (_one_of(*show.OUTCOMES), "Its author's word."),
    "verdict": (_one_of(*show.VERDICTS), "The others' word."),
    "q": (_TEXT, "Words to search for."),
    "author": (_like(_NAME), "A node's name."),
    "node": (_like(_NAME), "A node's name."),
    "cid": (_like(_CID), "A record's id."),
    "digest": ({"type": "string", "pattern": f"^{show.DIGEST_RE.pattern}$"}, "The digest of a state."),
    "sort": (_one_of(*SORTS), "The order; default: recent."),
    "before": (
        {"type": "integer", "minimum": 0, "maximum": 10**18 - 1},
        "The key that a page gives for the next, older one.",
    ),
}
_AFTER = {
    "verify": _like(rf"-?[0-9]{{1,17}}\.{_CID}"),
    "failures": _like(rf"[0-9]{{1,18}}\.{_SIGNATURE}"),
}
_TRUST = _like(rf"[0-9]{{1,18}}\.{_NAME}")
_COMPARED = (_like(_CID), "An experiment's id.")


def _parameter(page: str, name: str) -> tuple[Form, str]:
    """The form of a query parameter and what it is. Empty is as if it were not given: forms of HTML send that."""
    if name == "after":
        form, words = _AFTER.get(page, _TRUST), "The key that a page gives for the next one."
    else:
        form, words = _QUERY.get(name, _COMPARED)
    return {"anyOf": [form, {"const": ""}]}, words


def schema(hint: object, named: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a type; dataclasses are added to ``named`` and referred to."""
    if hint in _SIMPLE:
        return dict(_SIMPLE[hint])
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        return {"anyOf": [schema(one, named) for one in inside]}
    if origin is tuple and len(inside) == 2 and inside[1] is Ellipsis:
        return {"type": "array", "items": schema(inside[0], named)}
    if origin is tuple:
        parts = [schema(one, named) for one in inside]
        return {"type": "array", "prefixItems": parts, "minItems": len(parts), "maxItems": len(parts)}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema(inside[1], named)}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if hint.__name__ not in named:
            named[hint.__name__] = {}  # before its fields, so that a type may hold itself
            named[hint.__name__].update(_object(hint, named))
        return {"$ref": f"#/components/schemas/{hint.__name__}"}
    raise TypeError(f"no JSON schema for {hint!r}")


def _object(kind: type, named: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    fields = {f.name: schema(hints[f.name], named) for f in dataclasses.fields(kind)}
    if issubclass(kind, Page):
        fields = {"page": {"const": kind.name}} | fields
    words = " ".join((kind.__doc__ or "").split())
    return {"type": "object", "description": words, "properties": fields, "required": list(fields)}


def _parameters(route: Route) -> list[dict[str, Any]]:
    places = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    out = []
    for name in (*places, *route.query):
        form, words = _PLACES[name] if name in places else _parameter(route.page, name)
        place = "path" if name in places else "query"
        described = {"name": name, "in": place, "schema": form, "description": words}
        out.append(described | ({"required": True} if place == "path" else {}))
    return out


def _answers(media: str, form: dict[str, Any]) -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        "200": {"description": "The page as a value.", "content": {media: {"schema": form}}},
        "default": {"description": "An error, with its status.", "content": problem},
    }


def _paths(named: dict[str, Any]) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for route in ROUTES:
        kind = typing.get_type_hints(getattr(pages, route.page))["return"]
        operation = {"operationId": route.page, "summary": route.what, "parameters": _parameters(route)}
        paths[route.json] = {
            "get": operation | {"responses": _answers("application/json", schema(kind, named))}
        }
    for name, table in export.TABLES.items():
        words = f"Every row of the table {name}, as a stream."
        route = Route(path=f"/{name}", json="", page=name, query=table.query, what=words, table=True)
        for ext, media in export.MEDIA.items():
            form = schema(table.row, named) if ext == "ndjson" else {"type": "string"}
            operation = {"operationId": f"{name}_{ext}", "summary": words, "parameters": _parameters(route)}
            paths[f"/{name}.{ext}"] = {"get": operation | {"responses": _answers(media, form)}}
    return paths


@cache
def document() -> dict[str, Any]:
    """The whole description as JSON types."""
    problem = {key: {"type": "string"} for key in ("type", "title", "detail")} | {
        "status": {"type": "integer"}
    }
    named: dict[str, Any] = {"Problem": {"type": "object", "properties": problem, "required": list(problem)}}
    paths = _paths(named)
    words = (
        "Read-only. Metrics are integers in nano-units, trust and amounts in 2^-20, times in milliseconds. "
        "The value of a page is its JSON twin; pages go on by key."
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "spore borg explorer", "version": "1", "description": words},
        "paths": paths,
        "components": {"schemas": named},
    }
