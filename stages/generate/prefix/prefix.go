package prefix

import (
	"encoding/binary"
	"hash/maphash"

	"github.com/adpa/processor/schemas"
)

const (
	// BlockBytes is the step in which beginnings are compared: about 512 tokens.
	BlockBytes = 2048
	// minBlocks is how much longer than what is cached already a beginning must be
	// to be waited for: about the 1,024 tokens from which OpenAI, Anthropic and
	// Google cache.
	minBlocks = 2
	// maxBlocks bounds what is looked at of a prompt.
	maxBlocks = 256
)

// Prompt is what a gate needs to know of a request.
type Prompt struct {
	Model  string
	Stream bool // its first token will be seen

	chain []uint64 // chain[i] stands for the first i+1 blocks
}

// Short reports whether a prompt is too short for a provider to cache.
func (p *Prompt) Short() bool { return len(p.chain) < minBlocks }

// Read takes the beginnings of a chat's prompt out of its body, a valid request
// in OpenAI's format: first its tools and the form of its answer, which providers
// put in front, then its messages. Beginnings of different tenants or models are
// never equal.
func (g *Gate) Read(tenant, model string, stream bool, body []byte) Prompt {
	p := Prompt{Model: model, Stream: stream}
	if len(body) < minBlocks*BlockBytes {
		return p
	}
	var tools, format, messages []byte
	schemas.Members(body, func(name []byte, _, value schemas.Span) bool {
		switch string(name) {
		case "tools":
			tools = value.Of(body)
		case "response_format":
			format = value.Of(body)
		case "messages":
			messages = value.Of(body)
		}
		return true
	})
	var h maphash.Hash
	h.SetSeed(g.seed)
	for _, name := range []string{tenant, model} {
		_, _ = h.WriteString(name)
		_ = h.WriteByte(0)
	}
	last := h.Sum64()
	for _, part := range [][]byte{tools, format, messages} {
		for len(part) >= BlockBytes && len(p.chain) < maxBlocks {
			last = g.next(last, part[:BlockBytes])
			p.chain = append(p.chain, last)
			part = part[BlockBytes:]
		}
		last = g.next(last, part) // what is left over tells the blocks behind it apart
	}
	return p
}

// next continues a chain of hashes.
func (g *Gate) next(last uint64, block []byte) uint64 {
	var h maphash.Hash
	h.SetSeed(g.seed)
	var bytes [8]byte
	binary.LittleEndian.PutUint64(bytes[:], last)
	_, _ = h.Write(bytes[:])
	_, _ = h.Write(block)
	return h.Sum64()
}
