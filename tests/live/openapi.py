#!/usr/bin/env python3
"""Both listeners against their OpenAPI documents: schemathesis makes requests, right and wrong ones, from the document,
and every answer must be in it: no 5xx, status, content type and body as described, errors as problem documents.
The admin listener's document is its own; the gateway's JSON (Delegated Routing V1, listings) is in docs/openapi-gateway.json.

    TIDEGATE_BIN=... [TIDEGATE_SCHEMATHESIS=schemathesis] [EXAMPLES=40] python3 tests/live/openapi.py [-k PATH_REGEX]

Installs nothing: schemathesis (PyPI) must be there. Runs the API over an empty and over a filled data directory; the gateway over a DHT
of two servers, with content, a name and a delegated router that knows a provider of everything.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from tidegate import Server, add, request  # noqa: E402

SCHEMATHESIS = os.environ.get("TIDEGATE_SCHEMATHESIS", "schemathesis")
EXAMPLES = os.environ.get("EXAMPLES", "40")
SEED = "20261124"
# The budget of expensive requests would answer most calls of gc and scrub 429: the limit has its own tests.
CONFIG = "[limits]\napi-reads-per-second = 0\napi-changes-per-second = 0\napi-expensive-per-second = 0\n"
LIMIT_S = 900
GATEWAY = Path(__file__).parent.parent.parent / "docs" / "openapi-gateway.json"
# The specification of Delegated Routing V1 has 501 where HTTP has 405: methods that are not described have a test of their own,
# `what_is_not_understood_has_its_status`.
ROUTING_CONFIG = "[phases.coverage]\nunexpected-methods = []\n"


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


class Router(ThreadingHTTPServer):
    """A delegated router that names three providers of whatever is asked for, one that speaks HTTP among them."""

    daemon_threads = True
    PEERS = [
        {"Schema": "peer", "ID": "12D3KooWGzBXWNvHpLALvTgHZZw3Lr8Yr1AGGrYBkKUq2DUGzHcm", "Addrs": ["/ip4/203.0.113.7/tcp/4001"], "Protocols": ["transport-bitswap"]},
        {"Schema": "peer", "ID": "QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN", "Addrs": ["/dns4/files.example/tcp/443/https"], "Protocols": ["transport-ipfs-gateway-http"]},
        {"Schema": "peer", "ID": "QmQCU2EcMqAqQPR2i9bChDtGNJchTbq5TbXJJ16u19uLTa", "Addrs": [], "Protocols": []},
    ]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            providers = self.path.startswith("/routing/v1/providers/")
            body = json.dumps({"Providers": Router.PEERS} if providers else {"Peers": Router.PEERS[:1]}).encode()
            record = self.path.startswith("/routing/v1/ipns/")
            self.send_response(404 if record else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    def __init__(self):
        super().__init__(("127.0.0.1", 0), self.Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


def gateway_document(server, root):
    """The document with what this server has as examples, every second value of a parameter among them; a record of a name."""
    names = ["tree/top.txt", *(f"tree/docs/{n}.txt" for n in range(1200))]
    parts = "".join(f'--B\r\nContent-Disposition: form-data; filename="{name}"\r\n\r\n{name}\r\n' for name in names)
    status, tree = server.api("POST", "add", f"{parts}--B--\r\n", {"Content-Type": "multipart/form-data; boundary=B"})
    assert status == 200, tree
    root_cid = tree["cid"]
    entries = json.loads(server.get(f"/ipfs/{root_cid}/", {"Accept": "application/json"})[2])["entries"]
    inner = next(entry for entry in entries if entry["name"] == "docs")
    # As many entries as need a second page.
    assert json.loads(server.get(f"/ipfs/{inner['cid']}/", {"Accept": "application/json"})[2])["next"]
    file = add(server, b"a file")
    wanted = json.dumps({"path": f"/ipfs/{root_cid}"})
    status, published = server.api("POST", "names", wanted, {"Content-Type": "application/json"})
    assert status == 200, published
    name = published["name"]
    status, headers, record = server.get(f"/routing/v1/ipns/{name}")
    assert status == 200 and headers["content-type"] == "application/vnd.ipfs.ipns-record", (status, headers)
    (root / "record").write_bytes(record)
    real = {
        "cid": [file, root_cid, inner["cid"], "bafkqabtimvwgy3yk"], "root": [root_cid, inner["cid"]], "folder": [inner["name"]],
        "peer": [server.peer, Router.PEERS[0]["ID"]], "key": [file, server.peer], "name": [name],
    }
    document = json.loads(GATEWAY.read_text())
    for parameter in document["components"]["parameters"].values():
        if values := real.get(parameter["name"]):
            parameter.pop("example")
            parameter["examples"] = {value: {"value": value} for value in values}
            parameter["schema"] = {"anyOf": [{"enum": values}, parameter["schema"]]}
    path = root / "gateway.json"
    path.write_text(json.dumps(document))
    return path, real


def gateway(root, arguments):
    """The gateway's JSON. The content is what schemathesis asks for: that it is there is checked before."""
    with Server(root / "dht", "--dht-server") as other, Router() as router:
        addresses = [address for address in other.api("GET", "id")[1]["addresses"] if "127.0.0.1" in address]
        bootstrap = addresses[0] if "/p2p/" in addresses[0] else f"{addresses[0]}/p2p/{other.peer}"
        options = ["--routing-v1", "--dht-server", "--router", router.url, "--allow-private", "127.0.0.0/8"]
        with Server(root / "routing", *options, env={"TIDEGATE_BOOTSTRAP": bootstrap}) as server:
            document, real = gateway_document(server, root)
            lists = [("providers/" + real["cid"][0], "Providers"), ("peers/" + Router.PEERS[0]["ID"], "Peers"), ("dht/closest/peers/" + real["key"][0], "Peers")]
            for path, member in lists:
                for _ in range(100):
                    status, _, body = server.get(f"/routing/v1/{path}")
                    if status == 200 and json.loads(body)[member]:
                        break
                    time.sleep(0.1)
                else:
                    raise AssertionError(f"{path} answers {status} {body!r}")
            env = {"TIDEGATE_IPNS_RECORD": str(root / "record")}
            run = [str(document), "--url", f"http://{server.gateway}", *arguments]
            passed = check(server, "routing", [*run, "--include-tag", "routing"], env, ROUTING_CONFIG)
            passed &= check(server, "listings", [*run, "--include-tag", "listing"], env)
            assert server.stop() == 0
        assert other.stop() == 0
    return passed


def check(server, name, arguments, env=None, config=""):
    command = [
        SCHEMATHESIS, "run", *arguments, "--checks", "all", "--max-examples", EXAMPLES,
        "--seed", SEED, "--workers", "1", "--request-timeout", "60", "--continue-on-failure", "--no-color",
        # A CID, a cursor or a CAR cannot be told by a JSON schema: what it allows may still be refused.
        "--exclude-checks", "positive_data_acceptance", "--mode", "all", "--suppress-health-check", "all",
    ]
    started = time.monotonic()
    # Its reports and caches belong to no checkout.
    with tempfile.TemporaryDirectory() as cwd:
        (Path(cwd) / "schemathesis.toml").write_text(config)
        env = {**os.environ, **(env or {}), "SCHEMATHESIS_HOOKS": "openapi_hooks", "PYTHONPATH": str(Path(__file__).parent)}
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
    passed = 0
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp)
        (root / "config.toml").write_text(CONFIG)
        for name in ["empty", "filled"]:
            with Server(root / name, "--offline", "--config", str(root / "config.toml")) as server:
                if name == "filled":
                    fill(server)
                passed += check(server, name, [f"http://{server.admin}/api/v1/openapi.json", *arguments])
                assert server.stop() == 0
        passed += gateway(root, arguments)
    print("3 passed, 0 failed" if passed == 3 else "schemathesis found answers that the document does not have")
    return 0 if passed == 3 else 1


if __name__ == "__main__":
    sys.exit(main())
