"""Schemathesis has no serializers for CARs and IPNS records: bytes are bytes."""

import schemathesis

schemathesis.serializer.alias(["application/vnd.ipld.car", "application/vnd.ipfs.ipns-record"], "application/octet-stream")
