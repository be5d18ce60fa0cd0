#!/usr/bin/env python3
"""Names that mean harm (names_of_harm.py), imported as CARs: in listings (HTML, JSON), headers, TAR, ZIP, `ls`, `get`, the log
and the dashboard. Shown escaped, nothing executed in Chromium and Firefox, nothing written outside the target folder.

    TIDEGATE_BIN=... TIDEGATE_NPM=... python3 tests/live/hostile.py [NAME ...]

Needs tar, unzip, Chromium, firefox-esr, Node and tests/browser's packages (TIDEGATE_NPM names the folder that holds node_modules).
"""

import http.client
import io
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.parse
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import dag  # noqa: E402
from browser import KINDS, node  # noqa: E402
from names_of_harm import INVISIBLE, NOT_TEXT, TAME, WILD, shown  # noqa: E402
from pages import SlowRouter  # noqa: E402
from tidegate import BIN, QUIET, Server, add, request  # noqa: E402

HTML = {"Accept": "text/html"}
NOWHERE = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"
HARM = re.compile("[" + "".join(re.escape(c) for c in INVISIBLE if c != "\n") + "]")


class World:
    """A server with: all names in one folder; the tame ones in another; each wild one alone, at the root and deep within."""

    def __init__(self, root):
        self.root = Path(root)
        self.file = dag.file(b"x")
        every = [name.encode() for name in TAME + WILD]
        self.all = dag.directory([(name, self.file) for name in every])
        self.tame = dag.directory([(name.encode(), self.file) for name in TAME])
        self.wild = {name: dag.directory([(name.encode(), self.file)]) for name in WILD}
        self.links = {target: dag.directory([(b"l", dag.symlink(target)), (b"l/x", self.file)]) for target in (b"/tmp", b"../../..", b"a/../../..", b"")}
        # Far from the root: the answer has begun when the name comes. The first file is larger than what is looked at before it.
        self.large = dag.file(os.urandom(900_000))
        self.deep = {}
        blocks = [self.file, self.large, self.all, self.tame, *self.wild.values()]
        for name, wild in self.wild.items():
            inner = dag.directory([(b"a", self.large), (b"b", wild)])
            self.deep[name] = dag.directory([(b"1", self.large), (b"2", inner), (b"3", self.file)])
            blocks += [inner, self.deep[name]]
        for target, folder in self.links.items():
            blocks += [folder, dag.symlink(target)]
        # A folder whose name a path through it repeats on every page.
        self.inner = dag.directory([(name.encode(), self.tame) for name in TAME])
        self.not_text = [dag.directory([(name, self.file), (b"plain", self.file)]) for name in NOT_TEXT]
        car = self.root / "names.car"
        car.write_bytes(dag.car([self.all], [*blocks, self.inner, *self.not_text]))
        self.server = Server(self.root / "data", "--offline", env={"RUST_LOG": "info,tidegate=debug"})
        self.url = f"http://{self.server.gateway}"

    def fill(self):
        done = self.tool("car", "import", str(self.root / "names.car"))
        assert done.returncode == 0, done.stderr

    def tool(self, *args, cwd=None):
        env = {**os.environ, **QUIET, "TIDEGATE_DATA_DIR": str(self.root / "data")}
        return subprocess.run([BIN, *args], env=env, capture_output=True, cwd=cwd or self.root, timeout=60)

    def get(self, path, headers=None):
        return request(self.server.gateway, "GET", path, headers=headers)


def quote(name):
    return urllib.parse.quote(name if isinstance(name, bytes) else name.encode(), safe="")


def listings(world):
    """JSON gives each name as it is; HTML has none of them as markup, in any order and on any page."""
    status, headers, body = world.get(f"/ipfs/{world.all}/", {"Accept": "application/json"})
    assert status == 200 and headers["content-type"] == "application/json", headers
    names = [entry["name"] for entry in json.loads(body)["entries"]]
    assert sorted(names) == sorted(TAME + WILD), set(TAME + WILD) ^ set(names)
    for query in ("", "?sort=name&order=desc", "?sort=size", "?page=99"):
        status, headers, body = world.get(f"/ipfs/{world.all}/{query}", HTML)
        text = body.decode()
        assert status == 200, status
        assert not HARM.search(text), f"{query}: {HARM.search(text)}"
        assert text.count("<script") == 1 and text.count("<a ") < 3 * len(names) + 40 and "<img" not in text, query
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy, policy
    return f"{len(names)} names"


def not_text(world):
    """A folder with a name that is no UTF-8 is malformed as a whole, by every way, and says so without the name."""
    for folder, name in zip(world.not_text, NOT_TEXT):
        for path in ("/", "/plain", "?format=tar", "?format=zip", f"/{quote(name)}"):
            status, headers, body = world.get(f"/ipfs/{folder}{path}")
            assert status in (400, 406, 422, 502), (name, path, status, body)
            assert name not in body and "immutable" not in headers.get("cache-control", ""), (name, path, body)
        status, _, block = world.get(f"/ipfs/{folder}?format=raw")
        assert (status, block) == (200, folder.data), "the block itself is its own bytes"
        listed = world.tool("ls", str(folder))
        assert listed.returncode != 0 and name not in listed.stdout + listed.stderr, listed
    return f"{len(NOT_TEXT)} overlong, cut and foreign forms refused"


def raw_head(world, path):
    """The lines of a response's head, as they came: a client's parser would hide a doubled one."""
    host, port = world.server.gateway.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"HEAD {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while part := connection.recv(65536):
            data += part
    return data.partition(b"\r\n\r\n")[0].split(b"\r\n")


def headers(world):
    """Each name in Content-Disposition, X-Ipfs-Path and Location is one value of printable ASCII, and can be read back."""
    for name in TAME + WILD:
        if len(name) > 3000:
            continue
        paths = [f"/ipfs/{world.file}?filename={quote(name)}&download=true", f"/ipfs/{world.file}?format=car&filename={quote(name)}"]
        if name in TAME:
            paths += [f"/ipfs/{world.tame}/{quote(name)}", f"/ipfs/{world.inner}/{quote(name)}", f"/ipfs/{world.inner}/{quote(name)}/?format=tar"]
        for path in paths:
            lines = raw_head(world, path)
            assert lines[0].split()[1] in (b"200", b"301"), (name, path, lines[0])
            assert all(re.fullmatch(rb"[a-z0-9-]+: [\x20-\x7e]*", line) for line in lines[1:]), (name, lines)
            assert not any(line.lower().startswith((b"set-cookie", b"x:")) for line in lines), (name, lines)
            fields = {line.split(b": ")[0]: line.split(b": ", 1)[1].decode() for line in lines[1:]}
            if "filename=" in path and name.strip():
                disposition = fields[b"content-disposition"]
                plain = re.fullmatch(r'attachment; filename="([^"\\]*)"(?:; filename\*=UTF-8\'\'([!-~]+))?', disposition)
                assert plain, disposition
                got = urllib.parse.unquote(plain.group(2)) if plain.group(2) else plain.group(1)
                assert got == name, (name, disposition)
            if lines[0].split()[1] == b"301":
                location = fields[b"location"]
                assert location == f"/ipfs/{world.inner}/{location.split('/')[3]}/" and urllib.parse.unquote(location.split("/")[3]) == name, location
    return f"{len(TAME) + len(WILD) - 1} names"


def outside(world, folder):
    """What is on the disk beside the folder: it must not change."""
    beside = {str(path) for place in (folder.parent, folder.parent.parent) for path in place.iterdir()}
    return beside | {place for place in ("/tmp/tidegate-hostile", "/etc/tidegate-hostile") if os.path.lexists(place)}


def unpack(world, kind, path, with_what):
    """Unpacks an archive by a program that trusts it; the folder and what stands in it. Nothing may stand anywhere else."""
    place = Path(tempfile.mkdtemp(dir=world.root)) / "within" / "target"
    place.mkdir(parents=True)
    before = outside(world, place)
    if with_what == "tarfile":
        with tarfile.open(path, ignore_zeros=False) as archive:
            archive.extractall(place, filter="fully_trusted")
    elif with_what == "tar":
        # -P: names as they are; a cut archive ends with 2.
        subprocess.run(["tar", "-xPf", path, "-C", place], capture_output=True)
    elif with_what == "zipfile":
        with zipfile.ZipFile(path) as archive:
            archive.extractall(place)
    else:
        # -: lets `..` be followed; -V keeps what VMS would take for a version.
        subprocess.run(["unzip", "-q", "-o", "-V", "-:", path, "-d", place], capture_output=True)
    assert outside(world, place) == before, f"{kind} by {with_what} wrote elsewhere: {outside(world, place) ^ before}"
    return place


def controls(world):
    """Archives that do lead outside are noticed: these programs trust a name, and the check sees what they write."""
    tar, zip_ = world.root / "control.tar", world.root / "control.zip"
    with tarfile.open(tar, "w") as archive:
        archive.addfile(tarfile.TarInfo("../evil"), io.BytesIO(b""))
    with zipfile.ZipFile(zip_, "w") as archive:
        archive.writestr("../evil", b"")
    for kind, path, tool in (("tar", tar, "tar"), ("tar", tar, "tarfile"), ("zip", zip_, "unzip")):
        try:
            unpack(world, kind, path, tool)
        except AssertionError:
            continue
        raise AssertionError(f"what {tool} wrote outside was not noticed")


def archives(world):
    """TAR and ZIP: tame names come out of tar, unzip and Python as they are; a wild one or a link outward is refused or cuts the
    answer, and what came until then writes nothing outside."""
    controls(world)
    for kind in ("tar", "zip"):
        status, _, body = world.get(f"/ipfs/{world.tame}?format={kind}")
        assert status == 200, (kind, status, body[:300])
        path = world.root / f"tame.{kind}"
        path.write_bytes(body)
        for tool in (("tarfile", "tar") if kind == "tar" else ("zipfile", "unzip")):
            place = unpack(world, kind, path, tool)
            top = os.path.join(os.fsencode(place), str(world.tame).encode())
            assert os.listdir(place) == [str(world.tame)], os.listdir(place)
            names = sorted(os.listdir(top))
            assert names == sorted(name.encode() for name in TAME), (kind, tool, set(names) ^ {name.encode() for name in TAME})
            assert all(open(os.path.join(top, name), "rb").read() == b"x" for name in names)
    refused = cut = 0
    for name, folder in [*world.wild.items(), *world.links.items()]:
        for kind in ("tar", "zip"):
            status, headers, body = world.get(f"/ipfs/{folder}?format={kind}")
            if name in WITHIN_AT_ROOT and status == 200:
                path = world.root / f"within.{kind}"
                path.write_bytes(body)
                unpack(world, kind, path, "tar" if kind == "tar" else "unzip")
                continue
            assert status == 422, (name, kind, status, body[:200])
            assert headers["content-type"] == "application/problem+json" and not HARM.search(body.decode()), (name, body)
            refused += 1
    for name, folder in world.deep.items():
        for kind in ("tar", "zip"):
            path = world.root / f"deep.{kind}"
            whole = fetch_until_cut(world, f"/ipfs/{folder}?format={kind}", path)
            assert not whole or name in WITHIN, f"an archive with {name!r} deep within ended as if it were whole"
            cut += not whole
            for tool in (("tar",) if kind == "tar" else ("unzip",)):
                unpack(world, kind, path, tool)
            if kind == "tar":
                for member in members(path):
                    assert member.startswith(str(folder)) and ".." not in member.split("/") and not HARM.search(member), member
    return f"{len(TAME)} names come back from tar, unzip, tarfile, zipfile; {refused} refused, {cut} cut off before the name"


# Names that lead elsewhere and still within the archive are put where they lead (spec: TAR, relative inside is well).
WITHIN_AT_ROOT = {"a/b", "</script><script>alert(1)</script>", "</a></td></table><img src=x onerror=alert(1)>"}
WITHIN = {"../up", "a/../../up", *WITHIN_AT_ROOT}


def members(path):
    """The names in a TAR that may be cut off."""
    found = []
    with open(path, "rb") as file:
        try:
            with tarfile.open(fileobj=io.BytesIO(file.read())) as archive:
                for member in archive:
                    found.append(member.name)
        except tarfile.TarError:
            pass
    return found


def fetch_until_cut(world, path, place):
    """Writes what comes; whether the answer ended as a whole one does."""
    connection = http.client.HTTPConnection(world.server.gateway, timeout=30)
    with open(place, "wb") as out:
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            if response.status != 200:
                return False
            while part := response.read(65536):
                out.write(part)
            return True
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def command_line(world):
    """`ls` writes a line an entry and no character that steers; `get` writes tame names and refuses wild ones, alone and deep
    within, before it writes anything outside its folder."""
    listed = world.tool("ls", str(world.all))
    assert listed.returncode == 0, listed.stderr
    text = listed.stdout.decode()
    assert not HARM.search(text), HARM.search(text)
    lines = text.split("\n")[:-1]
    assert len(lines) == len(TAME) + len(WILD), f"{len(lines)} lines for {len(TAME) + len(WILD)} names"
    assert [line.split(" ", 2)[2] for line in lines] == [shown(name) for name in TAME + WILD], lines
    listed = world.tool("ls", "--json", str(world.all))
    assert [json.loads(line)["name"] for line in listed.stdout.splitlines()] == TAME + WILD
    place = Path(tempfile.mkdtemp(dir=world.root)) / "within" / "target"
    place.parent.mkdir()
    done = world.tool("get", str(world.tame), "-o", str(place))
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(os.fsencode(place))) == sorted(name.encode() for name in TAME)
    refused = 0
    for name, folder in [*world.wild.items(), *world.deep.items()]:
        place = Path(tempfile.mkdtemp(dir=world.root)) / "within" / "target"
        place.parent.mkdir()
        before = outside(world, place)
        done = world.tool("get", str(folder), "-o", str(place), cwd=place.parent)
        assert done.returncode == 5, (name, done)
        assert not HARM.search(done.stderr.decode()) and not done.stdout, (name, done.stderr)
        assert outside(world, place) - {str(place)} == before, (name, outside(world, place) ^ before)
        refused += 1
        if name in ("", ".", "..") or "\0" in name or folder not in world.wild.values():
            continue
        # The last segment of a path names the file when no --output does.
        by_path = world.tool("get", f"{world.all}/{name}", cwd=place.parent)
        assert by_path.returncode != 0 or name in TAME, (name, by_path)
        assert outside(world, place) - {str(place)} == before, (name, "by path")
    for target, folder in world.links.items():
        place = Path(tempfile.mkdtemp(dir=world.root)) / "within" / "target"
        place.parent.mkdir()
        before = outside(world, place)
        world.tool("get", str(folder), "-o", str(place))
        assert outside(world, place) - {str(place)} == before, target
        assert not os.path.lexists(place / "l") or not os.path.isabs(os.readlink(place / "l")), target
    return f"{len(TAME) + len(WILD)} lines; {len(TAME)} files; {refused} refused with exit 5"


def recorded(world, wanted):
    """The retrievals, when those of all tame names are there; the newest first."""
    for _ in range(200):
        items, cursor = [], None
        while True:
            page = world.server.api("GET", "retrievals?limit=200" + (f"&cursor={cursor}" if cursor else ""))[1]
            items += page["items"]
            cursor = page.get("next_cursor")
            if not cursor:
                break
        paths = {item["path"] for item in items}
        found = sum(f"/ipfs/{world.inner}/{name}/{name}" in paths for name in TAME)
        if found == wanted:
            return items
        time.sleep(0.1)
    raise AssertionError(f"the retrievals of {found} of {wanted} names are recorded: {sorted(paths)[:20]}")


CONTROL = """<!doctype html><title>a control</title><h1>a</h1><img src=x onerror=alert(1)><a href="javascript:alert(1)">b</a>
<p onmouseover="1" data-hx-get="evil">\u202e</p><script>fetch("evil")</script>"""


def browsers(world):
    """The listing, a page whose path is a name, error pages, the page of those who wait and the dashboard, in Chromium and in Firefox."""
    gateway, admin = world.url, f"http://{world.server.admin}"
    names = TAME + WILD
    pages = [{"name": "listing", "url": f"{gateway}/ipfs/{world.all}/", "status": 200, "texts": "td:first-child > a", "exact": True,
              "want": [shown(name) for name in names], "links": "td a", "allowed": [gateway]},
             {"name": "control", "url": f"{gateway}/ipfs/{add(world.server, CONTROL.encode())}", "status": 200, "texts": "h1",
              "want": ["not there"], "links": "a", "allowed": [gateway], "control": True}]
    for name in TAME:
        segment = quote(name)
        pages.append({"name": f"folder {name!r}", "url": f"{gateway}/ipfs/{world.inner}/{segment}/", "status": 200, "texts": "h1",
                      "want": [shown(name)], "links": "h1 a", "allowed": [gateway]})
        pages.append({"name": f"missing {name!r}", "url": f"{gateway}/ipfs/{world.file}/{segment}", "status": 404, "texts": "main",
                      "want": [], "allowed": [gateway]})
    # What was asked for is on the dashboard: by people and by programs, found and not.
    for name in [*TAME, *(wild for wild in WILD if len(wild) < 4000)]:
        world.get(f"/ipfs/{world.tame}/{quote(name)}", HTML)
        world.get(f"/ipfs/{world.inner}/{quote(name)}/{quote(name)}")
        world.get(f"/ipfs/{world.file}/{quote(name)}")
    items = recorded(world, len(TAME))
    pages += [{"name": f"dashboard {path}", "url": f"{admin}{path}", "status": 200, "texts": "main", "want": want, "links": "main a[href]",
               "allowed": [admin, gateway]}
              for path, want in [("/retrievals", ["Retrievals", "touch pwned"]), ("/", []), ("/content", []), ("/reports", [])]]
    for item in items[:: max(1, len(items) // 24)]:
        pages.append({"name": f"retrieval of {item['path'][-40:]!r}", "url": f"{admin}/retrievals/{item['id']}", "status": 200, "texts": "main",
                      "want": [], "links": "main a[href]", "allowed": [admin, gateway]})
    some = TAME[::4]
    pages += [{"name": f"explain {name!r}", "url": f"{admin}/explain/{quote(name)}", "status": 400, "texts": "main", "want": ["is not a CID"],
               "links": "a[href]", "allowed": [admin, gateway]} for name in some]
    (world.root / "patient.toml").write_text('[limits]\nretrieval-timeout = "30m"\n')
    arguments = ["--router", SlowRouter().url, "--config", str(world.root / "patient.toml")]
    with Server(world.root / "waiting", *arguments) as waiting, tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        at = f"http://{waiting.gateway}"
        pages += [{"name": f"waiting {name!r}", "url": f"{at}/ipfs/{NOWHERE}/{quote(name)}", "status": 202, "texts": "main", "want": [shown(name)],
                   "allowed": [at]} for name in some]
        json.dump({"pages": pages}, file)
        file.flush()
        said = []
        for kind in KINDS:
            done = node("hostile.mjs", {"PLAN": file.name, "BROWSER": kind}, capture_output=True, timeout=400)
            assert done.returncode == 0, f"{done.stdout}{done.stderr[-6000:]}"
            said.append(done.stdout.strip())
    return "; ".join(said)


def log(world):
    """The server's log, at level debug, holds no character that steers a terminal, and one line an event."""
    text = Path(world.server.log.name).read_text(errors="replace")
    found = HARM.search(re.sub(r"\x1b\[[0-9;]*m", "", text))
    assert not found, f"the log holds {found.group()!r}: {text[max(0, found.start() - 200):found.end() + 100]!r}"
    assert "panicked" not in text, text[-4000:]
    return f"{len(text)} bytes"


CHECKS = [listings, not_text, headers, archives, command_line, browsers, log]


def main():
    wanted = set(sys.argv[1:])
    unknown = wanted - {check.__name__ for check in CHECKS}
    if unknown:
        sys.exit(f"no such check: {unknown}; there are {[check.__name__ for check in CHECKS]}")
    passed = failed = 0
    with tempfile.TemporaryDirectory() as root:
        world = World(root)
        with world.server as server:
            world.fill()
            for check in CHECKS:
                if wanted and check.__name__ not in wanted:
                    continue
                started = time.monotonic()
                try:
                    outcome, passed = check(world), passed + 1
                except AssertionError as error:
                    outcome, failed = f"FAILED: {error}", failed + 1
                print(f"{check.__name__}: {outcome} [{time.monotonic() - started:.1f} s]", flush=True)
            assert server.stop() == 0
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
