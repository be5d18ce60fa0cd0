"""What schemathesis does not know: bytes that are bytes, a record that is one, and lines of JSON."""

import json
import os
from pathlib import Path

import schemathesis
from hypothesis import strategies as st

RECORD = "application/vnd.ipfs.ipns-record"

schemathesis.serializer.alias(["application/vnd.ipld.car", RECORD], "application/octet-stream")

if "TIDEGATE_IPNS_RECORD" in os.environ:
    # Random bytes are never a record: every second body is a real one.
    real = Path(os.environ["TIDEGATE_IPNS_RECORD"]).read_bytes()
    schemathesis.openapi.media_type(RECORD, st.one_of(st.just(real), st.binary(max_size=300)))


@schemathesis.deserializer("application/x-ndjson")
def lines(_, response):
    """What the document describes is the list of the lines."""
    text = response.content.decode()
    if text and not text.endswith("\n"):
        raise ValueError(f"the last line has no end: {text[-80:]!r}")
    return [json.loads(line) for line in text.splitlines()]
