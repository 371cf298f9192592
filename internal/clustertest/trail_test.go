package clustertest

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// trail is what was seen of each request that has no response yet: what was
// published of it, what the server said to that, to whom it was delivered and
// what became of the delivery. It has a connection to each server, so that it
// sees what passes as long as the servers that it passes live.
type trail struct {
	mu    sync.Mutex
	seen  map[string][]string // by id
	done  map[string]bool     // answered
	about map[string][]string // ids, by the subject on which more is said of them
}

// trailMost bounds what is kept of one request.
const trailMost = 200

var idPattern = regexp.MustCompile(`r\d{6}`)

// follow notes what happens to requests on their way.
func (p *plant) follow() {
	p.trail = &trail{seen: map[string][]string{}, done: map[string]bool{}, about: map[string][]string{}}
	for _, n := range p.nodes {
		nc, err := nats.Connect(fmt.Sprintf("nats://127.0.0.1:%d", n.Port), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond),
			nats.IgnoreDiscoveredServers(), nats.DontRandomize())
		require.NoError(p.t, err)
		p.t.Cleanup(nc.Close)
		for _, subject := range []string{"llm.requests.*", "llm.stages.>", "llm.later.>", "llm.responses.>", "llm.dead.>", "_INBOX.>", "$JS.ACK.>"} {
			_, err := nc.Subscribe(subject, p.trail.note)
			require.NoError(p.t, err)
		}
	}
}

func (t *trail) note(m *nats.Msg) {
	said := strings.HasPrefix(m.Subject, "_INBOX.") && !strings.HasPrefix(m.Reply, "$JS.ACK.")
	if said || strings.HasPrefix(m.Subject, "$JS.ACK.") {
		t.noteSaid(m)
		return
	}
	ids := idsIn(m)
	if len(ids) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if strings.HasPrefix(m.Subject, "llm.responses.") {
		for _, id := range ids {
			t.done[id] = true
			delete(t.seen, id)
		}
		return
	}
	line := fmt.Sprintf("%s %s, of %d, says to %s", m.Subject, m.Header.Get(nats.MsgIdHdr), len(ids), m.Reply)
	if m.Reply != "" {
		t.about[m.Reply] = ids
	}
	t.add(ids, line)
}

// noteSaid notes a word about a message that was noted before.
func (t *trail) noteSaid(m *nats.Msg) {
	if string(m.Data) == "+WPI" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if ids := t.about[m.Subject]; ids != nil {
		t.add(ids, fmt.Sprintf("%s: %.150s", m.Subject, m.Data))
	}
}

// add notes a line once for all connections that see it.
func (t *trail) add(ids []string, line string) {
	for _, id := range ids {
		noted := slices.ContainsFunc(t.seen[id], func(s string) bool { return strings.HasSuffix(s, line) })
		if !noted && !t.done[id] && len(t.seen[id]) < trailMost {
			t.seen[id] = append(t.seen[id], time.Now().Format("15:04:05.000 ")+line)
		}
	}
	if len(t.about) > 100_000 {
		clear(t.about)
	}
}

func idsIn(m *nats.Msg) []string {
	ids := idPattern.FindAllString(m.Subject+" "+m.Header.Get("Llm-Id")+" "+string(m.Data), -1)
	slices.Sort(ids)
	return slices.Compact(ids)
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
