"""The SQL of whole tables that no page shows, by name. Every statement goes on by key and is bounded by ``:limit``.

A test explains each one, as those of :mod:`explorer.queries`: none may scan or sort more than it gives.
"""

from __future__ import annotations

EXPORT_QUERIES: dict[str, str] = {
    "export_runs": """SELECT e.*, r.title, n.display FROM experiment e CROSS JOIN record r ON r.seq = e.seq
      LEFT JOIN node n ON n.name = e.author WHERE e.seq < :before ORDER BY e.seq DESC LIMIT :limit""",
    "export_steps": """SELECT f.*, n.display FROM frontier f LEFT JOIN node n ON n.name = f.author
      WHERE (f.task, f.class, f.step) > (:task, :class, :step) ORDER BY f.task, f.class, f.step LIMIT :limit""",
    "export_evidence": """SELECT a.*, n.display, n.fingerprint FROM attestation a LEFT JOIN node n
      ON n.name = a.author WHERE a.id < :before ORDER BY a.id DESC LIMIT :limit""",
    "export_rounds": "SELECT * FROM round WHERE round < :before ORDER BY round DESC LIMIT :limit",
}
