"""Every named limit of the system, in one room. A peer over a limit is dropped, the node is not.

Units are in the names. ``docs/reference/limits.md`` is generated from this module.
"""

RECORD_SIZE_BYTES_MAX = 65_536  # one signed record, canonical bytes
RECORD_DEPTH_MAX = 12  # nesting of maps and lists in a record
RECORD_ITEMS_MAX = 8_192  # CBOR items in a record
PARENTS_MAX = 64  # parents named by one record
TEXT_BYTES_MAX = 4_096  # any one text in a record, UTF-8
FUTURE_EPOCHS_MAX = 2  # a record further ahead of the local clock than this is not taken yet

FRAME_SIZE_BYTES_MAX = 1 << 20  # one frame on the wire
HAVE_CIDS_MAX = 512  # ids in one announcement
WANT_CIDS_MAX = 512  # ids in one request
RECORDS_FRAME_BYTES_MAX = 512 << 10  # record bytes in one answer
ORPHANS_PER_PEER_MAX = 2_048  # records held back for missing parents, per peer
PEERS_MAX = 64  # connections at once
PEER_QUEUE_BYTES_MAX = 8 << 20  # unsent bytes per peer; a reader slower than this is dropped
HANDSHAKE_TIMEOUT_S = 10.0
PEER_IDLE_TIMEOUT_S = 60.0  # a peer that sends nothing (not even a ping) for this long is dropped
PING_INTERVAL_S = 15.0
WANT_RETRY_S = 5.0  # an unanswered request goes to another peer
RECON_RANGES_MAX = 4_096  # ranges in one reconciliation message
RECON_IDS_MAX = 8_192  # ids listed in one reconciliation message
RECON_ROUNDS_MAX = 64  # rounds of one reconciliation session
RECON_INTERVAL_S = 30.0  # periodic reconciliation with a random peer
ADDRESSES_MAX = 256  # peer addresses remembered

CHUNK_SIZE_BYTES = 262_144  # one blob chunk
BLOB_SIZE_BYTES_MAX = 2 << 30  # one blob
DATASET_BYTES_MAX = 256 << 20  # data of one task that a verifier fetches
BLOB_INFLIGHT_MAX = 4  # chunk requests under way per peer
BLOB_SERVE_BYTES_PER_S = 64 << 20  # what one peer may pull

BLOCKS_MAX = 512  # validation blocks of a task
SEGMENTS_MAX = 32  # replay segments of a task
CURVE_POINTS_MAX = 64
SOURCES_MAX = 32  # files of one absorbed model
MERGE_INPUTS_MAX = 16  # models that one merge joins
MERGE_SOURCES_MAX = 256  # files of all models of one merge
STATE_MEMBERS_MAX = 64  # absorbed models of one modality in the state
REMEASURES_MAX = 8  # times one absorption may be measured again because the state had moved
OPEN_INTENTS_MAX = 8  # declared runs of one author that have no result yet
REANNOUNCEMENTS_MAX = 16  # times one experiment may be announced again
VIEWERS_MAX = 256  # explorer live streams
