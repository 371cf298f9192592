package streams

import (
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// togetherMost bounds the requests of a message that the runner makes of what
// was decided at the same time.
const togetherMost = 64

// route is where a hand-off goes: requests with the same one may share a message.
type route struct {
	stage  string
	tenant string
	class  schemas.Class
	beyond bool
}

// together joins what was decided at the same time and goes the same way, so
// that under load a hop costs the server a message for dozens of requests. What
// comes alone goes alone and at once. What the batch stage groups stays as it is:
// how many a message to generate holds is configured.
func (r *Runner) together(list []*outcome) []*outcome {
	if len(list) == 1 {
		return list
	}
	open := make(map[route]*outcome) // that still have room
	joined := list[:0]
	for _, o := range list {
		way, ok := r.way(o)
		if !ok {
			joined = append(joined, o)
			continue
		}
		if first := open[way]; first != nil && r.fits(first, o) {
			first.verdict.With = append(append(first.verdict.With, &o.item.request), o.verdict.With...)
			first.size += o.size
			continue
		}
		open[way] = o
		joined = append(joined, o)
	}
	return joined
}

// way gives where an outcome goes, if it may go there with others.
func (r *Runner) way(o *outcome) (way route, ok bool) {
	stage := r.steps[o.item.step].Name
	if o.tries > 0 || o.alone || stage == stages.Batch || stage == doorStep {
		return route{}, false
	}
	request := &o.item.request
	if r.cfg.Tenants.limited(request.Tenant) { // what waits for it is counted by messages
		return route{}, false
	}
	way = route{tenant: request.Tenant, class: request.Class, beyond: request.Beyond}
	switch o.verdict.Action {
	case stages.ActionContinue:
		way.stage, ok = stages.Next(stage)
	case stages.ActionSkip:
		way.stage, ok = o.verdict.Stage, o.verdict.Full == nil && o.verdict.Stage != stages.Generate
	}
	if ok {
		o.size = r.sizeOf(o)
	}
	return way, ok
}

// fits reports whether an outcome finds room in the message of another.
func (r *Runner) fits(first, o *outcome) bool {
	return len(first.verdict.With)+len(o.verdict.With)+2 <= togetherMost && first.size+o.size <= r.cfg.MaxPayload/2
}
