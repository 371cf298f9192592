// Package natsconf tests nats.conf and nats-users.conf by running them.
package natsconf

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/kv/budget"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/streams"
	"github.com/adpa/processor/streams/embedded"
)

var names = streams.Names{Prefix: "llm"}

// accounts has a tenant be an account, users a user of the product's account.
const (
	accounts = "../../nats.conf"
	users    = "../../nats-users.conf"
)

// site is a server that runs one of the files.
type site struct {
	*server.Server
	file string
}

// both runs a test on each of the files.
func both(t *testing.T, test func(t *testing.T, s *site)) {
	t.Helper()
	for _, file := range []string{accounts, users} {
		t.Run(filepath.Base(file), func(t *testing.T) {
			if file == users && os.Getenv("PROCESSOR_SLOW") == "" {
				t.Skip("PROCESSOR_SLOW=1 tries both files")
			}
			test(t, start(t, file))
		})
	}
}

func setenv(t *testing.T) {
	t.Helper()
	t.Setenv("NATS_SERVER_NAME", "n1")
	t.Setenv("NATS_STORE_DIR", t.TempDir())
	for _, user := range []string{"sys", "processor", "acme", "beta"} {
		t.Setenv(strings.ToUpper(user)+"_PASSWORD", password(user))
	}
}

// start runs a file as it stands, on a free port of loopback.
func start(t *testing.T, file string) *site {
	t.Helper()
	setenv(t)
	options, err := server.ProcessConfigFile(file)
	require.NoError(t, err)
	require.EqualValues(t, embedded.MaxPayload, options.MaxPayload)
	options.Host, options.Port, options.HTTPHost, options.HTTPPort = "127.0.0.1", -1, "127.0.0.1", -1
	options.NoSigs, options.NoLog = true, true
	s, err := server.NewServer(options)
	require.NoError(t, err)
	go s.Start()
	require.True(t, s.ReadyForConnections(10*time.Second), "the server did not start")
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return &site{s, file}
}

func password(user string) string { return user + "-5ecret" }

// client is a user's connection, and what the server refused it.
type client struct {
	*nats.Conn
	refused chan error
}

func connect(t *testing.T, s *site, user string) client {
	t.Helper()
	refused := make(chan error, 100)
	options := []nats.Option{nats.UserInfo(user, password(user)),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err })}
	if s.file == users && user != "processor" {
		options = append(options, nats.CustomInboxPrefix("_INBOX."+user))
	}
	nc, err := nats.Connect(s.ClientURL(), options...)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return client{nc, refused}
}

// requireRefused waits until the server has refused what was done last.
func (c client) requireRefused(t *testing.T, what string) {
	t.Helper()
	require.NoError(t, c.Flush())
	select {
	case err := <-c.refused:
		require.ErrorIs(t, err, nats.ErrPermissionViolation, what)
	case <-time.After(5 * time.Second):
		require.Fail(t, "not refused", what)
	}
}

// provision sets up the product as a replica does, and gives its connection.
func provision(t *testing.T, s *site) (client, jetstream.JetStream) {
	t.Helper()
	c := connect(t, s, "processor")
	js, err := jetstream.New(c.Conn)
	require.NoError(t, err)
	require.NoError(t, kv.Provision(t.Context(), js, kv.Layout{
		Prefix: "llm", AnswersBytes: int64(streams.DefaultStreams().Responses.MaxBytes), AnswersAge: time.Hour,
		CacheBytes: int64(kv.DefaultCache().MaxSize),
	}))
	for _, cfg := range budget.Streams("llm", 1) {
		_, err := js.CreateStream(t.Context(), cfg)
		require.NoError(t, err)
	}
	layout := streams.NewLayout(streams.DefaultServer(), streams.DefaultStreams())
	require.NoError(t, streams.Provision(t.Context(), js, layout))
	return c, js
}

// storedResponse asks for a stored response as an application does.
func storedResponse(c client, tenant, id string) (*nats.Msg, error) {
	return c.Request("$JS.API.DIRECT.GET."+names.Responses()+"."+names.Response(tenant, id), nil, 500*time.Millisecond)
}

func TestTheDefaultLayoutFits(t *testing.T) { both(t, theDefaultLayoutFits) }

func theDefaultLayoutFits(t *testing.T, s *site) {
	_, js := provision(t, s)
	info, err := js.AccountInfo(t.Context())
	require.NoError(t, err)
	require.Positive(t, info.Streams)
	require.Less(t, info.Streams, info.Limits.MaxStreams, "no room for further streams")
}

func TestATenantPublishesAndReadsItsOwn(t *testing.T) { both(t, aTenantPublishesAndReadsItsOwn) }

func aTenantPublishesAndReadsItsOwn(t *testing.T, s *site) {
	processor, pjs := provision(t, s)
	acme := connect(t, s, "acme")

	answers, err := acme.SubscribeSync(names.Response("acme", "*"))
	require.NoError(t, err)
	deltas, err := acme.SubscribeSync(names.Delta("acme", "*"))
	require.NoError(t, err)
	events, err := acme.SubscribeSync(names.Events("acme"))
	require.NoError(t, err)
	require.NoError(t, acme.Flush())

	js, err := jetstream.New(acme.Conn)
	require.NoError(t, err)
	ack, err := js.Publish(t.Context(), names.Request("acme"), []byte(`{"messages":[]}`))
	require.NoError(t, err)
	require.Equal(t, names.Requests(), ack.Stream)
	require.Greater(t, ack.Sequence, uint64(1<<40), "sequences begin at the time in ms")
	_, err = js.Publish(t.Context(), names.FeedbackOn("acme"), []byte(`{}`))
	require.NoError(t, err)

	_, err = pjs.Publish(t.Context(), names.Response("acme", "a1"), []byte("answer"), jetstream.WithExpectLastSequencePerSubject(0))
	require.NoError(t, err)
	_, err = pjs.Publish(t.Context(), names.Delta("acme", "a1"), []byte("token"))
	require.NoError(t, err)
	require.NoError(t, processor.Publish(names.Events("acme"), []byte("budget")))

	for _, want := range []struct {
		from *nats.Subscription
		data string
	}{{answers, "answer"}, {deltas, "token"}, {events, "budget"}} {
		m, err := want.from.NextMsg(5 * time.Second)
		require.NoError(t, err, "waiting for %s", want.data)
		require.Equal(t, want.data, string(m.Data))
	}

	m, err := storedResponse(acme, "acme", "a1")
	require.NoError(t, err)
	require.Equal(t, "answer", string(m.Data))
	m, err = storedResponse(acme, "acme", "none")
	require.NoError(t, err)
	require.Equal(t, "404", m.Header.Get("Status"))

	heard := make(chan string, 1)
	_, err = streams.OnCancel(processor.Conn, names, func(key string) { heard <- key })
	require.NoError(t, err)
	require.NoError(t, processor.Flush())
	_, err = acme.Request(names.Cancel("acme", "a1"), nil, 5*time.Second)
	require.NoError(t, err)
	require.Equal(t, "acme.a1", <-heard)
	require.Empty(t, acme.refused)
}

// The product's own client, and with it batch and ask, gets along with a tenant's rights.
func TestTheClientNeedsNoMore(t *testing.T) { both(t, theClientNeedsNoMore) }

func theClientNeedsNoMore(t *testing.T, s *site) {
	processor, pjs := provision(t, s)
	_, err := processor.Subscribe("llm.requests.*", func(m *nats.Msg) {
		_, _ = pjs.PublishAsync(names.Response(strings.TrimPrefix(m.Subject, "llm.requests."), m.Header.Get(streams.HeaderID)), m.Data)
	})
	require.NoError(t, err)
	require.NoError(t, processor.Flush())
	acme := connect(t, s, "acme")
	client, err := streams.NewClient(acme.Conn, names, "acme")
	require.NoError(t, err)

	answer, err := client.Ask(t.Context(), streams.Message{ID: "a1", Body: []byte("one")})
	require.NoError(t, err)
	require.Equal(t, "one", string(answer.Body))
	answer, err = client.Await(t.Context(), "a1")
	require.NoError(t, err)
	require.Equal(t, "one", string(answer.Body))
	found, err := client.Lookup(t.Context(), []string{"a1", "a2"})
	require.NoError(t, err)
	require.Equal(t, map[string][]byte{"a1": []byte("one")}, found)

	exchange, err := client.Exchange(t.Context(), 4)
	require.NoError(t, err)
	defer exchange.Close()
	require.NoError(t, exchange.Send(t.Context(), streams.Message{ID: "a2", Body: []byte("two")}))
	exchange.Finish()
	answer = <-exchange.Answers()
	require.NoError(t, answer.Err)
	require.Equal(t, "two", string(answer.Body))
	require.Empty(t, acme.refused)
}

// A reader who comes late, or lost its connection, gets the chunks of its own
// streams with a tenant's rights, and no one else's.
func TestATenantFollowsItsOwnStreams(t *testing.T) { both(t, aTenantFollowsItsOwnStreams) }

func aTenantFollowsItsOwnStreams(t *testing.T, s *site) {
	processor, pjs := provision(t, s)
	_, err := streams.ServeMissed(processor.Conn, names)
	require.NoError(t, err)
	require.NoError(t, processor.Flush())
	deltas := streams.NewDeltas(processor.Conn, names)
	chunks := map[string]func([]byte){}
	for _, tenant := range []string{"acme", "beta"} { // under the same id
		chunks[tenant] = deltas.Begin(&stages.Request{Handoff: schemas.Handoff{State: schemas.State{Tenant: tenant, ID: "s"}}})
		chunks[tenant]([]byte(tenant + " one"))
	}
	require.NoError(t, processor.Flush())

	for _, tenant := range []string{"acme", "beta"} {
		user := connect(t, s, tenant)
		client, err := streams.NewClient(user.Conn, names, tenant)
		require.NoError(t, err)
		var got []string
		answer, err := client.Follow(t.Context(), "s", func(d streams.Delta) {
			got = append(got, string(d.Chunk))
			if len(got) == 1 { // it came from the stream; the rest comes as it is published
				chunks[tenant]([]byte(tenant + " two"))
				_, err := pjs.PublishAsync(names.Response(tenant, "s"), []byte("whole"))
				require.NoError(t, err)
			}
		})
		require.NoError(t, err)
		require.Equal(t, "whole", string(answer.Body))
		require.Equal(t, []string{tenant + " one", tenant + " two"}, got)
		require.Empty(t, user.refused)
	}

	// Asking for another's is refused, whatever the stream's API is asked with.
	acme := connect(t, s, "acme")
	for _, subject := range []string{"llm.missed.beta.s", "$JS.API.DIRECT.GET.LLM_DELTAS", "$JS.API.DIRECT.GET.LLM_DELTAS.llm.deltas.beta.s"} {
		_, err := acme.Request(subject, []byte(`{"seq":1,"next_by_subj":"llm.deltas.beta.s"}`), 300*time.Millisecond)
		require.Error(t, err, subject)
		acme.requireRefused(t, subject)
	}
	js, err := jetstream.New(acme.Conn)
	require.NoError(t, err)
	for _, filter := range []string{"llm.deltas.beta.s", "llm.deltas.acme.s"} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err := js.CreateConsumer(ctx, names.Deltas(), jetstream.ConsumerConfig{FilterSubject: filter})
		cancel()
		require.Error(t, err, filter)
		acme.requireRefused(t, "a consumer on "+filter)
	}
	stream, err := pjs.Stream(t.Context(), names.Deltas())
	require.NoError(t, err)
	require.Zero(t, stream.CachedInfo().State.Consumers)
}

func TestATenantReachesNothingElse(t *testing.T) { both(t, aTenantReachesNothingElse) }

func aTenantReachesNothingElse(t *testing.T, s *site) {
	processor, pjs := provision(t, s)
	acme, beta := connect(t, s, "acme"), connect(t, s, "beta")
	everything, err := processor.SubscribeSync(">")
	require.NoError(t, err)
	require.NoError(t, processor.Flush())
	secret, err := beta.SubscribeSync(names.Response("beta", "*"))
	require.NoError(t, err)
	require.NoError(t, beta.Flush())

	for _, subject := range []string{
		"llm.requests.beta", "llm.requests.acme.x", "llm.feedback.beta", "llm.cancel.beta.b1", "llm.cancel.acme",
		"llm.missed.beta.b1", "llm.missed.acme", "llm.missed.acme.a1.x", "$JS.API.DIRECT.GET.LLM_DELTAS", "$JS.API.STREAM.MSG.GET.LLM_DELTAS",
		"$JS.API.DIRECT.GET.LLM_DELTAS.llm.deltas.beta.b1", "$JS.API.CONSUMER.CREATE.LLM_DELTAS", "$JS.API.CONSUMER.DURABLE.CREATE.LLM_DELTAS.c",
		"$JS.API.CONSUMER.CREATE.LLM_DELTAS.c", "$JS.API.CONSUMER.CREATE.LLM_DELTAS.c.llm.deltas.beta.b1",
		"llm.responses.acme.a1", "llm.responses.beta.b1", "llm.deltas.beta.b1", "llm.events.beta", "llm.alive.p",
		"llm.stages.generate.interactive.0.acme", "llm.later.at.acme.a1", "llm.dead.generate.acme",
		"$KV.llm_budget.acme", "$KV.llm_answers.acme.a1", "$KV.llm_cache.acme.f",
		"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.MSG.GET.LLM_RESPONSES",
		"$JS.API.STREAM.PURGE.LLM_REQUESTS", "$JS.API.STREAM.DELETE.LLM_RESPONSES", "$JS.API.CONSUMER.CREATE.LLM_RESPONSES",
		"$JS.API.CONSUMER.CREATE.LLM_DELTAS.c.llm.deltas.acme.*", "$JS.API.CONSUMER.MSG.NEXT.LLM_REQUESTS.compress",
		"$JS.API.DIRECT.GET.LLM_RESPONSES", "$JS.API.DIRECT.GET.LLM_RESPONSES.llm.responses.beta.b1",
		"$JS.API.DIRECT.GET.LLM_ARCHIVE.llm.requests.acme", "$JS.API.DIRECT.GET.KV_llm_answers.$KV.llm_answers.acme.a1",
		"$JS.ACK.LLM_REQUESTS.compress.1.1.1.1.1", "$SYS.REQ.SERVER.PING", "_INBOX.beta.1",
	} {
		require.NoError(t, acme.Publish(subject, []byte("{}")))
		acme.requireRefused(t, "publishing to "+subject)
	}
	for _, subject := range []string{
		">", "llm.>", "llm.*.*", "llm.responses.*.*", "llm.responses.beta.*", "llm.deltas.beta.*", "llm.events.*", "llm.events.beta",
		"llm.deltas.>", "llm.deltas.*.*", "llm.missed.acme.*", "llm.missed.>",
		"llm.requests.acme", "llm.requests.*", "llm.cancel.>", "llm.stages.>", "$KV.>", "$JS.>", "$SYS.>",
	} {
		_, err := acme.SubscribeSync(subject)
		require.NoError(t, err)
		acme.requireRefused(t, "subscribing to "+subject)
	}
	m, err := everything.NextMsg(100 * time.Millisecond)
	require.ErrorIs(t, err, nats.ErrTimeout, "reached the product: %v", m)

	_, err = pjs.Publish(t.Context(), names.Response("beta", "b1"), []byte("for beta alone"))
	require.NoError(t, err)
	m, err = secret.NextMsg(5 * time.Second)
	require.NoError(t, err)
	require.Equal(t, "for beta alone", string(m.Data))
	inboxes, err := acme.SubscribeSync("_INBOX.>") // its own account's inboxes only
	require.NoError(t, err)
	require.NoError(t, acme.Flush())
	if s.file == users {
		acme.requireRefused(t, "all inboxes")
		_, err = acme.SubscribeSync("_INBOX.beta.>")
		require.NoError(t, err)
		acme.requireRefused(t, "another's inboxes")
	}
	m, err = storedResponse(beta, "beta", "b1")
	require.NoError(t, err)
	require.Equal(t, "for beta alone", string(m.Data))
	_, err = inboxes.NextMsg(100 * time.Millisecond)
	require.ErrorIs(t, err, nats.ErrTimeout, "a tenant hears another's replies")
}

// A client names the subject of its reply, and the server sends it there
// unasked. Were tenants users of one account, that would let one write another's
// answers, or into the product's buckets.
func TestARepliesSubjectStaysInTheTenantsAccount(t *testing.T) {
	s := start(t, accounts)
	processor, pjs := provision(t, s)
	acme := connect(t, s, "acme")
	_, err := pjs.Publish(t.Context(), names.Response("acme", "a1"), []byte("an answer of acme"))
	require.NoError(t, err)
	_, err = pjs.Publish(t.Context(), names.Delta("acme", "a1"), []byte("a chunk of acme"))
	require.NoError(t, err)
	_, err = streams.ServeMissed(processor.Conn, names)
	require.NoError(t, err)
	require.NoError(t, processor.Flush())
	for _, reply := range []string{names.Response("beta", "forged"), names.Request("beta"), "$KV.llm_answers.beta.forged"} {
		require.NoError(t, acme.PublishRequest("$JS.API.DIRECT.GET."+names.Responses()+"."+names.Response("acme", "a1"), reply, nil))
		require.NoError(t, acme.PublishRequest(names.Request("acme"), reply, []byte("{}")))
		require.NoError(t, acme.PublishRequest(names.Missed("acme", "a1"), reply, nil))
	}
	own, err := storedResponse(acme, "acme", "a1") // answered behind those before it
	require.NoError(t, err)
	require.Equal(t, "an answer of acme", string(own.Data))

	for stream, subject := range map[string]string{
		names.Responses(): names.Response("beta", "forged"),
		names.Requests():  names.Request("beta"),
		"KV_llm_answers":  "$KV.llm_answers.beta.forged",
	} {
		handle, err := pjs.Stream(t.Context(), stream)
		require.NoError(t, err)
		_, err = handle.GetLastMsgForSubject(t.Context(), subject)
		require.ErrorIs(t, err, jetstream.ErrMsgNotFound, subject)
	}
}

func TestAWrongPasswordIsRefused(t *testing.T) { both(t, aWrongPasswordIsRefused) }

func aWrongPasswordIsRefused(t *testing.T, s *site) {
	for _, option := range []nats.Option{nats.UserInfo("acme", "guess"), nats.UserInfo("acme", ""), nats.Name("nobody")} {
		_, err := nats.Connect(s.ClientURL(), option)
		require.ErrorIs(t, err, nats.ErrAuthorization)
	}
}

// Copying a tenant's block and forgetting one of its names must not open another's subjects.
func TestAnImportOfAnotherTenantsSubjectDoesNotLoad(t *testing.T) {
	setenv(t)
	text, err := os.ReadFile(accounts)
	require.NoError(t, err)
	imports := regexp.MustCompile(`\{ (service|stream): +\{ account: PROCESSOR, subject: "([^"]*)\bacme\b`)
	found := imports.FindAllIndex(text, -1)
	require.Len(t, found, 8)
	for _, at := range found {
		wrong := string(text[:at[1]-len("acme")]) + "beta" + string(text[at[1]:])
		require.ErrorContains(t, new(server.Options).ProcessConfigString(wrong), "import not authorized", string(text[at[0]:at[1]]))
	}
}
