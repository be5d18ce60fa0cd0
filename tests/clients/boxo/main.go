// Reads from a gateway as boxo does (the library of Kubo, Rainbow and bifrost-gateway) and says what came, one line of JSON.
//
//	boxo car URL                a CAR by go-car's reader, each block against its CID
//	boxo car-backend GATEWAY PATH     a file or a folder through boxo's CarBackend (partial CARs, order=dfs, dups=y)
//	boxo blocks-backend GATEWAY PATH  the same through boxo's BlocksBackend (raw blocks)
//
// A folder's files are written relative to it, with size and SHA-256.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/ipfs/boxo/files"
	"github.com/ipfs/boxo/gateway"
	"github.com/ipfs/boxo/path"
	carv2 "github.com/ipld/go-car/v2"
)

type entry struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

type backend interface {
	GetAll(context.Context, path.ImmutablePath) (gateway.ContentPathMetadata, files.Node, error)
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	switch {
	case len(args) == 2 && args[0] == "car":
		return readCar(ctx, args[1])
	case len(args) == 3 && args[0] == "car-backend":
		from, err := gateway.NewRemoteCarBackend([]string{args[1]}, nil)
		if err != nil {
			return err
		}
		return readTree(ctx, from, args[2])
	case len(args) == 3 && args[0] == "blocks-backend":
		from, err := gateway.NewRemoteBlocksBackend([]string{args[1]}, nil)
		if err != nil {
			return err
		}
		return readTree(ctx, from, args[2])
	}
	return errors.New("usage: boxo car URL | car-backend GATEWAY PATH | blocks-backend GATEWAY PATH")
}

func readCar(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, response.Status)
	}
	// WithTrustedCAR(false): each block is hashed.
	reader, err := carv2.NewBlockReader(response.Body, carv2.WithTrustedCAR(false))
	if err != nil {
		return err
	}
	roots, blocks, size := []string{}, []string{}, 0
	for _, root := range reader.Roots {
		roots = append(roots, root.String())
	}
	for {
		block, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		blocks = append(blocks, block.Cid().String())
		size += len(block.RawData())
	}
	return say(map[string]any{"version": reader.Version, "roots": roots, "blocks": blocks, "size": size})
}

func readTree(ctx context.Context, from backend, at string) error {
	parsed, err := path.NewPath(at)
	if err != nil {
		return err
	}
	immutable, err := path.NewImmutablePath(parsed)
	if err != nil {
		return err
	}
	metadata, node, err := from.GetAll(ctx, immutable)
	if err != nil {
		return err
	}
	defer node.Close()
	found := map[string]entry{}
	// Links are none of what is asked for here: Walk gives them as files of no size.
	err = files.Walk(node, func(name string, node files.Node) error {
		file, isFile := node.(files.File)
		if !isFile {
			return nil
		}
		hash := sha256.New()
		size, err := io.Copy(hash, file)
		if err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		found[name] = entry{size, hex.EncodeToString(hash.Sum(nil))}
		return nil
	})
	if err != nil {
		return err
	}
	return say(map[string]any{"root": metadata.LastSegment.RootCid().String(), "files": found})
}

func say(what any) error {
	return json.NewEncoder(os.Stdout).Encode(what)
}
