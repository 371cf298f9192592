package resources

import (
	"runtime/metrics"
	"sync"
	"time"
)

// lookEvery is how often the memory in use is read, which takes a microsecond.
const lookEvery = 5 * time.Millisecond

// Memory knows whether the process is past the threshold of what it may use.
// It is safe for concurrent use.
type Memory struct {
	threshold uint64
	shed      func()

	mu      sync.Mutex
	samples []metrics.Sample
	looked  time.Time
	tight   bool
}

// shedEvery is how often a process that stays past the threshold sheds.
const shedEvery = time.Second

// WatchMemory watches the memory of the process, of which so many bytes may be
// others'. shed, which may be nil, is
// called when the threshold is passed, and again each second that it stays so;
// it must not block.
func (c Config) WatchMemory(beside int64, shed func()) *Memory {
	return &Memory{
		threshold: uint64(beside) + uint64(float64(c.MaxMemory)*c.GCThreshold), shed: paced(shed),
		samples: []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}, {Name: "/memory/classes/heap/free:bytes"}},
	}
}

func paced(shed func()) func() {
	var last time.Time
	return func() {
		if shed != nil && time.Since(last) >= shedEvery {
			last = time.Now()
			shed()
		}
	}
}

// Tight reports whether what is in use is past the threshold.
func (m *Memory) Tight() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.looked) < lookEvery {
		return m.tight
	}
	metrics.Read(m.samples)
	m.looked = time.Now()
	total, released, free := m.samples[0].Value.Uint64(), m.samples[1].Value.Uint64(), m.samples[2].Value.Uint64()
	m.tight = total-released-free >= m.threshold
	if m.tight {
		m.shed()
	}
	return m.tight
}

// heldShare is the part of max_memory that the messages may have which a process
// has taken and not settled. Each is there several times while it is worked: as
// it came, as it goes, and in the buffers of the connection and the server.
const heldShare = 12

// Held is what the messages may have together that the process holds, in bytes.
func (c Config) Held() int64 { return int64(c.MaxMemory) / heldShare }
