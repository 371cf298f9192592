package streams

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/stages"
)

// Inspected is a stream of the layout as the server has it.
type Inspected struct {
	Name     string
	Info     *jetstream.StreamInfo // nil where there is none
	Differs  []string              // settings that are not those of the layout, as in "max_bytes is 1GB, not 4GB"
	Groups   []InspectedGroup      // its consumer groups
	Refusing bool                  // when it is full it refuses what comes; else it drops its oldest
}

// InspectedGroup is a consumer group of a stream as the server has it.
type InspectedGroup struct {
	Name    string
	Stage   string
	Missing bool
	Waiting uint64 // messages that nobody took
	Taken   int    // messages that are worked on
	Pulls   int    // pulls that wait for messages: somebody serves it, or takes what comes
}

// Inspect compares what is set up on a server with a layout. It changes nothing,
// and needs the rights of an operator.
func Inspect(ctx context.Context, js jetstream.JetStream, l Layout) ([]Inspected, error) {
	wanted := l.streams()
	if l.Archive {
		wanted = append(wanted, l.archive())
	}
	var list []Inspected
	for _, want := range wanted {
		in := Inspected{Name: want.Name, Refusing: want.Discard == jetstream.DiscardNew}
		stream, err := js.Stream(ctx, want.Name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
		case err != nil:
			return list, fmt.Errorf("looking at stream %s: %w", want.Name, err)
		default:
			in.Info = stream.CachedInfo()
			in.Differs = differences(in.Info.Config, want)
			if in.Groups, err = l.inspectGroups(ctx, stream, want.Name); err != nil {
				return list, err
			}
		}
		list = append(list, in)
	}
	return list, nil
}

func (l Layout) inspectGroups(ctx context.Context, stream jetstream.Stream, name string) (list []InspectedGroup, err error) {
	for _, d := range l.consumers() {
		if d.stream != name {
			continue
		}
		g := InspectedGroup{Name: d.config.Durable, Stage: d.stage}
		consumer, err := stream.Consumer(ctx, d.config.Durable)
		switch {
		case errors.Is(err, jetstream.ErrConsumerNotFound):
			g.Missing = true
		case err != nil:
			return list, fmt.Errorf("looking at consumer %s of stream %s: %w", d.config.Durable, name, err)
		default:
			info := consumer.CachedInfo()
			g.Waiting, g.Taken, g.Pulls = info.NumPending, info.NumAckPending, info.NumWaiting
		}
		list = append(list, g)
	}
	return list, nil
}

// differences lists the settings in which a stream is not what is wanted.
func differences(have, want jetstream.StreamConfig) (list []string) {
	differ := func(what string, have, want any) {
		if !reflect.DeepEqual(have, want) {
			list = append(list, fmt.Sprintf("%s is %v, not %v", what, have, want))
		}
	}
	if want.MaxMsgsPerSubject > 0 {
		differ("max_msgs_per_subject", have.MaxMsgsPerSubject, want.MaxMsgsPerSubject)
	}
	if want.Duplicates > 0 {
		differ("duplicate_window", have.Duplicates, want.Duplicates)
	}
	differ("subjects", slices.Sorted(slices.Values(have.Subjects)), slices.Sorted(slices.Values(want.Subjects)))
	differ("max_bytes", have.MaxBytes, want.MaxBytes)
	differ("max_age", have.MaxAge, want.MaxAge)
	differ("replicas", have.Replicas, want.Replicas)
	differ("retention", have.Retention, want.Retention)
	differ("discard", have.Discard, want.Discard)
	differ("storage", have.Storage, want.Storage)
	differ("allow_direct", have.AllowDirect, want.AllowDirect)
	differ("compression", have.Compression, want.Compression)
	return list
}

// Unserved lists the stages that nobody serves: none of whose groups has a pull
// that waits or a message that is worked on.
func Unserved(list []Inspected) (names []string) {
	served := map[string]bool{}
	for _, in := range list {
		for _, g := range in.Groups {
			served[g.Stage] = served[g.Stage] || g.Pulls > 0 || g.Taken > 0
		}
	}
	for _, stage := range stages.Names {
		if !served[stage] {
			names = append(names, stage)
		}
	}
	return names
}

// MaxBytes adds up what the streams of the layout may hold on a server, those in
// memory left out.
func (l Layout) MaxBytes() (sum int64) {
	wanted := l.streams()
	if l.Archive {
		wanted = append(wanted, l.archive())
	}
	for _, s := range wanted {
		if s.Storage == jetstream.FileStorage {
			sum += s.MaxBytes
		}
	}
	return sum
}
