"""Every SQL statement of the explorer, by name. A test explains each one and refuses unbounded scans.

Paging is by key (``:before`` is the last ``seq`` seen), never by offset. A query that scans or sorts on purpose is
listed in :data:`ALLOWED` with the reason.
"""

from __future__ import annotations

_ROW = """SELECT r.seq, r.cid, r.kind, r.title, r.author, n.display, r.epoch, r.round, r.target, r.size_bytes,
  e.task, e.class, e.metric, e.gain, e.outcome, e.verdict, e.stage, e.settled, e.frontier, e.changed, e.operator
  FROM {source} LEFT JOIN experiment e ON e.seq = r.seq LEFT JOIN node n ON n.name = r.author"""

_DAG = """SELECT e.seq, e.cid, r.title, e.author, n.display, e.epoch, e.task, e.class, e.metric, e.gain, e.outcome,
  e.verdict, e.frontier, e.operator, e.base, e.base2, e.changed
  FROM {source} CROSS JOIN record r ON r.seq = e.seq LEFT JOIN node n ON n.name = e.author"""

_SHARD = "SELECT s.*, n.display FROM shard s LEFT JOIN node n ON n.name = s.author"

_EXPERIMENT = "SELECT seq FROM experiment WHERE {where}seq < :before ORDER BY seq DESC LIMIT :window"
_RECORD = "SELECT seq FROM record WHERE {where}seq < :before ORDER BY seq DESC LIMIT :window"

QUERIES: dict[str, str] = {
    "meta": "SELECT key, value FROM meta",
    "version": "SELECT value FROM meta WHERE key = 'version'",
    "live": "SELECT key, value FROM live",
    "waiting_count": "SELECT count(*) AS n FROM queue",
    "record_count": "SELECT count(*) AS n FROM record",
    "node_count": "SELECT count(*) AS n FROM node",
    "digests": """SELECT digest_round, digest, count(*) AS nodes FROM node WHERE digest_round >= :floor
      GROUP BY digest_round, digest""",
    "rounds": "SELECT * FROM round WHERE round <= :upto ORDER BY round DESC LIMIT :limit",
    "round": "SELECT * FROM round WHERE round = :round",
    # Tasks and classes.
    "tasks": "SELECT * FROM task ORDER BY kind DESC, cid LIMIT 100",
    "classes": """WITH RECURSIVE c(class) AS (
        SELECT min(class) FROM experiment WHERE task = :task
        UNION ALL SELECT (SELECT min(class) FROM experiment WHERE task = :task AND class > c.class) FROM c
        WHERE c.class IS NOT NULL LIMIT 64)
      SELECT class FROM c WHERE class IS NOT NULL""",
    "frontier_steps": """SELECT f.*, n.display, r.title, r.epoch, e.changed FROM frontier f
      LEFT JOIN node n ON n.name = f.author LEFT JOIN record r ON r.cid = f.cid LEFT JOIN experiment e ON e.cid = f.cid
      WHERE f.task = :task AND f.class = :class ORDER BY f.step""",
    "frontier_last": """SELECT f.*, n.display, r.title, r.epoch FROM frontier f LEFT JOIN node n ON n.name = f.author
      LEFT JOIN record r ON r.cid = f.cid WHERE f.task = :task AND f.class = :class ORDER BY f.step DESC LIMIT 2""",
    "runs": """SELECT seq, metric, flops, epoch, verdict FROM experiment WHERE task = :task AND class = :class
      ORDER BY seq DESC LIMIT :limit""",
    "cids": "SELECT r.seq, r.cid FROM json_each(:seqs) j CROSS JOIN record r ON r.seq = j.value",
    # Lists of records: first which, then their rows.
    "window_records": _RECORD.format(where=""),
    "window_telling": """SELECT seq FROM (SELECT seq, kind FROM record ORDER BY seq DESC LIMIT :scan)
      WHERE kind <> 'seal' LIMIT :window""",
    "window_records_kind": _RECORD.format(where="kind = :kind AND "),
    "window_records_author": _RECORD.format(where="author = :author AND "),
    "window_experiments": _EXPERIMENT.format(where=""),
    "window_task": _EXPERIMENT.format(where="task = :task AND class = :class AND "),
    "window_author": _EXPERIMENT.format(where="author = :author AND "),
    "window_verdict": _EXPERIMENT.format(where="verdict = :verdict AND "),
    "window_outcome": _EXPERIMENT.format(where="outcome = :outcome AND "),
    "window_search": """SELECT rowid AS seq FROM search WHERE search MATCH :q AND rowid < :before
      ORDER BY rowid DESC LIMIT :window""",
    "rows": _ROW.format(source="json_each(:seqs) j CROSS JOIN record r ON r.seq = j.value")
    + """ WHERE (:kind IS NULL OR r.kind = :kind) AND (:author IS NULL OR r.author = :author)
      AND (:task IS NULL OR e.task = :task) AND (:class IS NULL OR e.class = :class)
      AND (:verdict IS NULL OR e.verdict = :verdict) AND (:outcome IS NULL OR e.outcome = :outcome)
      LIMIT :limit""",
    "rows_targeting": _ROW.format(source="record r")
    + " WHERE r.target = :cid ORDER BY r.seq DESC LIMIT :limit",
    # One record.
    "record": _ROW.format(source="record r") + " WHERE r.cid = :cid",
    "experiment": "SELECT * FROM experiment WHERE cid = :cid",
    "compared": """SELECT e.*, r.title, n.display FROM experiment e CROSS JOIN record r ON r.seq = e.seq
      LEFT JOIN node n ON n.name = e.author WHERE e.cid = :cid""",
    "task": "SELECT * FROM task WHERE cid = :cid",
    "lineage": """WITH RECURSIVE up(cid, depth) AS (SELECT :cid, 0
        UNION ALL SELECT e.base, up.depth + 1 FROM up JOIN experiment e ON e.cid = up.cid
        WHERE e.base IS NOT NULL AND up.depth < :limit)
      SELECT e.seq, e.cid, r.title, e.metric, e.gain, e.outcome, e.verdict, e.class, e.changed
      FROM up CROSS JOIN experiment e ON e.cid = up.cid CROSS JOIN record r ON r.seq = e.seq""",
    "children": """SELECT e.seq, e.cid, r.title, e.metric, e.gain, e.outcome, e.verdict, e.class, e.changed
      FROM experiment e
      CROSS JOIN record r ON r.seq = e.seq WHERE e.base = :cid LIMIT :limit""",
    # The graph of experiments.
    "dag_seqs": _DAG.format(source="json_each(:seqs) j CROSS JOIN experiment e ON e.seq = j.value"),
    "dag_cids": _DAG.format(source="json_each(:cids) j CROSS JOIN experiment e ON e.cid = j.value"),
    "awaited": """SELECT j.value AS cid FROM json_each(:cids) j
      WHERE EXISTS (SELECT 1 FROM experiment e WHERE e.base = j.value AND e.seq >= :before)""",
    "children_newest": "SELECT cid FROM experiment WHERE base = :cid ORDER BY seq DESC LIMIT :limit",
    "children_counts": """SELECT j.value AS cid, (SELECT count(*) FROM
      (SELECT 1 FROM experiment e WHERE e.base = j.value LIMIT :limit)) AS n FROM json_each(:cids) j""",
    "frontier_bases": """SELECT f.cid, f.seq, e.base FROM frontier f LEFT JOIN experiment e ON e.cid = f.cid
      WHERE f.task = :task AND f.class = :class ORDER BY f.step""",
    "attestations_target": """SELECT a.*, n.display, n.fingerprint FROM attestation a LEFT JOIN node n
      ON n.name = a.author WHERE a.target = :cid LIMIT :limit""",
    "attestations_author": """SELECT a.*, n.display, n.fingerprint FROM attestation a LEFT JOIN node n
      ON n.name = a.author WHERE a.author = :author AND a.id < :before ORDER BY a.id DESC LIMIT :limit""",
    # Verification, reputation, nodes.
    "queue_first": """SELECT q.*, r.title, n.display, e.changed FROM queue q LEFT JOIN record r ON r.cid = q.target
      LEFT JOIN experiment e ON e.cid = q.target
      LEFT JOIN node n ON n.name = q.author ORDER BY q.priority DESC, q.claim LIMIT :limit""",
    "queue_after": """SELECT q.*, r.title, n.display, e.changed FROM queue q LEFT JOIN record r ON r.cid = q.target
      LEFT JOIN experiment e ON e.cid = q.target
      LEFT JOIN node n ON n.name = q.author
      WHERE q.priority <= :priority AND (q.priority < :priority OR q.claim > :claim)
      ORDER BY q.priority DESC, q.claim LIMIT :limit""",
    "queue_claim": """SELECT q.*, r.title, n.display, e.changed FROM queue q LEFT JOIN record r ON r.cid = q.target
      LEFT JOIN experiment e ON e.cid = q.target
      LEFT JOIN node n ON n.name = q.author WHERE q.claim = :claim""",
    "judged": """SELECT e.seq, e.cid, r.title, e.metric, e.gain, e.outcome, e.verdict, e.class, e.reason, e.changed,
      e.round_settled, e.settled, e.author, n.display FROM experiment e CROSS JOIN record r ON r.seq = e.seq
      LEFT JOIN node n ON n.name = e.author WHERE e.verdict = :verdict ORDER BY e.seq DESC LIMIT :limit""",
    "leaders_first": "SELECT * FROM node ORDER BY trust DESC, name LIMIT :limit",
    "leaders_after": """SELECT * FROM node WHERE trust <= :trust AND (trust < :trust OR name > :name)
      ORDER BY trust DESC, name LIMIT :limit""",
    "banned": "SELECT * FROM node WHERE banned > 0 LIMIT :limit",
    "ledger": """SELECT l.*, n.display FROM ledger l LEFT JOIN node n ON n.name = l.node WHERE l.id < :before
      ORDER BY l.id DESC LIMIT :limit""",
    "ledger_node": """SELECT l.*, n.display FROM ledger l LEFT JOIN node n ON n.name = l.node
      WHERE l.node = :node AND l.id < :before ORDER BY l.id DESC LIMIT :limit""",
    "ledger_causes": """SELECT l.*, n.display FROM json_each(:causes) j CROSS JOIN ledger l ON l.cause = j.value
      LEFT JOIN node n ON n.name = l.node LIMIT :limit""",
    "node": "SELECT * FROM node WHERE name = :name",
    # Failures.
    "failure_count": "SELECT count(*) AS n FROM failure",
    "failure": "SELECT * FROM failure WHERE signature = :signature",
    "failures_recent": "SELECT * FROM failure WHERE last_seq < :before ORDER BY last_seq DESC LIMIT :limit",
    "failures_most": """SELECT * FROM failure WHERE runs <= :runs AND (runs < :runs OR signature > :signature)
      ORDER BY runs DESC, signature LIMIT :limit""",
    "failures_named": "SELECT f.* FROM json_each(:signatures) j CROSS JOIN failure f ON f.signature = j.value",
    "failure_words": "SELECT signature FROM failure_word WHERE word >= :low AND word < :high LIMIT :limit",
    "failure_runs": """SELECT seq, fixed_by FROM failure_run WHERE signature = :signature AND seq < :before
      ORDER BY seq DESC LIMIT :limit""",
    "failure_of": """SELECT r.signature, r.fixed_by, f.runs, f.text FROM failure_run r
      CROSS JOIN failure f ON f.signature = r.signature WHERE r.cid = :cid""",
    # Absorbed models.
    "shard": _SHARD + " WHERE s.cid = :cid",
    "shard_members": _SHARD + " WHERE s.member = :member ORDER BY s.modality, s.seq LIMIT :limit",
    "shards_apart": _SHARD + " WHERE +s.member = 0 AND s.seq < :before ORDER BY s.seq DESC LIMIT :limit",
    "shards_refining": _SHARD + " WHERE s.base = :cid LIMIT :limit",
    "shard_count": "SELECT modality, count(*) AS n FROM shard WHERE member = :member GROUP BY modality",
    "shards": _SHARD + " WHERE s.seq < :before ORDER BY s.seq DESC LIMIT :limit",
    # How well the whole does.
    "health": "SELECT * FROM health WHERE round <= :upto ORDER BY round DESC LIMIT :limit",
}

LOG_QUERIES: dict[str, str] = {
    "raw": "SELECT raw, received_ms FROM record WHERE cid = :cid",
}

ALLOWED: dict[str, str] = {
    "meta": "about a dozen keys",
    "live": "five keys",
    "waiting_count": "count(*) of a whole table is one step (OP_Count)",
    "record_count": "count(*) of a whole table is one step (OP_Count)",
    "node_count": "count(*) of a whole table is one step (OP_Count)",
    "tasks": "in order of the key, at most 100",
    "classes": "a recursion of index seeks, at most 64",
    "window_records": "in order of the key, bounded by :window",
    "window_telling": "the newest :scan records, in order of the key",
    "window_experiments": "in order of the key, bounded by :window",
    "window_search": "the full-text index walks its own postings in order of rowid",
    "rows": "the list of at most 1,000 numbers that the window gave",
    "cids": "the list of at most 40 numbers that the plot chose",
    "ledger_causes": "the list of at most 101 ids: a record and the evidence on it",
    "dag_seqs": "the list of at most 1,000 numbers that the window gave",
    "dag_cids": "the list of at most a few hundred ids that a view chose",
    "awaited": "the list of at most 1,000 ids of one page, one seek each",
    "children_counts": "the list of at most a few hundred ids of one page, each counted to :limit",
    "lineage": "a recursion of index seeks, at most :limit",
    "failure_count": "count(*) of a whole table is one step (OP_Count)",
    "failures_named": "the list of at most 200 signatures that a search found",
    "leaders_first": "in order of an index, bounded by :limit",
    "queue_first": "in order of an index, bounded by :limit",
}
