package main

import (
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// usage is what a process took for some bytes.
type usage struct {
	Wall, User, System time.Duration
	// Allocated is memory asked of Go's allocator, Collections how often the
	// garbage collector ran, Peak the process's memory at its largest.
	Allocated   uint64
	Collections uint32
	Peak        int64
	// Read and Sent are bytes of disk: from the source, and put into
	// segments. Stored is the bytes of objects.
	Read, Sent, Stored int64
}

// CPU is processor time in the program and, for it, in the kernel.
func (u usage) CPU() time.Duration { return u.User + u.System }

// meter measures this process from its start on.
func meter() (stop func() usage) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	user, system, _ := processor()
	start := time.Now()
	return func() usage {
		wall := time.Since(start)
		userNow, systemNow, peak := processor()
		runtime.ReadMemStats(&after)
		return usage{Wall: wall, User: userNow - user, System: systemNow - system, Peak: peak,
			Allocated: after.TotalAlloc - before.TotalAlloc, Collections: after.NumGC - before.NumGC}
	}
}

// processor returns what this process has used, and its peak memory in bytes.
func processor() (user, system time.Duration, peak int64) {
	var r syscall.Rusage
	// It fails for a bad address only.
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano()), time.Duration(r.Stime.Nano()), r.Maxrss << 10
}

// spent is what processes took from the start of the first to the end of the
// last.
type spent struct{ Wall, CPU time.Duration }

// processorOf is what a process that has ended used, with those that it waited for.
func processorOf(cmd *exec.Cmd) time.Duration {
	if cmd.ProcessState == nil {
		return 0
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}
