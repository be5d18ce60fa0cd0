#!/usr/bin/env python3
"""The admin listener against its own OpenAPI document: schemathesis makes requests, right and wrong ones, from the document,
and every answer must be in it: no 5xx, status, content type and body as described, errors as problem documents.

    TIDEGATE_BIN=... [TIDEGATE_SCHEMATHESIS=schemathesis] [EXAMPLES=40] python3 tests/live/openapi.py [-k PATH_REGEX]

Installs nothing: schemathesis (PyPI) must be there. Runs against an empty and against a filled data directory.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from tidegate import Server, add, request  # noqa: E402

SCHEMATHESIS = os.environ.get("TIDEGATE_SCHEMATHESIS", "schemathesis")
EXAMPLES = os.environ.get("EXAMPLES", "40")
SEED = "20261124"
# The budget of expensive requests would answer most calls of gc and scrub 429: the limit has its own tests.
CONFIG = "[limits]\napi-reads-per-second = 0\napi-changes-per-second = 0\napi-expensive-per-second = 0\n"
LIMIT_S = 900


def fill(server):
    """Files, a tree, pins, a token, retrievals."""
    cids = [add(server, f"content {n}".encode() * (n * 500 + 1)) for n in range(12)]
    parts = "".join(f'--B\r\nContent-Disposition: form-data; filename="d/{n}.txt"\r\n\r\nfile {n}\r\n' for n in range(20))
    status, tree = server.api("POST", "add", f"{parts}--B--\r\n", {"Content-Type": "multipart/form-data; boundary=B"})
    assert status == 200, tree
    assert server.api("PUT", "pins/bafkqabtimvwgy3yk?name=hello")[0] == 200
    status, made = server.api("POST", "tokens", '{"name": "reader", "scope": "read"}', {"Content-Type": "application/json"})
    assert status == 201, made
    for cid in cids + [tree["cid"]]:
        assert server.get(f"/ipfs/{cid}/")[0] == 200
    assert server.get("/ipfs/bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")[0] >= 400
    for _ in range(100):
        if len(server.api("GET", "retrievals")[1]["items"]) > len(cids):
            return
        time.sleep(0.1)
    raise RuntimeError("the retrievals were not recorded")


def check(server, name, arguments):
    command = [
        SCHEMATHESIS, "run", f"http://{server.admin}/api/v1/openapi.json", "--checks", "all", "--max-examples", EXAMPLES,
        "--seed", SEED, "--workers", "1", "--request-timeout", "60", "--continue-on-failure", "--no-color",
        # A CID, a cursor or a CAR cannot be told by a JSON schema: what it allows may still be refused.
        "--exclude-checks", "positive_data_acceptance", "--mode", "all", "--suppress-health-check", "all", *arguments,
    ]
    started = time.monotonic()
    # Its reports and caches belong to no checkout.
    with tempfile.TemporaryDirectory() as cwd:
        env = {**os.environ, "SCHEMATHESIS_HOOKS": "openapi_hooks", "PYTHONPATH": str(Path(__file__).parent)}
        done = subprocess.run(command, cwd=cwd, env=env, timeout=LIMIT_S, capture_output=True, text=True)
    print(f"--- {name}: {time.monotonic() - started:.0f} s")
    # Generated values may be very long.
    lines = [line if len(line) < 400 else f"{line[:300]} ... {line[-60:]}" for line in done.stdout.splitlines()]
    print("\n".join(lines[-150:] if done.returncode else lines[-25:]))
    if done.returncode:
        print(done.stderr[-4000:])
    status, _, _ = request(server.admin, "GET", "/healthz")
    assert status == 200, "the server did not survive"
    log = Path(server.log.name).read_text()
    assert "panicked" not in log, log[-4000:]
    return done.returncode == 0


def main():
    arguments = [f"--include-path-regex={sys.argv[2]}"] if sys.argv[1:2] == ["-k"] else []
    passed = True
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp)
        (root / "config.toml").write_text(CONFIG)
        for name in ["empty", "filled"]:
            with Server(root / name, "--offline", "--config", str(root / "config.toml")) as server:
                if name == "filled":
                    fill(server)
                passed &= check(server, name, arguments)
                assert server.stop() == 0
    print("2 passed, 0 failed" if passed else "schemathesis found answers that the document does not have")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
