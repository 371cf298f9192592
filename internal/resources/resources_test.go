package resources

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/units"
	"github.com/adpa/processor/schemas"
)

func TestWhatIsConfiguredHolds(t *testing.T) {
	limit, threads := debug.SetMemoryLimit(-1), runtime.GOMAXPROCS(0)
	percent := debug.SetGCPercent(100)
	t.Cleanup(func() { debug.SetMemoryLimit(limit); runtime.GOMAXPROCS(threads); debug.SetGCPercent(percent) })
	c := DefaultConfig()
	c.MaxMemory, c.GCThreshold, c.MaxThreads = units.GB, 0.5, 1
	require.NoError(t, c.Apply(0))
	require.EqualValues(t, units.GB/2, debug.SetMemoryLimit(-1))
	require.Equal(t, 1, runtime.GOMAXPROCS(0))
}

func TestEveryThreadGetsThePriority(t *testing.T) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Skip("this system does not list the threads of a process")
	}
	nice := func(id int) int {
		raw, err := syscall.Getpriority(syscall.PRIO_PROCESS, id)
		require.NoError(t, err)
		return 20 - raw // as the system call gives it
	}
	before := nice(0)
	c := DefaultConfig()
	c.Priority = Low
	require.NoError(t, c.Apply(0))
	for _, task := range tasks {
		id, err := strconv.Atoi(task.Name())
		require.NoError(t, err)
		require.Equal(t, niceness[Low], nice(id))
	}
	if err := renice(before); err != nil { // taking it back needs a right: High is refused without
		c.Priority = High
		var refused schemas.ResourceOptimizationError
		require.ErrorAs(t, c.Apply(0), &refused)
	}
}

func TestMemoryIsTightPastTheThreshold(t *testing.T) {
	sheds := 0
	c := DefaultConfig()
	m := c.WatchMemory(0, func() { sheds++ })
	require.False(t, m.Tight())
	require.Zero(t, sheds)

	c.MaxMemory, c.GCThreshold = 64*units.MB, 0.5
	m = c.WatchMemory(0, func() { sheds++ })
	held := make([]byte, 48<<20)
	for i := range held {
		held[i] = 1
	}
	require.True(t, m.Tight())
	require.Equal(t, 1, sheds)
	m.looked = time.Time{}
	require.True(t, m.Tight())
	require.Equal(t, 1, sheds, "at most once a second")
	runtime.KeepAlive(held)
}

// There are many connections: a buffer of 1 MB for files is one of 16 KB for each.
func TestConnectionsHaveASmallShareOfABuffer(t *testing.T) {
	for _, test := range []struct{ size, connection units.Bytes }{
		{4 * units.KB, 4 * units.KB}, {units.MB, 16 * units.KB}, {2 * units.MB, 32 * units.KB}, {64 * units.MB, 64 * units.KB},
	} {
		c := DefaultConfig()
		c.BufferSize = test.size
		require.NoError(t, c.Validate())
		require.EqualValues(t, test.connection, c.ConnectionBuffer(), "%v", test.size)
	}
}
