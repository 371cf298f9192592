package resources

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"

	"github.com/adpa/processor/schemas"
)

// gcPercent trades memory for time: the garbage collector runs when the heap
// has grown to two and a half times what was in use. What is in use is bounded by what the
// runners hold, some tens of megabytes; max_memory bounds the whole.
const gcPercent = 150

// niceness is the priority as the system counts it; what is lower goes first.
var niceness = map[string]int{Low: 10, Normal: 0, High: -5}

// Apply sets what the process may use: max_memory and, beside it, so many bytes
// of others in the process, such as an embedded server. What the system does not grant is a
// *schemas.ResourceOptimizationError; the rest holds then all the same.
func (c Config) Apply(beside int64) error {
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(beside + int64(float64(c.MaxMemory)*c.GCThreshold))
	if c.MaxThreads > 0 {
		runtime.GOMAXPROCS(c.MaxThreads)
	}
	if c.Priority == Normal {
		return nil
	}
	if err := renice(niceness[c.Priority]); err != nil {
		return schemas.Typed(&schemas.Error{
			Type: schemas.ResourceOptimizationType, Code: schemas.CodeInvalidField, Param: "resources.priority",
			Message: fmt.Sprintf("setting the priority of the process to %s: %v (it needs a right of the system; resources.priority: normal needs none)", c.Priority, err),
			Details: map[string]any{"priority": c.Priority, "nice": niceness[c.Priority]},
		})
	}
	return nil
}

// renice sets the priority of every thread of the process: Linux has one for
// each, and a new thread takes that of the one that made it.
func renice(nice int) error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil { // another system, where the process has one
		return syscall.Setpriority(syscall.PRIO_PROCESS, 0, nice)
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := syscall.Setpriority(syscall.PRIO_PROCESS, id, nice); err != nil && err != syscall.ESRCH { // ESRCH: it has ended
			return err
		}
	}
	return nil
}
