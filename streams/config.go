package streams

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/adpa/processor/internal/units"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// ServerConfig is the section nats: of the configuration, which says what
// server the product works on and under what names.
type ServerConfig struct {
	// URL is the address of the NATS server, several of one cluster with commas
	// between them. Empty (the default) means a server that runs in this process.
	URL string `yaml:"url"`
	// Creds is a file of credentials (a JWT and its seed), as nsc makes them.
	Creds string `yaml:"creds"`
	// NKey is a file that holds an nkey's seed.
	NKey string `yaml:"nkey"`
	// InboxPrefix begins the subjects on which this connection gets replies, where
	// its user may not use _INBOX, as in _INBOX.acme. Default _INBOX.
	InboxPrefix string `yaml:"inbox_prefix"`
	// TLS is how the connection is secured; the system's authorities hold
	// where nothing is said.
	TLS TLSConfig `yaml:"tls"`
	// Prefix begins the names of all subjects and buckets, and in upper case
	// those of all streams. Default llm.
	Prefix string `yaml:"prefix"`
	// Replicas is how many servers of a cluster keep each stream and bucket: 1, 3
	// or 5. Default 1.
	Replicas int `yaml:"replicas"`
	// Embedded is the server that runs in this process when url is empty.
	Embedded EmbeddedServerConfig `yaml:"embedded"`
}

// TLSConfig names the files of a TLS connection.
type TLSConfig struct {
	// CA is a file of the authorities that the server's certificate may come from.
	CA string `yaml:"ca"`
	// Cert is this client's certificate; it goes together with key.
	Cert string `yaml:"cert"`
	// Key is the private key that belongs to cert.
	Key string `yaml:"key"`
}

// EmbeddedServerConfig is the server that runs in this process.
type EmbeddedServerConfig struct {
	// Dir is the directory of its data. Default data/nats.
	Dir string `yaml:"dir"`
	// Host is the address that it listens on. Default 127.0.0.1.
	Host string `yaml:"host"`
	// Port is the port that it listens on; a free one if that is taken or 0.
	// Default 4222.
	Port int `yaml:"port"`
	// Sync is how often written data is forced to the disk, at least 100ms. What
	// is younger may be lost at a power cut, never when a process is killed.
	// Default 2m.
	Sync units.Duration `yaml:"sync"`
}

// DefaultServer gives the defaults of the section nats:.
func DefaultServer() ServerConfig {
	return ServerConfig{
		Prefix: "llm", Replicas: 1,
		Embedded: EmbeddedServerConfig{Dir: "data/nats", Host: "127.0.0.1", Port: 4222, Sync: units.Duration(2 * time.Minute)},
	}
}

var inboxForm = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){0,7}$`)

var prefixForm = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)

// Validate reports the first setting that cannot be used: its key, and what would be right.
func (c ServerConfig) Validate() error {
	if c.URL != "" {
		for address := range strings.SplitSeq(c.URL, ",") {
			if err := validAddress(strings.TrimSpace(address)); err != nil {
				return err
			}
		}
	}
	switch {
	case c.Creds != "" && c.NKey != "":
		return errors.New("nkey: stands beside creds; give one of them")
	case (c.TLS.Cert == "") != (c.TLS.Key == ""):
		return errors.New("tls.cert: goes together with tls.key; give both or none")
	case c.InboxPrefix != "" && !inboxForm.MatchString(c.InboxPrefix):
		return fmt.Errorf("inbox_prefix: %.80q is not a subject like _INBOX.acme without wildcards", c.InboxPrefix)
	case !prefixForm.MatchString(c.Prefix):
		return fmt.Errorf("prefix: %.40q is not a lower-case letter and up to 31 of a-z 0-9 _ -", c.Prefix)
	case !slices.Contains([]int{1, 3, 5}, c.Replicas):
		return fmt.Errorf("replicas: %d is none of 1, 3, 5", c.Replicas)
	case c.Replicas > 1 && c.URL == "":
		return fmt.Errorf("replicas: %d needs a cluster: set nats.url, or replicas to 1", c.Replicas)
	case c.Embedded.Dir == "":
		return errors.New("embedded.dir: is empty; it must be a directory")
	case c.Embedded.Host != "localhost" && net.ParseIP(c.Embedded.Host) == nil:
		return fmt.Errorf("embedded.host: %.60q is not an IP address like 127.0.0.1", c.Embedded.Host)
	case c.Embedded.Port < 0 || c.Embedded.Port > 65535:
		return fmt.Errorf("embedded.port: %d is not within 0 and 65535", c.Embedded.Port)
	case c.Embedded.Sync.Std() < 100*time.Millisecond:
		return fmt.Errorf("embedded.sync: %v is less than 100ms", c.Embedded.Sync)
	}
	return nil
}

func validAddress(address string) error {
	withScheme := address
	if !strings.Contains(address, "://") {
		withScheme = "nats://" + address
	}
	u, err := url.Parse(withScheme)
	if err != nil || u.Hostname() == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) {
		// The address is not repeated: it may hold a password.
		return errors.New("url: is not an address like nats://127.0.0.1:4222; the schemes nats, tls, ws and wss are known")
	}
	return nil
}

// StreamsConfig is the section streams: of the configuration: what the
// streams may hold. A full stream refuses what is published, or drops its
// oldest where that is what the stream is for.
type StreamsConfig struct {
	// Requests holds what applications published and no stage has taken. Past
	// its limits a publish is refused.
	Requests RequestsLimits `yaml:"requests"`
	// Archive holds every accepted request for replays, and drops its oldest.
	Archive ArchiveLimits `yaml:"archive"`
	// Stage holds the hand-offs to one stage; the limit is that of each. A full
	// one holds the stages before it back.
	Stage StageLimits `yaml:"stage"`
	// Responses holds one answer or error a request. A full one holds the
	// stages before it back.
	Responses KeptLimits `yaml:"responses"`
	// Dead holds the requests that were given up, and drops its oldest.
	Dead KeptLimits `yaml:"dead"`
}

// RequestsLimits bounds the requests that wait.
type RequestsLimits struct {
	// MaxBytes is what the stream may hold. Default 4GB.
	MaxBytes units.Bytes `yaml:"max_bytes"`
	// MaxWaiting is how many requests of one tenant may wait. Default 10000.
	MaxWaiting int `yaml:"max_waiting"`
	// MaxWaitingBytes is how large the bodies of one tenant's requests that were
	// let in and not answered yet may be in all, where its entry in tenants says
	// nothing; what is more is answered with rate_limit_exceeded. 0 (the default)
	// sets no limit.
	MaxWaitingBytes units.Bytes `yaml:"max_waiting_bytes"`
}

// ArchiveLimits bounds the archive.
type ArchiveLimits struct {
	// Enabled false means that nothing is archived, so that nothing can be
	// replayed. Default true.
	Enabled bool `yaml:"enabled"`
	// MaxBytes is what the stream may hold. Default 10GB.
	MaxBytes units.Bytes `yaml:"max_bytes"`
	// MaxAge is how long a request is kept. Default 168h.
	MaxAge units.Duration `yaml:"max_age"`
}

// StageLimits bounds the hand-offs to a stage.
type StageLimits struct {
	// MaxBytes is what the stream of one stage may hold. Default 4GB.
	MaxBytes units.Bytes `yaml:"max_bytes"`
}

// KeptLimits bounds a stream that keeps messages for a time.
type KeptLimits struct {
	// MaxBytes is what the stream may hold. Default 10GB for responses, 1GB for dead.
	MaxBytes units.Bytes `yaml:"max_bytes"`
	// MaxAge is how long a message is kept. Default 24h for responses, 720h for dead.
	MaxAge units.Duration `yaml:"max_age"`
}

const hour = units.Duration(time.Hour)

// DefaultStreams gives the defaults of the section streams:.
func DefaultStreams() StreamsConfig {
	return StreamsConfig{
		Requests:  RequestsLimits{MaxBytes: 4 * units.GB, MaxWaiting: 10000},
		Archive:   ArchiveLimits{Enabled: true, MaxBytes: 10 * units.GB, MaxAge: 168 * hour},
		Stage:     StageLimits{MaxBytes: 4 * units.GB},
		Responses: KeptLimits{MaxBytes: 10 * units.GB, MaxAge: 24 * hour},
		Dead:      KeptLimits{MaxBytes: units.GB, MaxAge: 720 * hour},
	}
}

// Validate reports the first setting that cannot be used: its key, and what would be right.
func (c StreamsConfig) Validate() error {
	for _, size := range []struct {
		key   string
		value units.Bytes
	}{
		{"requests", c.Requests.MaxBytes}, {"archive", c.Archive.MaxBytes}, {"stage", c.Stage.MaxBytes},
		{"responses", c.Responses.MaxBytes}, {"dead", c.Dead.MaxBytes},
	} {
		if size.value < 4*units.MB {
			return fmt.Errorf("%s.max_bytes: %v is less than 4MB, which a few large messages fill", size.key, size.value)
		}
	}
	for _, age := range []struct {
		key   string
		value units.Duration
	}{{"archive", c.Archive.MaxAge}, {"responses", c.Responses.MaxAge}, {"dead", c.Dead.MaxAge}} {
		if age.value.Std() < time.Minute {
			return fmt.Errorf("%s.max_age: %v is less than 1m, in which nobody can fetch an answer or look at a failure", age.key, age.value)
		}
	}
	if c.Requests.MaxWaiting < 1 {
		return fmt.Errorf("requests.max_waiting: %d is less than 1", c.Requests.MaxWaiting)
	}
	return validWaitingBytes("requests.", c.Requests.MaxWaitingBytes)
}

func validWaitingBytes(of string, most units.Bytes) error {
	if most < 0 || most > 0 && most < units.MB {
		return fmt.Errorf("%smax_waiting_bytes: %v is less than 1MB, which one request may have", of, most)
	}
	return nil
}

// TenantConfig is an entry of the list tenants: of the configuration. Tenants
// without an entry are served too; an entry sets what differs for them.
type TenantConfig struct {
	// Name is 1 to 64 characters of A-Z a-z 0-9 _ -.
	Name string `yaml:"name"`
	// MaxWaiting is how many of the tenant's requests may have been let in and
	// not answered yet, at most streams.requests.max_waiting; one more is answered
	// with rate_limit_exceeded. 0 (the default) sets no limit but that of the
	// stream of requests.
	MaxWaiting int `yaml:"max_waiting"`
	// Rate is how many of the tenant's requests are begun a second at most, over
	// all replicas; the others wait for their turn. 0 (the default) sets no limit.
	Rate float64 `yaml:"rate"`
	// MaxWaitingBytes is how large the bodies of the tenant's requests that were
	// let in and not answered yet may be in all; one more is answered with
	// rate_limit_exceeded. 0 (the default) takes streams.requests.max_waiting_bytes.
	MaxWaitingBytes units.Bytes `yaml:"max_waiting_bytes"`
	// MaxRequestBytes is how large the body of a request of the tenant may be.
	// 0 (the default) sets no limit but that of the server: max_payload less 64 KB.
	MaxRequestBytes units.Bytes `yaml:"max_request_bytes"`
}

// ValidateTenants reports the first entry that cannot be used: its key,
// relative to the list, and what would be right. maxWaiting is
// streams.requests.max_waiting.
func ValidateTenants(tenants []TenantConfig, maxWaiting int) error {
	seen := map[string]bool{}
	for i, t := range tenants {
		switch {
		case !schemas.ValidName(t.Name) || t.Name == schemas.NoTenant:
			return fmt.Errorf("[%d].name: %.80q is not 1 to 64 characters of A-Z a-z 0-9 _ -", i, t.Name)
		case seen[t.Name]:
			return fmt.Errorf("[%d].name: %s has an entry already; give each tenant one", i, t.Name)
		case t.MaxWaiting < 0 || t.MaxWaiting > maxWaiting:
			return fmt.Errorf("[%d].max_waiting: %d is not within 0 and streams.requests.max_waiting, which is %d", i, t.MaxWaiting, maxWaiting)
		case t.Rate != 0 && !(t.Rate >= 0.001 && t.Rate <= 1e6): // written so that NaN fails
			return fmt.Errorf("[%d].rate: %v is neither 0 nor within 0.001 and 1000000 requests a second", i, t.Rate)
		case t.MaxRequestBytes < 0 || t.MaxRequestBytes > 0 && t.MaxRequestBytes < units.KB:
			return fmt.Errorf("[%d].max_request_bytes: %v is less than 1KB, into which hardly a request fits", i, t.MaxRequestBytes)
		}
		if err := validWaitingBytes(fmt.Sprintf("[%d].", i), t.MaxWaitingBytes); err != nil {
			return err
		}
		seen[t.Name] = true
	}
	return nil
}

// PipelineConfig is the section pipeline: of the configuration: how the stages
// are run.
type PipelineConfig struct {
	// Groups are the consumer groups: each runs neighbouring stages without a
	// hop between them. Together they name every stage once and in order.
	// Default one group a stage.
	Groups [][]string `yaml:"groups"`
	// Workers is how many requests a stage of this process works on at a time.
	// Default 64 for generate, which waits for providers; the others work on
	// slices of what has arrived, with as many workers as they have use for.
	Workers map[string]int `yaml:"workers"`
	// MaxDeliver is how many failures a request may have in a stage before it is
	// given up. Waits for budgets, limits and shutdowns are none. Default 5.
	MaxDeliver int `yaml:"max_deliver"`
}

// DefaultWorkers is how many requests of generate run at a time where the
// configuration says nothing.
const DefaultWorkers = 64

// DefaultPipeline gives the defaults of the section pipeline:.
func DefaultPipeline() PipelineConfig {
	c := PipelineConfig{Workers: map[string]int{stages.Generate: DefaultWorkers}, MaxDeliver: 5}
	for _, name := range stages.Names {
		c.Groups = append(c.Groups, []string{name})
	}
	return c
}

// Validate reports the first setting that cannot be used: its key, and what would be right.
func (c PipelineConfig) Validate() error {
	if !slices.Equal(slices.Concat(c.Groups...), stages.Names) || slices.ContainsFunc(c.Groups, func(g []string) bool { return len(g) == 0 }) {
		return fmt.Errorf("groups: must name %s once each, in this order, as in [[compress, cache], [batch, generate], [score]]", strings.Join(stages.Names, ", "))
	}
	for stage, n := range c.Workers {
		if !slices.Contains(stages.Names, stage) {
			return fmt.Errorf("workers.%s: is no stage; stages are %s", stage, strings.Join(stages.Names, ", "))
		}
		if n < 1 || n > 100_000 {
			return fmt.Errorf("workers.%s: %d is not within 1 and 100000", stage, n)
		}
	}
	if c.MaxDeliver < 1 || c.MaxDeliver > 1000 {
		return fmt.Errorf("max_deliver: %d is not within 1 and 1000", c.MaxDeliver)
	}
	return nil
}

// NewLayout makes the layout that Provision sets up from the configuration.
func NewLayout(server ServerConfig, limits StreamsConfig) Layout {
	return Layout{
		Names: Names{Prefix: server.Prefix}, Replicas: server.Replicas,
		RequestsBytes: int64(limits.Requests.MaxBytes), MaxWaiting: int64(limits.Requests.MaxWaiting),
		MaxWaitingBytes: int64(limits.Requests.MaxWaitingBytes),
		Archive:         limits.Archive.Enabled, ArchiveBytes: int64(limits.Archive.MaxBytes), ArchiveAge: limits.Archive.MaxAge.Std(),
		StageBytes:     int64(limits.Stage.MaxBytes),
		ResponsesBytes: int64(limits.Responses.MaxBytes), ResponsesAge: limits.Responses.MaxAge.Std(),
		DeadBytes: int64(limits.Dead.MaxBytes), DeadAge: limits.Dead.MaxAge.Std(),
	}
}
