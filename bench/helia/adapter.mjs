// Helia behind an HTTP listener, so that the benchmark's client can time it as it times every other contender.
//
//   node adapter.mjs MULTIADDR...     dials the peers, then prints "ready HOST:PORT" and answers GET /ipfs/CID[/path]
//
// Loopback and the run's own namespaces only: no bootstrap, no delegated router, no public gateway.

import { createServer } from 'node:http'
import { withBitswap } from '@helia/bitswap'
import { withLibp2pLight } from '@helia/libp2p'
import { unixfs } from '@helia/unixfs'
import { noise } from '@libp2p/noise'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createHeliaLight } from 'helia'
import { CID } from 'multiformats/cid'

const libp2p = {
  addresses: { listen: [] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify() }
}
const helia = await withBitswap(withLibp2pLight(createHeliaLight(), libp2p)).start()
const files = unixfs(helia)
for (const address of process.argv.slice(2)) {
  await helia.libp2p.dial(multiaddr(address))
}

const server = createServer(async (request, response) => {
  const stop = new AbortController()
  response.on('close', () => stop.abort())
  try {
    const [, , cid, ...path] = request.url.split('/')
    for await (const chunk of files.cat(CID.parse(cid), { path: path.join('/'), signal: stop.signal })) {
      if (!response.headersSent) response.writeHead(200, { 'content-type': 'application/octet-stream' })
      if (!response.write(chunk)) await new Promise(resolve => response.once('drain', resolve))
    }
    response.end()
  } catch (error) {
    if (response.headersSent) return response.destroy(error)
    response.writeHead(500, { 'content-type': 'text/plain' }).end(String(error))
  }
})
server.listen(0, '127.0.0.1', () => console.log(`ready 127.0.0.1:${server.address().port}`))
