// Helia over Bitswap alone: dials a node's TCP address, reads a file, a folder and a file in it. No gateway, no router.
// Prints one line of JSON; tests/live/clients.py knows what it must say.
//
//   node helia.mjs /ip4/127.0.0.1/tcp/PORT/p2p/PEER FILE_CID FOLDER_CID
import { createHash } from "node:crypto";
import { createHeliaLight } from "helia";
import { withBitswap } from "@helia/bitswap";
import { withLibp2pLight } from "@helia/libp2p";
import { unixfs } from "@helia/unixfs";
import { identify } from "@libp2p/identify";
import { noise } from "@libp2p/noise";
import { tcp } from "@libp2p/tcp";
import { yamux } from "@libp2p/yamux";
import { multiaddr } from "@multiformats/multiaddr";
import { CID } from "multiformats/cid";

const [address, file, folder] = process.argv.slice(2);
const helia = await withBitswap(withLibp2pLight(createHeliaLight(), {
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify() },
})).start();
const connection = await helia.libp2p.dial(multiaddr(address), { signal: AbortSignal.timeout(20_000) });
const fs = unixfs(helia);
const signal = AbortSignal.timeout(90_000);

async function read(cid, options) {
  const hash = createHash("sha256");
  let size = 0;
  for await (const chunk of fs.cat(cid, { signal, ...options })) {
    hash.update(chunk);
    size += chunk.length;
  }
  return { size, sha256: hash.digest("hex") };
}

const started = performance.now();
const big = await read(CID.parse(file));
const seconds = (performance.now() - started) / 1000;
const files = {};
async function walk(folder, above) {
  for await (const entry of fs.ls(folder, { signal })) {
    const name = `${above}${entry.name}`;
    const { type } = await fs.stat(entry.cid, { signal });
    if (type === "directory") await walk(entry.cid, `${name}/`);
    else files[name] = await read(entry.cid);
  }
}
await walk(CID.parse(folder), "");
const byPath = await read(CID.parse(folder), { path: Object.keys(files)[0] });
const { agentVersion } = await helia.libp2p.peerStore.get(connection.remotePeer).then((peer) => ({ agentVersion: new TextDecoder().decode(peer.metadata.get("AgentVersion")) }));
console.log(JSON.stringify({ file: big, seconds, files, byPath, agent: agentVersion, protocols: connection.streams.map((s) => s.protocol), peers: helia.libp2p.getPeers().length }));
await helia.stop();
process.exit(0);
