"""The tables of ``log.sqlite``, as migrations: a log of an older release is brought up to date when it is opened.

A migration, once released, is never edited: add a new one at the end and raise ``SCHEMA_VERSION``.
"""

from __future__ import annotations

import sqlite3

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

APPLICATION_ID = 0x53504C47  # "SPLG": marks a SQLite file as a log of ours (PRAGMA application_id)
SCHEMA_VERSION = 1  # the number of migrations below (PRAGMA user_version)

LOG_MIGRATIONS = Migrations("spore_borg_log")


@LOG_MIGRATIONS(name="0001_records")
def records(db: Database) -> None:
    """Records in order of arrival, who names whom as parent, and a few facts about the log itself."""
    db.table("record").create(
        {
            "seq": int,
            "cid": bytes,
            "kind": str,
            "author": bytes,
            "aseq": int,
            "epoch": int,
            "raw": bytes,
            "received_ms": int,
        },
        pk="seq",
        not_null={"cid", "kind", "author", "aseq", "epoch", "raw", "received_ms"},
    )
    db.table("record").create_index(["cid"], unique=True)
    # (epoch, cid) covers both the reconciliation keys and the highest epoch, without touching the records
    db.table("record").create_index(["epoch", "cid"])
    db.table("record").create_index(["author", "aseq"])
    # One tree answers "who names this record": the children of a record lie side by side
    db.execute(
        "CREATE TABLE parent (parent_cid BLOB NOT NULL, child_seq INTEGER NOT NULL REFERENCES record(seq),"
        " PRIMARY KEY (parent_cid, child_seq)) WITHOUT ROWID"
    )
    db.table("meta").create({"key": str, "value": str}, pk="key", not_null={"value"})


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the log behind ``connection`` to ``SCHEMA_VERSION``; safe to be killed at any point, and to repeat."""
    LOG_MIGRATIONS.apply(Database(connection))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
