"""UnixFS directories and CARs by hand, so that names can be made that no writer would make. Standard library only."""

import base64
import hashlib

RAW, DAG_PB = 0x55, 0x70


def varint(number):
    out = bytearray()
    while True:
        number, low = number >> 7, number & 127
        out.append(low | (128 if number else 0))
        if not number:
            return bytes(out)


def field(number, data):
    """A length-delimited field of a protobuf message."""
    return varint(number << 3 | 2) + varint(len(data)) + data


class Block:
    def __init__(self, codec, data):
        self.data = data
        self.cid = bytes([1, codec, 0x12, 32]) + hashlib.sha256(data).digest()

    def __str__(self):
        return "b" + base64.b32encode(self.cid).decode().lower().rstrip("=")


def file(data):
    return Block(RAW, data)


def directory(entries):
    """Entries are (name in bytes, block) in the order in which they are to stand."""
    links = b"".join(
        field(2, field(1, block.cid) + field(2, name) + varint(3 << 3) + varint(len(block.data))) for name, block in entries)
    return Block(DAG_PB, links + field(1, b"\x08\x01"))


def symlink(target):
    return Block(DAG_PB, field(1, b"\x08\x04" + field(2, target)))


def car(roots, blocks):
    """CARv1. The header is DAG-CBOR: {"roots": [CID], "version": 1}."""
    assert len(roots) < 24
    tagged = b"".join(b"\xd8\x2a\x58" + bytes([len(root.cid) + 1]) + b"\0" + root.cid for root in roots)
    header = b"\xa2\x65roots" + bytes([0x80 + len(roots)]) + tagged + b"\x67version\x01"
    out = bytearray(varint(len(header)) + header)
    for block in blocks:
        out += varint(len(block.cid) + len(block.data)) + block.cid + block.data
    return bytes(out)
