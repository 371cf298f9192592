package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"unsafe"
)

// schedIdle is SCHED_IDLE: who has it works only where nobody else wants to, and
// makes room at once. It needs no right of the system.
const schedIdle = 5

// leaveToOthers has all threads of the process work only while processors are
// idle. New threads take that of the one that makes them.
func leaveToOthers() error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("setting the priority: %w", err)
	}
	priority := int32(0) // is of other policies
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		_, _, failure := syscall.Syscall(syscall.SYS_SCHED_SETSCHEDULER, uintptr(id), schedIdle, uintptr(unsafe.Pointer(&priority)))
		if failure != 0 && !errors.Is(failure, syscall.ESRCH) { // ESRCH: it has ended
			return fmt.Errorf("setting the priority: %w", failure)
		}
	}
	return nil
}
