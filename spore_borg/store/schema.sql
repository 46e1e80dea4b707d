-- views.sqlite: what the folds say, as tables. May be deleted at any time; `borg rebuild` gives the same rows.
-- Ids are base32 text. Metrics are integers in the task's unit (nano-bits per byte). Trust is in 2^-20.
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- keys: mesh, mesh_name, round (latest), round_settled, epoch_latest, digest (settled view digest), digest_latest,
--       version (bumped by every change), records, me (this node's name), status ("solo" or "mesh"),
--       state_digest (of the members of the state; empty without any), state_members
CREATE TABLE IF NOT EXISTS task (
  cid TEXT PRIMARY KEY, name TEXT NOT NULL, metric TEXT NOT NULL, direction TEXT NOT NULL, unit TEXT NOT NULL,
  sigma INTEGER NOT NULL, gain_min INTEGER NOT NULL, budget_flops INTEGER NOT NULL, segments INTEGER NOT NULL,
  blocks INTEGER NOT NULL, val_bytes INTEGER NOT NULL, data TEXT NOT NULL, evaluator TEXT NOT NULL,
  author TEXT NOT NULL, body TEXT NOT NULL,  -- body: the whole definition as JSON
  kind TEXT NOT NULL DEFAULT 'experiment');  -- what its claims are: experiment or absorption
CREATE INDEX IF NOT EXISTS task_kind ON task(kind DESC, cid);
CREATE TABLE IF NOT EXISTS record (  -- every record, newest = highest seq (arrival order here, for paging only)
  seq INTEGER PRIMARY KEY, cid TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, author TEXT NOT NULL, aseq INTEGER NOT NULL,
  epoch INTEGER NOT NULL, round INTEGER, -- round in which it was acknowledged; NULL: not yet
  target TEXT, title TEXT NOT NULL, size_bytes INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS record_kind ON record(kind, seq);
CREATE INDEX IF NOT EXISTS record_author ON record(author, seq);
CREATE INDEX IF NOT EXISTS record_target ON record(target, seq);
CREATE TABLE IF NOT EXISTS experiment (
  seq INTEGER PRIMARY KEY,  -- record.seq
  cid TEXT NOT NULL UNIQUE, task TEXT NOT NULL, class TEXT NOT NULL, author TEXT NOT NULL, epoch INTEGER NOT NULL,
  base TEXT, base2 TEXT, depth INTEGER NOT NULL, operator TEXT NOT NULL, why TEXT NOT NULL,
  recipe TEXT NOT NULL, recipe_digest TEXT NOT NULL, changed TEXT NOT NULL,  -- JSON [[field, before, after], …] against base
  seed TEXT NOT NULL, intent TEXT, witnesses INTEGER,  -- seals that the seed is mixed of; NULL while that is not checked
  metric INTEGER, gain INTEGER,  -- gain: base metric - metric (positive is better); NULL without base
  steps INTEGER NOT NULL, flops INTEGER NOT NULL, cpu_ms INTEGER NOT NULL, params_count INTEGER NOT NULL,
  weights TEXT, fingerprint TEXT NOT NULL, curve TEXT NOT NULL,  -- JSON: train loss, micro-nats, evenly spaced over steps
  outcome TEXT NOT NULL,    -- the author's word: kept, discarded, crashed
  verdict TEXT NOT NULL,    -- the others' word: confirmed, refuted, inconclusive, unverified
  stage TEXT NOT NULL,      -- received, waiting, drawn, committed, opened, revealed, dispute, settled
  reason TEXT NOT NULL,     -- one sentence: why it stands where it stands
  round_ack INTEGER, round_settled INTEGER, settled INTEGER NOT NULL, -- settled: 1 when the round is old enough to stay
  frontier INTEGER NOT NULL, -- 1 while its recipe is the best of its task and class, 2 if it once was, else 0
  frontier_why TEXT NOT NULL, error TEXT);
-- covers what the frontier plot reads of every run, so that 100,000 of them cost no visit to the fat rows
CREATE INDEX IF NOT EXISTS experiment_task ON experiment(task, class, seq, metric, flops, epoch, verdict);
CREATE INDEX IF NOT EXISTS experiment_author ON experiment(author, seq);
CREATE INDEX IF NOT EXISTS experiment_base ON experiment(base);
CREATE INDEX IF NOT EXISTS experiment_recipe ON experiment(recipe_digest);
CREATE INDEX IF NOT EXISTS experiment_verdict ON experiment(verdict, seq);
CREATE INDEX IF NOT EXISTS experiment_outcome ON experiment(outcome, seq);
CREATE VIRTUAL TABLE IF NOT EXISTS search USING fts5(title, why, changed, author, cid);  -- rowid = experiment.seq
CREATE TABLE IF NOT EXISTS frontier (  -- every step of every frontier; the last step of a (task, class) is its best
  task TEXT NOT NULL, class TEXT NOT NULL, step INTEGER NOT NULL, cid TEXT NOT NULL, recipe_digest TEXT NOT NULL,
  seq INTEGER NOT NULL, metric INTEGER NOT NULL, runs INTEGER NOT NULL, -- mean over this many accepted runs of the recipe
  gain INTEGER, threshold INTEGER NOT NULL, round INTEGER NOT NULL, author TEXT NOT NULL, verdicts INTEGER NOT NULL,
  status TEXT NOT NULL, PRIMARY KEY (task, class, step)) WITHOUT ROWID;  -- status: confirmed or solo
CREATE TABLE IF NOT EXISTS attestation (  -- one row for one node's evidence on one claim
  id INTEGER PRIMARY KEY, target TEXT NOT NULL, claim TEXT NOT NULL, author TEXT NOT NULL, class TEXT NOT NULL,
  drawn INTEGER NOT NULL, jury INTEGER NOT NULL, commit_cid TEXT, reveal_cid TEXT, tier TEXT NOT NULL,
  word TEXT NOT NULL,        -- pass, fail, waiting, no-show, void
  probe TEXT NOT NULL,       -- one sentence: what was recomputed
  delta TEXT, tolerance TEXT, detail TEXT NOT NULL, round INTEGER);  -- detail: JSON of the opened evidence
CREATE INDEX IF NOT EXISTS attestation_target ON attestation(target);
CREATE INDEX IF NOT EXISTS attestation_author ON attestation(author, id);
CREATE TABLE IF NOT EXISTS ledger (
  id INTEGER PRIMARY KEY, node TEXT NOT NULL, round INTEGER NOT NULL, rule TEXT NOT NULL, amount INTEGER NOT NULL,
  total INTEGER NOT NULL, cause TEXT, sentence TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS ledger_node ON ledger(node, id);
CREATE INDEX IF NOT EXISTS ledger_cause ON ledger(cause);
CREATE TABLE IF NOT EXISTS node (
  name TEXT PRIMARY KEY, display TEXT, class TEXT NOT NULL, fingerprint TEXT NOT NULL, device TEXT NOT NULL,
  role TEXT NOT NULL, root INTEGER NOT NULL, score INTEGER NOT NULL, frauds INTEGER NOT NULL, trust INTEGER NOT NULL,
  influence_ppm INTEGER NOT NULL, banned INTEGER NOT NULL, banned_cause TEXT,
  intents INTEGER NOT NULL DEFAULT 0, lapsed INTEGER NOT NULL DEFAULT 0,  -- declared runs, and those that led to no experiment within their lease
  records INTEGER NOT NULL,
  experiments INTEGER NOT NULL, attestations INTEGER NOT NULL, last_epoch INTEGER NOT NULL, last_round INTEGER,
  digest TEXT, digest_round INTEGER, profile TEXT) WITHOUT ROWID;  -- digest: the view digest in its last seal
CREATE INDEX IF NOT EXISTS node_trust ON node(trust DESC, name);
CREATE INDEX IF NOT EXISTS node_digest ON node(digest_round, digest);
CREATE INDEX IF NOT EXISTS node_banned ON node(banned) WHERE banned > 0;
CREATE TABLE IF NOT EXISTS round (
  round INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, seals INTEGER NOT NULL, trust INTEGER NOT NULL,
  trust_total INTEGER NOT NULL, acknowledged INTEGER NOT NULL, digest TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS queue (
  claim TEXT PRIMARY KEY, target TEXT NOT NULL, task TEXT NOT NULL, author TEXT NOT NULL, class TEXT NOT NULL,
  stage TEXT NOT NULL, priority INTEGER NOT NULL, parts TEXT NOT NULL, -- JSON {part: points}
  drawn TEXT NOT NULL, waiting_for TEXT NOT NULL, -- JSON lists of node names
  round_deadline INTEGER, sentence TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS queue_priority ON queue(priority DESC, claim);
CREATE TABLE IF NOT EXISTS shard (  -- every absorption, refinement and merge; member: what the state holds
  seq INTEGER PRIMARY KEY,  -- record.seq
  cid TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,  -- absorption, refinement or merge
  task TEXT NOT NULL, class TEXT NOT NULL, author TEXT NOT NULL, epoch INTEGER NOT NULL,
  name TEXT NOT NULL, origin TEXT NOT NULL, licence TEXT NOT NULL, head TEXT NOT NULL, modality TEXT NOT NULL,
  rule TEXT NOT NULL, steps INTEGER NOT NULL,  -- spike code and its time steps T
  layers INTEGER NOT NULL, params_count INTEGER NOT NULL, sparsity_ppm INTEGER NOT NULL, cpu_ms INTEGER NOT NULL,
  source_bytes INTEGER NOT NULL, shard_bytes INTEGER NOT NULL,  -- what a verifier fetches, as declared
  ops INTEGER NOT NULL,  -- operations of the source for one item, as declared
  metric INTEGER NOT NULL,  -- infidelity: mean nano-(1 - cosine) of an item; fidelity = 1 - metric / 1e9
  weights TEXT NOT NULL, sources TEXT NOT NULL,  -- JSON [[name, blob cid], …]
  base TEXT, inputs TEXT NOT NULL,  -- JSON [[cid, weight], …] of a merge
  state TEXT NOT NULL,  -- JSON list of cids: members of the modality when it was measured
  operator TEXT NOT NULL, why TEXT NOT NULL, outcome TEXT NOT NULL, fingerprint TEXT NOT NULL,
  verdict TEXT NOT NULL, stage TEXT NOT NULL, reason TEXT NOT NULL,  -- as in experiment
  round_ack INTEGER, round_settled INTEGER, settled INTEGER NOT NULL,
  member INTEGER NOT NULL,  -- 1: in the state by others' evidence; 2: only its author's word (a mesh of one); 0: not
  standing TEXT NOT NULL,   -- one sentence: why it is in the state, or is not
  gains TEXT NOT NULL);     -- JSON [{probe, pairs, gain, word}, …]: nano, positive is better; word: better, worse, even, unknown
CREATE INDEX IF NOT EXISTS shard_member ON shard(member, modality, seq);
CREATE INDEX IF NOT EXISTS shard_author ON shard(author, seq);
CREATE INDEX IF NOT EXISTS shard_base ON shard(base);
CREATE TABLE IF NOT EXISTS live (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- live: what this process does now, not a fold: keys run (JSON: task, recipe change, step, steps, loss, eta_s),
--       verify (JSON), peers (JSON list), events (JSON list of the last 50), node (JSON: pid, address, explorer, mode)
CREATE TABLE IF NOT EXISTS failure (  -- crashed runs whose errors say the same: spore_borg/views/failures.py
  signature TEXT PRIMARY KEY, text TEXT NOT NULL, example TEXT NOT NULL,  -- normalised; the newest run's own words
  runs INTEGER NOT NULL, authors INTEGER NOT NULL, classes TEXT NOT NULL,  -- JSON [[class, runs], …]
  tasks TEXT NOT NULL, fields TEXT NOT NULL,  -- JSON [cid, …]; JSON [[field, runs that changed it, [values]], …]
  flops INTEGER NOT NULL, first_epoch INTEGER NOT NULL, last_epoch INTEGER NOT NULL, last_seq INTEGER NOT NULL,
  last_cid TEXT NOT NULL, fixed_by TEXT, fixed_runs INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS failure_recent ON failure(last_seq);
CREATE INDEX IF NOT EXISTS failure_most ON failure(runs DESC, signature);
CREATE TABLE IF NOT EXISTS failure_run (
  signature TEXT NOT NULL, seq INTEGER NOT NULL, cid TEXT NOT NULL, fixed_by TEXT,
  PRIMARY KEY (signature, seq)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS failure_run_cid ON failure_run(cid);
CREATE TABLE IF NOT EXISTS failure_word (  -- words of signatures, for search
  word TEXT NOT NULL, signature TEXT NOT NULL, PRIMARY KEY (word, signature)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS health (  -- Ψ and its parts at settled rounds: spore_borg/views/health.py
  round INTEGER NOT NULL, part TEXT NOT NULL, -- psi, verified, synchrony, diversity, learning
  value INTEGER, a INTEGER NOT NULL, b INTEGER NOT NULL,  -- ppm, NULL: nothing to measure yet; what it is made of
  PRIMARY KEY (round, part)) WITHOUT ROWID;
