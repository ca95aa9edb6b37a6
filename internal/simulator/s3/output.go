package s3

import (
	"bytes"
	"io"
	"strings"
	"sync"

	"github.com/sirupsen/logrus"
)

// output takes what the child prints: finds the line that says where it
// listens, logs the others and keeps the last few to explain a failed start.
type output struct {
	ready chan string // the address, once
	log   logrus.FieldLogger

	mu      sync.Mutex
	partial []byte
	last    []string
}

const (
	keptLines = 8
	longLine  = 4096 // longer ones are cut
)

func newOutput(log logrus.FieldLogger) *output {
	if log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		log = silent
	}
	return &output{ready: make(chan string, 1), log: log}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.partial = append(o.partial, p...)
	for {
		end := bytes.IndexByte(o.partial, '\n')
		if end < 0 && len(o.partial) < longLine {
			return len(p), nil
		}
		if end < 0 {
			end = len(o.partial) - 1
		}
		o.line(string(o.partial[:end]))
		o.partial = o.partial[end+1:]
	}
}

func (o *output) line(line string) {
	if addr, ok := strings.CutPrefix(line, readyPrefix); ok {
		select {
		case o.ready <- addr:
		default:
		}
		return
	}
	o.log.WithField("component", "s3").Debug(line)
	o.last = append(o.last[max(0, len(o.last)-keptLines+1):], line)
}

// tail returns the last lines.
func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(append(o.last[:len(o.last):len(o.last)], string(o.partial)), "\n")
}
