//go:build !linux

package main

import (
	"fmt"
	"syscall"
)

// leaveToOthers gives the process the lowest priority.
func leaveToOthers() error {
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, 19); err != nil {
		return fmt.Errorf("setting the priority: %w", err)
	}
	return nil
}
