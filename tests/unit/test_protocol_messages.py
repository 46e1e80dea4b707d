"""Frames and messages: what is written is read back; everything else is the peer's error."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spore_borg.errors import LocalProtocolError, RemoteProtocolError
from spore_borg.limits import FRAME_SIZE_BYTES_MAX, HAVE_CIDS_MAX, RECORD_SIZE_BYTES_MAX
from spore_borg.protocol import messages
from spore_borg.protocol.frames import FrameDecoder, encode_frame
from spore_borg.protocol.messages import (
    MANIFEST,
    Address,
    Addresses,
    BlobPart,
    BlobWant,
    Bye,
    Have,
    Hello,
    Ping,
    Pong,
    Prune,
    Recon,
    ReconReply,
    Records,
    Want,
)
from spore_borg.records.canonical import encode
from spore_borg.records.cid import RAW, Cid

VECTORS = Path(__file__).parents[2] / "spec" / "vectors" / "sync" / "messages.json"
CID = Cid.of(b"x")
EVERY = [
    Hello(1, CID, b"n" * 32, "spore-borg/0.1", "research", "", 0),
    Hello(1, CID, b"n" * 32, "", "sync", "192.0.2.7", 8471),
    Bye("other-mesh", "this node belongs to another mesh"),
    Ping(3),
    Pong(3),
    Addresses((Address("192.0.2.7", 8471, b"k" * 32), Address("2001:db8::1", 1, b"l" * 32))),
    Have(True, (CID, Cid.of(b"y"))),
    Want(1, False, (CID,)),
    Records(0, True, (b"one", b"two" * 700)),
    Records(7, False, ()),
    Prune(),
    Recon(1, 0, b"\x00\xff"),
    ReconReply(1, 0, b""),
    BlobWant(CID, MANIFEST),
    BlobWant(Cid.of(b"x", RAW), 0),
    BlobPart(CID, 3, b"data"),
    BlobPart(CID, 3, None),
]


@pytest.mark.parametrize("message", EVERY, ids=lambda message: type(message).__name__)
def test_a_message_is_read_back(message):
    assert messages.decode(messages.encode(message)) == message


def test_the_vectors_say_the_same():
    vectors = json.loads(VECTORS.read_text())
    assert [item["hex"] for item in vectors["valid"]] == [
        messages.encode(message).hex()
        for message in EVERY
        if not (isinstance(message, Records) and message.raws)
    ]
    for item in vectors["invalid"]:
        with pytest.raises(RemoteProtocolError):
            messages.decode(bytes.fromhex(item["hex"]))


INVALID = {
    "not a list": {"kind": "hello"},
    "no number": [],
    "a flag for a number": [True],
    "unknown number": [99],
    "number as text": ["2", 1],
    "too few fields": [2],
    "too many fields": [2, 1, 1],
    "negative number": [2, -1],
    "other version": [0, 2, CID, b"n" * 32, "a", "research", "", 1],
    "short nonce": [0, 1, CID, b"n" * 31, "a", "research", "", 1],
    "unknown role": [0, 1, CID, b"n" * 32, "a", "king", "", 1],
    "role of another type": [0, 1, CID, b"n" * 32, "a", ["research"], "", 1],
    "port too large": [0, 1, CID, b"n" * 32, "a", "research", "", 65536],
    "host with a path": [0, 1, CID, b"n" * 32, "a", "research", "../etc", 1],
    "control characters": [1, "bye", "a\x1b[2J"],
    "agent too long": [0, 1, CID, b"n" * 32, "a" * 65, "research", "", 1],
    "ids cut off": [5, True, b"x" * 33],
    "no ids": [5, True, b""],
    "too many ids": [5, True, b"x" * 32 * (HAVE_CIDS_MAX + 1)],
    "ids as a list": [5, True, [CID]],
    "flag as number": [5, 1, b"x" * 32],
    "want number 0": [6, 0, False, b"x" * 32],
    "records cut off": [7, 0, True, False, b"\x00\x00\x00\x05abc"],
    "an empty record": [7, 0, True, False, b"\x00\x00\x00\x00"],
    "a record too large": [
        7,
        0,
        True,
        False,
        (RECORD_SIZE_BYTES_MAX + 1).to_bytes(4, "big") + bytes(RECORD_SIZE_BYTES_MAX + 1),
    ],
    "not compressed": [7, 0, True, True, b"junk"],
    "a bomb": [7, 0, True, True, zlib.compress(bytes(64 << 20), 9)],
    "a blob by its path": [11, "../../identity.key", 0],
    "a blob by an absolute path": [11, b"/etc/passwd", 0],
    "a blob by bytes like a cid": [11, bytes(CID), 0],
    "chunk before the manifest": [11, CID, -2],
    "chunk as text": [11, CID, "0"],
    "part too large": [12, CID, 0, bytes((1 << 18) + 1)],
    "an address without key": [4, [["192.0.2.7", 1]]],
    "too many addresses": [4, [["192.0.2.7", 1, b"k" * 32]] * 33],
    "a url as address": [4, [["http://192.0.2.7/", 1, b"k" * 32]]],
    "recon ranges as a list": [9, 1, 0, [1]],
}


@pytest.mark.parametrize("value", INVALID.values(), ids=INVALID.keys())
def test_what_is_wrong_is_the_peers_error(value):
    with pytest.raises(RemoteProtocolError):
        messages.decode(encode(value))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_only_ever_raise_the_peers_error(raw):
    try:
        message = messages.decode(raw)
    except RemoteProtocolError:
        return
    assert messages.decode(messages.encode(message)) == message


@pytest.mark.parametrize(
    "raw", [b"\xf9\x3c\x00", b"\x9f\x02\x01\xff", b"\x82\x18\x02\x01", b"\x81" * 5000, b""]
)
def test_only_canonical_bytes_are_read(raw):
    with pytest.raises(RemoteProtocolError):
        messages.decode(raw)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.integers(1, 50))
def test_frames_survive_any_cutting(payloads, step):
    stream = b"".join(map(encode_frame, payloads))
    decoder = FrameDecoder()
    found = [
        payload for at in range(0, len(stream), step) for payload in decoder.receive(stream[at : at + step])
    ]
    assert found == payloads
    assert decoder.buffered_bytes == 0


@pytest.mark.parametrize("size", [0, FRAME_SIZE_BYTES_MAX + 1, 0xFFFF_FFFF])
def test_a_frame_of_a_forbidden_size_is_refused_at_its_header(size):
    decoder = FrameDecoder()
    with pytest.raises(RemoteProtocolError):
        decoder.receive(size.to_bytes(4, "big"))
    assert decoder.buffered_bytes == 0


def test_we_never_send_a_frame_over_the_limit():
    with pytest.raises(LocalProtocolError):
        encode_frame(bytes(FRAME_SIZE_BYTES_MAX + 1))
    with pytest.raises(LocalProtocolError):
        messages.encode(BlobPart(CID, MANIFEST, bytes(FRAME_SIZE_BYTES_MAX)))
