package clustertest

import (
	"flag"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// By hand, for hours:
//
//	PROCESSOR_SLOW=1 go test ./internal/clustertest -run Nemesis -nemesis.time 4h -timeout 5h -v
var (
	nemesisTime = flag.Duration("nemesis.time", 90*time.Second, "how long faults are made")
	nemesisSeed = flag.Uint64("nemesis.seed", 0, "the seed of the schedule of faults; 0 takes the time")
	nemesisOnly = flag.String("nemesis.only", "", "the kinds of faults to make, with commas between; all by default")
)

// nemesis makes one fault after the other. Seed and time alone decide which, on
// whom, for how long and after which pause.
type nemesis struct {
	*plant
	random *rand.Rand
	next   []fault // each kind comes once before any comes again
	made   map[string]int
}

// fault happens to the product and is over when it returns.
type fault struct {
	name string
	do   func(n *nemesis)
}

var faults = []fault{
	{"kill a replica", func(n *nemesis) {
		i := n.random.IntN(len(n.replicas))
		n.killReplica(i)
		n.pause(3 * time.Second)
		n.startReplica(i)
	}},
	{"kill all replicas", func(n *nemesis) {
		for i := range n.replicas {
			n.killReplica(i)
		}
		n.pause(3 * time.Second)
		for i := range n.replicas {
			n.startReplica(i)
		}
	}},
	{"freeze a replica", func(n *nemesis) {
		r := n.replicas[n.random.IntN(len(n.replicas))]
		_ = r.process.Freeze()
		n.pause(40 * time.Second)
		_ = r.process.Thaw()
	}},
	{"cut a replica off", func(n *nemesis) {
		r := n.replicas[n.random.IntN(len(n.replicas))]
		for _, proxy := range r.proxies {
			proxy.Cut()
		}
		n.pause(40 * time.Second)
		for _, proxy := range r.proxies {
			proxy.Mend()
		}
	}},
	{"break the connections of a replica", func(n *nemesis) {
		r := n.replicas[n.random.IntN(len(n.replicas))]
		for _, proxy := range r.proxies {
			proxy.Refuse()
		}
		n.pause(5 * time.Second)
		for _, proxy := range r.proxies {
			proxy.Mend()
		}
	}},
	{"kill a server", func(n *nemesis) {
		i := n.random.IntN(len(n.nodes))
		n.killNode(i)
		n.pause(15 * time.Second)
		n.startNode(i)
	}},
	{"freeze a server", func(n *nemesis) {
		i := n.random.IntN(len(n.nodes))
		_ = n.nodes[i].process.Freeze()
		n.pause(15 * time.Second)
		_ = n.nodes[i].process.Thaw()
	}},
	{"kill two servers", func(n *nemesis) {
		stays := n.random.IntN(len(n.nodes))
		for i := range n.nodes {
			if i != stays {
				n.killNode(i)
			}
		}
		n.pause(10 * time.Second)
		n.startNodes()
	}},
	{"take the provider away", func(n *nemesis) {
		n.outage.Refuse()
		n.pause(15 * time.Second)
		n.outage.Mend()
	}},
	{"cut the provider off", func(n *nemesis) {
		n.outage.Cut()
		n.pause(15 * time.Second)
		n.outage.Mend()
	}},
}

// pause lasts a random time up to most, and no more than a part of a short run,
// so that even that has several faults.
func (n *nemesis) pause(most time.Duration) {
	most = min(most, *nemesisTime/4)
	lasts(time.Duration(n.random.Int64N(int64(most)))) // the fault lasts
}

func (n *nemesis) draw() fault {
	if len(n.next) == 0 {
		n.next = slices.DeleteFunc(slices.Clone(faults), func(f fault) bool {
			return *nemesisOnly != "" && !slices.Contains(strings.Split(*nemesisOnly, ","), f.name)
		})
		n.random.Shuffle(len(n.next), func(i, j int) { n.next[i], n.next[j] = n.next[j], n.next[i] })
	}
	f := n.next[0]
	n.next = n.next[1:]
	return f
}

func TestNemesis(t *testing.T) {
	slow(t)
	seed := *nemesisSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("again: -nemesis.seed %d -nemesis.time %v", seed, *nemesisTime)
	begun := time.Now()
	p := newPlant(t, *nemesisTime+20*time.Minute, settings{
		replicas: 3, latency: 300 * time.Millisecond, more: budgetSection, provider: "timeout: 20s",
	})
	p.awaitWorking()
	p.follow()
	t.Logf("%s working after %v", time.Now().Format(time.TimeOnly), time.Since(begun).Round(time.Second))
	l := p.keepPublishing(20 * time.Millisecond)
	n := &nemesis{plant: p, random: rand.New(rand.NewPCG(seed, 9)), made: map[string]int{}}
	for end := time.Now().Add(*nemesisTime); time.Now().Before(end) && !t.Failed(); {
		f := n.draw()
		t.Logf("%s %s", time.Now().Format(time.TimeOnly), f.name)
		n.made[f.name]++
		f.do(n)
		n.revive()
		n.pause(5 * time.Second)
	}
	l.end()
	t.Logf("%s the last fault is over", time.Now().Format(time.TimeOnly))
	f := p.check(l.ids())
	t.Logf("seed %d, %v, faults %v: %+v", seed, *nemesisTime, n.made, f)
	require.NotEmpty(t, n.made)
}
