package streams

import "sync/atomic"

// Memory bounds the bytes of the messages that the runners of a process hold
// together. A runner that holds nothing may take one message however little
// room is left: so one that waits for another cannot keep it from working.
// It is safe for concurrent use.
type Memory struct{ left atomic.Int64 }

// NewMemory makes room for so many bytes.
func NewMemory(bytes int64) *Memory {
	m := new(Memory)
	m.left.Store(bytes)
	return m
}

// free is how many bytes are left; without a Memory as many as most.
func (m *Memory) free(most int) int {
	if m == nil {
		return most
	}
	return int(min(int64(most), m.left.Load()))
}

// take takes bytes, which may leave less than nothing; a negative number gives
// them back.
func (m *Memory) take(bytes int) {
	if m != nil {
		m.left.Add(-int64(bytes))
	}
}
