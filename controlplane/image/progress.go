package image

import "sync"

// meter turns bytes dealt with into percents that only grow.
type meter struct {
	total int64
	emit  func(percent int)

	mu   sync.Mutex
	done int64
	last int
}

func newMeter(total int64, emit func(percent int)) *meter {
	return &meter{total: max(total, 1), emit: emit}
}

// add counts n more bytes; one call of emit at a time.
func (m *meter) add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done += n
	// 100 is left to whoever knows that everything is done.
	if p := min(int(float64(m.done)/float64(m.total)*100), 99); p > m.last && m.emit != nil {
		m.last = p
		m.emit(p)
	}
}

func (m *meter) finish() {
	if m.emit != nil {
		m.emit(100)
	}
}
