package main

import "sync"

// maxModelLabels bounds the models that have figures of their own: applications
// may name any model, and each label is kept as long as the process runs.
const maxModelLabels = 200

// modelLabels gives models their labels. The zero value is ready; it is safe for
// concurrent use.
type modelLabels struct {
	mu   sync.Mutex
	seen map[string]bool
}

// of gives a model's label: its name, or otherModels once there are
// maxModelLabels of other names, or where the name is longer than any model's.
func (l *modelLabels) of(model string) string {
	const longest = 128
	if len(model) > longest {
		return otherModels
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen[model] {
		return model
	}
	if len(l.seen) >= maxModelLabels {
		return otherModels
	}
	if l.seen == nil {
		l.seen = map[string]bool{}
	}
	l.seen[model] = true
	return model
}
