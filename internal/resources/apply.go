package resources

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"syscall"
)

// gcPercent trades memory for time: the garbage collector runs when the heap
// has grown to two and a half times what was in use. What is in use is bounded by what the
// runners hold, some tens of megabytes; max_memory bounds the whole.
const gcPercent = 150

// niceness is the priority as the system counts it; what is lower goes first.
var niceness = map[string]int{Low: 10, Normal: 0, High: -5}

// Apply sets what the process may use. A priority that the system does not
// grant is an error; the rest holds then all the same.
func (c Config) Apply() error {
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(int64(float64(c.MaxMemory) * c.GCThreshold))
	if c.MaxThreads > 0 {
		runtime.GOMAXPROCS(c.MaxThreads)
	}
	if c.Priority == Normal {
		return nil
	}
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, niceness[c.Priority]); err != nil {
		return fmt.Errorf("setting the priority of the process to %s: %w (it needs a right of the system; resources.priority: normal needs none)", c.Priority, err)
	}
	return nil
}
