package clustertest

import (
	"fmt"
	"regexp"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// trail is what was seen of each request on its way: what was published of it,
// whether or not that was stored. It misses what passes while its connection is away.
type trail struct {
	mu   sync.Mutex
	seen map[string][]string // by id
}

// trailMost bounds what is kept of one request.
const trailMost = 100

var idPattern = regexp.MustCompile(`r\d{6}`)

// follow notes what is published on the way of requests.
func (p *plant) follow() {
	p.trail = &trail{seen: map[string][]string{}}
	for _, subject := range []string{"llm.requests.*", "llm.stages.>", "llm.later.>", "llm.responses.>", "llm.dead.>"} {
		_, err := p.nc.Subscribe(subject, p.trail.note)
		require.NoError(p.t, err)
	}
}

func (t *trail) note(m *nats.Msg) {
	ids := map[string]bool{}
	for _, id := range idPattern.FindAllString(m.Subject+" "+m.Header.Get("Llm-Id")+" "+string(m.Data), -1) {
		ids[id] = true
	}
	line := fmt.Sprintf("%s %s %s, %d requests", time.Now().Format("15:04:05.000"), m.Subject, m.Header.Get(nats.MsgIdHdr), len(ids))
	t.mu.Lock()
	defer t.mu.Unlock()
	for id := range ids {
		if len(t.seen[id]) < trailMost {
			t.seen[id] = append(t.seen[id], line)
		}
	}
}

// of gives what was seen of a request.
func (t *trail) of(id string) []string {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen[id]
}
