package budget

import (
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/adpa/processor/schemas"
)

// Request asks for a reservation: for one call of one request.
type Request struct {
	Tenant   string
	ID       string    // of the request: a schemas.ValidName
	Call     string    // of the call: new for every call; 1 to 64 bytes
	Model    string    // the configured name of the model
	Estimate Amount    // what the call may be billed at most
	Until    time.Time // when the call is surely over; zero means after Options.CallTimeout
}

// Settlement ends a reservation.
type Settlement struct {
	Tenant, ID, Call string
	Billed           Amount // what the provider billed
	// Released says that the provider surely billed nothing, as when it refused
	// the connection: the call counts as not made, and Billed is not read.
	Released bool
	// Lost says that what the provider billed is unknown and will not be learned:
	// the estimate is charged, and Billed is not read.
	Lost bool
}

// State is what became of a request for a reservation.
type State uint8

// The states of an Outcome.
const (
	Granted State = iota // reserved: make the call, then settle
	Wait                 // open reservations are in the way: try again once Changed
	Denied               // a budget is exhausted, or the request is too large
	Failed               // unknown: the ledger could not be reached in time, or the request is invalid
)

func (s State) String() string {
	return [...]string{"granted", "wait", "denied", "failed"}[s]
}

// Outcome is what became of a request for a reservation.
type Outcome struct {
	State  State
	Denial *Denial // of Denied
	// Err, of Failed, is the cause. The reservation may have been made: the same
	// Request may be tried again, and what is never settled is charged at its
	// estimate once Until has passed.
	Err error
}

// estimate is the amount that is reserved: the request counts as one.
func (r *Request) estimate() Amount {
	a := r.Estimate.clamp()
	a.Requests = 1
	return a
}

func (s *Settlement) billed() Amount {
	if s.Released {
		return Amount{}
	}
	a := s.Billed.clamp()
	a.Requests = 1
	return a
}

func (r *Request) validate() error {
	if err := validNames(r.Tenant, r.ID, r.Call); err != nil {
		return err
	}
	if err := validModel(r.Model); err != nil {
		return fmt.Errorf("model %.40q: %w", r.Model, err)
	}
	if r.Estimate.Tokens < 0 || r.Estimate.Cost < 0 {
		return errors.New("an estimate is never negative")
	}
	return nil
}

func (s *Settlement) validate() error {
	if s.Billed.Tokens < 0 || s.Billed.Cost < 0 {
		return errors.New("a bill is never negative")
	}
	return validNames(s.Tenant, s.ID, s.Call)
}

const maxModelLength = 256

var errModel = fmt.Errorf("a model's name is 1 to %d bytes of printable UTF-8", maxModelLength)

func validModel(model string) error {
	if len(model) == 0 || len(model) > maxModelLength || !utf8.ValidString(model) {
		return errModel
	}
	for _, r := range model {
		if r < ' ' || r == 0x7f {
			return errModel
		}
	}
	return nil
}

func validNames(tenant, id, call string) error {
	switch {
	case !schemas.ValidName(tenant):
		return fmt.Errorf("%.70q is no tenant", tenant)
	case !schemas.ValidName(id):
		return fmt.Errorf("%.70q is no request id", id)
	case len(call) == 0 || len(call) > schemas.MaxNameLength || !utf8.ValidString(call):
		return fmt.Errorf("%.70q is no call id: 1 to %d bytes of UTF-8", call, schemas.MaxNameLength)
	}
	return nil
}
