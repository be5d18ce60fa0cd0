"""ipfsspec (fsspec) against the gateway that IPFS_GATEWAY names: open, ls, glob, info, and what is not there. Prints JSON.

    IPFS_GATEWAY=http://127.0.0.1:PORT python ipfsspec_client.py FILE_CID FOLDER_CID
"""

import hashlib
import json
import sys

import fsspec

file, folder = sys.argv[1:]
with fsspec.open(f"ipfs://{file}", "rb") as stream:
    whole = stream.read()
with fsspec.open(f"ipfs://{folder}/sub dir/ąę.txt", "rt", encoding="utf-8") as stream:
    text = stream.read()
system = fsspec.filesystem("ipfs")
try:
    system.cat(f"{folder}/no-such-file")
    missing = "found"
except FileNotFoundError:
    missing = "FileNotFoundError"
print(json.dumps({
    "file": {"size": len(whole), "sha256": hashlib.sha256(whole).hexdigest()},
    "text": text,
    "ls": sorted(system.ls(folder, detail=False)),
    "details": {entry["name"]: [entry["type"], entry.get("size")] for entry in system.ls(folder, detail=True)},
    "glob": sorted(system.glob(f"{folder}/*.txt")),
    "deep": sorted(system.glob(f"{folder}/**/*.txt")),
    "info": system.info(f"{folder}/sub dir/ąę.txt")["size"],
    "isdir": system.isdir(f"{folder}/sub dir"),
    "missing": missing,
}))
