package streams

import (
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/adpa/processor/schemas"
)

// cancelQueue has each cancellation handled by one process.
const cancelQueue = "cancel"

// OnCancel calls f with the key (tenant.id) of each request that an
// application cancels, in one process of all. A message that asks for a reply
// gets one once f has returned.
func OnCancel(nc *nats.Conn, names Names, f func(key string)) (*nats.Subscription, error) {
	prefix := names.Prefix + ".cancel."
	sub, err := nc.QueueSubscribe(prefix+"*.*", cancelQueue, func(m *nats.Msg) {
		key := strings.TrimPrefix(m.Subject, prefix)
		tenant, id, _ := strings.Cut(key, ".")
		if schemas.ValidName(tenant) && schemas.ValidName(id) {
			f(key)
		}
		if m.Reply != "" {
			_ = m.Respond(nil)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("subscribing to cancellations: %w", err)
	}
	return sub, nil
}
