package main

import (
	"os"
	"path/filepath"
	"syscall"

	"github.com/adpa/processor/internal/units"
)

// checkDisk looks at the room for an embedded server's data.
func (d *doctor) checkDisk(dir string) {
	var disk syscall.Statfs_t
	at := dir
	for {
		if _, err := os.Stat(at); err == nil {
			break
		}
		parent := filepath.Dir(at)
		if parent == at {
			break
		}
		at = parent
	}
	if err := syscall.Statfs(at, &disk); err != nil {
		d.add("storage", skipped, "", "looking at the disk of %s: %v", dir, err)
		return
	}
	free, sum := units.Bytes(disk.Bavail*uint64(disk.Bsize)), reserved(d.cfg)
	if free < sum {
		d.add("storage", warning, "lower max_bytes under streams, or set nats.embedded.dir to a larger disk",
			"%v are free for %s, and the limits of streams and buckets add up to %v: a full disk stops the server", free.Short(), dir, sum.Short())
		return
	}
	d.add("storage", fine, "", "%v free for %s; the streams may grow to %v", free.Short(), dir, sum.Short())
}
