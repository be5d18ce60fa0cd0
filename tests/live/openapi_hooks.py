"""Schemathesis has no serializer for CARs: bytes are bytes."""

import schemathesis

schemathesis.serializer.alias("application/vnd.ipld.car", "application/octet-stream")
