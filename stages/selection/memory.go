package selection

import "sync"

// Memory keeps statistics in this process alone. It is safe for concurrent use.
// The zero value is ready.
type Memory struct {
	mu      sync.RWMutex
	figures map[[2]string]*Figures
	skills  map[string]*Skill
}

var _ Book = (*Memory)(nil)

// Figures implements Statistics.
func (m *Memory) Figures(route, model string) (Figures, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if f := m.figures[[2]string{route, model}]; f != nil {
		return *f, true
	}
	return Figures{}, false
}

// Shift implements Statistics.
func (m *Memory) Shift(model string, f Features) float64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if s := m.skills[model]; s != nil {
		return s.Shift(f)
	}
	return 0
}

// Update implements Book.
func (m *Memory) Update(route, model string, change func(*Figures)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := [2]string{route, model}
	if m.figures == nil {
		m.figures = map[[2]string]*Figures{}
	}
	if m.figures[key] == nil {
		m.figures[key] = new(Figures)
	}
	change(m.figures[key])
}

// Learn implements Book.
func (m *Memory) Learn(model string, f Features, usual, score float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.skills == nil {
		m.skills = map[string]*Skill{}
	}
	if m.skills[model] == nil {
		m.skills[model] = new(Skill)
	}
	m.skills[model].Learn(f, usual, score, nil)
}
