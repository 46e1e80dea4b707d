"""Errors as answers: RFC 9457 for programs, a page for people, with their true status either way."""

from __future__ import annotations

import json
import math

from starlette.requests import Request
from starlette.responses import Response

from explorer import export, render

TABLE_ENDINGS = tuple(f".{ext}" for ext in export.MEDIA)
DATA_ENDINGS = (".json", ".cbor", "/events", *TABLE_ENDINGS)


def wants_json(request: Request) -> bool:
    """Whether an error should be JSON: the address or the Accept header says so."""
    accept = request.headers.get("accept", "")
    return request.url.path.endswith(DATA_ENDINGS) or ("json" in accept and "html" not in accept)


def problem(request: Request, status: int, title: str, detail: str) -> Response:
    """An error: RFC 9457 for programs, a page for people, with its true status either way."""
    headers = {"cache-control": "no-store"}
    if wants_json(request):
        text = problem_json(status, title, detail)
        return Response(text, status, headers, media_type="application/problem+json")
    return Response(render.problem_html(status, title, detail), status, headers, media_type="text/html")


def problem_json(status: int, title: str, detail: str) -> str:
    """RFC 9457."""
    return json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail})


def too_often(request: Request, wait_s: float) -> Response:
    """429, and after how many seconds to try again: JSON for all but those who ask for a page."""
    seconds = max(1, math.ceil(wait_s))
    detail = f"You ask more often than this public mirror answers. Try again in {seconds} s, or run a node of your own."
    if "html" not in request.headers.get("accept", ""):
        text = problem_json(429, "Too many requests", detail)
        headers = {"cache-control": "no-store"}
        response = Response(text, 429, headers, media_type="application/problem+json")
    else:
        response = problem(request, 429, "Too many requests", detail)
    response.headers["retry-after"] = str(seconds)
    return response
