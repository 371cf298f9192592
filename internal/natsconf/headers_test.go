package natsconf

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// held gives every message that the streams hold, but those on one subject, by
// stream, subject and sequence. It asks the leader, whose answer says these
// beside the message: in a direct get a message's own headers could stand for them.
func held(t *testing.T, js jetstream.JetStream, but string) map[string]string {
	t.Helper()
	all := map[string]string{}
	list := js.StreamNames(t.Context())
	for name := range list.Name() {
		for next := uint64(1); ; {
			reply, err := js.Conn().Request("$JS.API.STREAM.MSG.GET."+name, fmt.Appendf(nil, `{"seq":%d,"next_by_subj":">"}`, next), 10*time.Second)
			require.NoError(t, err)
			var got struct {
				Error   *jetstream.APIError
				Message struct {
					Subject string
					Seq     uint64
					Data    []byte
				}
			}
			require.NoError(t, json.Unmarshal(reply.Data, &got))
			if got.Error != nil {
				require.Equal(t, jetstream.JSErrCodeMessageNotFound, got.Error.ErrorCode)
				break
			}
			if m := got.Message; m.Subject != but {
				all[fmt.Sprint(name, " ", m.Subject, " ", m.Seq)] = string(m.Data)
			}
			next = got.Message.Seq + 1
		}
	}
	require.NoError(t, list.Err())
	return all
}

// A client sets the headers of what it publishes, and some are orders to the
// server. On a request they are refused to the publisher, or do nothing; nobody
// else notices.
func TestHeadersSteerNothingOfOthers(t *testing.T) { both(t, headersSteerNothingOfOthers) }

func headersSteerNothingOfOthers(t *testing.T, s *site) {
	_, pjs := provision(t, s)
	acme, beta := connect(t, s, "acme"), connect(t, s, "beta")
	js, err := jetstream.New(acme.Conn)
	require.NoError(t, err)
	betas, err := jetstream.New(beta.Conn)
	require.NoError(t, err)
	for range 3 {
		_, err := betas.Publish(t.Context(), names.Request("beta"), []byte("beta's request"))
		require.NoError(t, err)
	}
	_, err = pjs.Publish(t.Context(), names.Response("beta", "b1"), []byte("beta's answer"))
	require.NoError(t, err)
	hears, err := beta.SubscribeSync("llm.responses.beta.*")
	require.NoError(t, err)
	require.NoError(t, beta.Flush())
	requireArchived(t, pjs, 3)
	before := held(t, pjs, "")

	const refused, stored = true, false
	accepted := 0
	for _, test := range []struct {
		what   string
		header nats.Header
		want   bool
	}{
		{"a rollup of the subject", nats.Header{"Nats-Rollup": {"sub"}}, refused},
		{"a rollup of the stream", nats.Header{"Nats-Rollup": {"all"}}, refused},
		{"a message's age", nats.Header{"Nats-TTL": {"1s"}}, refused},
		{"another stream", nats.Header{"Nats-Expected-Stream": {names.Responses()}}, refused},
		{"a last sequence", nats.Header{"Nats-Expected-Last-Sequence": {"1"}}, refused},
		{"a last message", nats.Header{"Nats-Expected-Last-Msg-Id": {"x"}}, refused},
		{"a last sequence of the subject", nats.Header{"Nats-Expected-Last-Subject-Sequence": {"1"}}, refused},
		{"a last sequence of another's subject", nats.Header{"Nats-Expected-Last-Subject-Sequence": {"1"}, "Nats-Expected-Last-Subject-Sequence-Subject": {names.Request("beta")}}, refused},
		{"a schedule", nats.Header{"Nats-Schedule": {"@at " + time.Now().Add(time.Hour).UTC().Format(time.RFC3339)}, "Nats-Schedule-Target": {names.Response("beta", "forged")}}, refused},
		{"a schedule of a stream's message", nats.Header{"Nats-Schedule": {"@every 1s"}, "Nats-Schedule-Target": {names.Request("beta")}, "Nats-Schedule-Source": {names.Response("beta", "b1")}}, refused},
		{"a counter", nats.Header{"Nats-Incr": {"+1"}}, refused},
		{"a batch", nats.Header{"Nats-Batch-Id": {"b"}, "Nats-Batch-Sequence": {"1"}, "Nats-Batch-Commit": {"1"}}, refused},
		{"a bucket's deletion", nats.Header{"KV-Operation": {"PURGE"}}, stored},
		{"a marker", nats.Header{"Nats-Marker-Reason": {"Purge"}}, stored},
		{"what a source writes", nats.Header{"Nats-Stream-Source": {"LLM_ARCHIVE 1 > >"}}, refused},
		{"a reading's headers", nats.Header{"Nats-Subject": {names.Request("beta")}, "Nats-Sequence": {"1"}, "Nats-Stream": {names.Responses()}}, stored},
		{"a hand-off's version", nats.Header{"Llm-Version": {"99"}, "Llm-Sequence": {"1"}}, stored},
	} {
		m := &nats.Msg{Subject: names.Request("acme"), Header: test.header, Data: []byte("acme's request")}
		_, err := js.PublishMsg(t.Context(), m)
		if test.want == refused {
			var api *jetstream.APIError
			require.ErrorAs(t, err, &api, "%s", test.what)
		} else {
			require.NoError(t, err, test.what)
			accepted++
		}
	}
	require.Positive(t, accepted)
	requireArchived(t, pjs, 3+accepted)
	require.Empty(t, cmp.Diff(before, held(t, pjs, names.Request("acme"))), "something of others has changed")
	m, err := hears.NextMsg(100 * time.Millisecond)
	require.ErrorIs(t, err, nats.ErrTimeout, "beta was sent %v", m)
	require.Empty(t, acme.refused)
}

// Tenants that use the same message id lose no request of another, unless both
// come within a tenth of a second: then who comes second is told, by duplicate.
// Who uses Llm-Id alone, as is documented, never is.
func TestAMessageIDOfAnotherIsTold(t *testing.T) { both(t, aMessageIDOfAnotherIsTold) }

func aMessageIDOfAnotherIsTold(t *testing.T, s *site) {
	_, pjs := provision(t, s)
	publish := func(user string, header nats.Header) *jetstream.PubAck {
		js, err := jetstream.New(connect(t, s, user).Conn)
		require.NoError(t, err)
		ack, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: names.Request(user), Header: header, Data: []byte("{}")})
		require.NoError(t, err)
		return ack
	}
	accepted := 0
	for range 5 {
		for _, user := range []string{"acme", "beta"} {
			ack := publish(user, nats.Header{"Nats-Msg-Id": {"the same"}})
			if !ack.Duplicate {
				accepted++
			}
			require.False(t, publish(user, nats.Header{"Llm-Id": {"the-same"}}).Duplicate)
			accepted++
		}
	}
	requireArchived(t, pjs, accepted)
}

// requireArchived waits until the archive holds so many requests.
func requireArchived(t *testing.T, js jetstream.JetStream, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		stream, err := js.Stream(t.Context(), names.Archive())
		return err == nil && stream.CachedInfo().State.Msgs == uint64(n)
	}, 10*time.Second, 10*time.Millisecond, "the archive does not hold %d requests", n)
}

// A trace of a message goes where its publisher says.
func TestATraceReachesNobodyElse(t *testing.T) {
	s := start(t, accounts)
	_, pjs := provision(t, s)
	acme, beta := connect(t, s, "acme"), connect(t, s, "beta")
	hears, err := beta.SubscribeSync("llm.responses.beta.*")
	require.NoError(t, err)
	require.NoError(t, beta.Flush())
	before := held(t, pjs, "")
	for _, dest := range []string{names.Response("beta", "forged"), "$KV.llm_budget.beta", names.Request("beta")} {
		require.NoError(t, acme.PublishMsg(&nats.Msg{Subject: names.Request("acme"), Header: nats.Header{"Nats-Trace-Dest": {dest}, "Nats-Trace-Only": {"true"}}}))
	}
	require.NoError(t, acme.Flush())
	m, err := hears.NextMsg(300 * time.Millisecond)
	require.ErrorIs(t, err, nats.ErrTimeout, "beta was sent %v", m)
	require.Empty(t, cmp.Diff(before, held(t, pjs, names.Request("acme"))))
}

// What keeps tenants apart in nats.conf and does not in nats-users.conf. Where a
// later server does not do this any more, docs/tenants.md is to say so.
func TestUsersOfOneAccountCanHaveRepliesSentToOthers(t *testing.T) {
	s := start(t, users)
	_, pjs := provision(t, s)
	acme := connect(t, s, "acme")
	_, err := pjs.Publish(t.Context(), names.Response("acme", "a1"), []byte("an answer of acme"))
	require.NoError(t, err)
	require.NoError(t, acme.PublishRequest("$JS.API.DIRECT.GET."+names.Responses()+"."+names.Response("acme", "a1"), names.Response("beta", "forged"), nil))
	stream, err := pjs.Stream(t.Context(), names.Responses())
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		m, err := stream.GetLastMsgForSubject(t.Context(), names.Response("beta", "forged"))
		return err == nil && string(m.Data) == "an answer of acme"
	}, 5*time.Second, 10*time.Millisecond)
}
