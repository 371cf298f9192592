package providers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adpa/processor/schemas"
)

// dialect is what tells one provider's API from another's. Its methods are pure
// but for Close of the stream; they may be called by any number of goroutines.
type dialect interface {
	// request gives the address and the body of a call.
	request(call *schemas.Call) (*url.URL, []byte, error)
	// answer reads a whole answer.
	answer(call *schemas.Call, body []byte) (schemas.Answer, error)
	// stream reads the events of a streamed answer into chunks in OpenAI's form.
	stream(call *schemas.Call) events
	// models is an address that answers for free.
	models() *url.URL
	// header gives the headers that every call carries, the key among them.
	header() http.Header
}

// remote is a provider behind HTTP.
type remote struct {
	cfg     Config
	pool    *pool
	dialect dialect
	headers http.Header // read-only
	limits  limitTable
}

var (
	_ Provider = (*remote)(nil)
	_ Pooled   = (*remote)(nil)
	_ Checker  = (*remote)(nil)
	_ Limited  = (*remote)(nil)
)

func newRemote(cfg Config, d dialect) *remote {
	headers := d.header()
	headers["Content-Type"] = []string{"application/json"}
	headers["Accept"] = []string{"application/json"}
	headers["User-Agent"] = []string{"processor"}
	for name, value := range cfg.Headers {
		headers[http.CanonicalHeaderKey(name)] = []string{string(value)}
	}
	return &remote{cfg: cfg, pool: newPool(cfg, d.models().Scheme == "https"), dialect: d, headers: headers}
}

// Name implements Provider.
func (r *remote) Name() string { return r.cfg.Name }

// Format prints the name and kind alone: the headers hold the key.
func (r *remote) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "provider %s (%s)", r.cfg.Name, r.cfg.Kind)
}

// LogValue implements slog.LogValuer.
func (r *remote) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(r)) }

// Close implements Provider.
func (r *remote) Close() error {
	r.pool.transport.CloseIdleConnections()
	return nil
}

// Stats implements Pooled.
func (r *remote) Stats() Stats { return r.pool.stats() }

// Limits implements Limited.
func (r *remote) Limits(model string) (Limits, bool) { return r.limits.get(model) }

// Generate implements Provider.
func (r *remote) Generate(ctx context.Context, call schemas.Call) (schemas.Answer, error) {
	target, body, err := r.dialect.request(&call)
	if err != nil {
		return schemas.Answer{}, untranslatable(err)
	}
	x := exchange{remote: r, parent: ctx, model: call.Model}
	response, err := x.send(http.MethodPost, target, body, &call)
	if err != nil {
		return schemas.Answer{}, err
	}
	if call.Delta != nil && isEventStream(response.Header) {
		return x.readStream(response, &call)
	}
	defer x.end(response)
	whole, err := x.readBody(response, r.cfg.MaxResponse*max(call.Requests, 1))
	if err != nil {
		return schemas.Answer{}, err
	}
	answer, err := r.dialect.answer(&call, whole)
	if err != nil {
		return schemas.Answer{}, x.unreadable(response, whole, err)
	}
	if call.Delta != nil { // asked for a stream, was given the whole
		call.Delta(WholeChunk(answer.Body))
	}
	return answer, nil
}

// Check implements Checker.
func (r *remote) Check(ctx context.Context) error {
	x := exchange{remote: r, parent: ctx}
	response, err := x.send(http.MethodGet, r.dialect.models(), nil, &schemas.Call{})
	if err != nil {
		return err
	}
	defer x.end(response)
	// What does not fit into the bound costs the connection, no more.
	_, _ = io.CopyN(io.Discard, response.Body, int64(r.cfg.MaxResponse))
	return nil
}

// Warm implements Checker.
func (r *remote) Warm(ctx context.Context, n int) error {
	n = min(n, r.cfg.MaxConnections)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = r.Check(ctx) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err // one says it all
		}
	}
	return nil
}

// exchange is one call on its way.
type exchange struct {
	remote *remote
	parent context.Context // the caller's
	ctx    context.Context // bounded by the provider's timeout
	cancel context.CancelFunc
	model  string
	sent   atomic.Bool // a connection was taken: bytes may have left
}

// send sends a request and gives the response to it if its status is 2xx; its
// body is still to be read, and end to be called.
func (x *exchange) send(method string, target *url.URL, body []byte, call *schemas.Call) (*http.Response, error) {
	x.ctx, x.cancel = x.parent, func() {}
	if err := x.remote.pool.enter(x.parent); err != nil {
		return nil, x.failed(err)
	}
	// Waiting for a slot is not the provider's time.
	x.ctx, x.cancel = context.WithTimeout(x.parent, x.remote.cfg.AttemptTimeout)
	response, err := x.roundTrip(x.request(method, target, body, call))
	if err != nil {
		defer x.end(nil)
		return nil, x.failed(err)
	}
	x.remote.limits.note(x.model, response.Header)
	if response.StatusCode/100 != 2 {
		defer x.end(response)
		return nil, x.refused(response)
	}
	return response, nil
}

// request makes the HTTP request of a call.
func (x *exchange) request(method string, target *url.URL, body []byte, call *schemas.Call) *http.Request {
	// The trace tells a call that never left from one whose outcome is unknown.
	trace := &httptrace.ClientTrace{
		GotConn:          func(httptrace.GotConnInfo) { x.sent.Store(true) },
		TLSHandshakeDone: x.remote.pool.learn,
	}
	request := (&http.Request{
		Method: method, URL: target, Host: target.Host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: x.header(call),
	}).WithContext(httptrace.WithClientTrace(x.ctx, trace))
	if body != nil {
		request.ContentLength = int64(len(body))
		request.Body = io.NopCloser(bytes.NewReader(body))
		// Lets net/http repeat what a server refused by closing an idle
		// connection before a byte was written.
		request.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	}
	return request
}

// roundTrip sends a request, once more where all that failed was a connection
// that turned out not to be needed.
func (x *exchange) roundTrip(request *http.Request) (*http.Response, error) {
	for {
		// RoundTrip, not Client.Do: a redirected POST is an error here, and there are no cookies.
		response, err := x.remote.pool.transport.RoundTrip(request)
		if err == nil || !errors.Is(err, errShared) || x.ctx.Err() != nil {
			return response, err
		}
		if request.GetBody != nil {
			request.Body, _ = request.GetBody() // cannot fail
		}
	}
}

// header gives the headers of one call: the shared ones, and the call's id.
func (x *exchange) header(call *schemas.Call) http.Header {
	shared := x.remote.headers
	header := make(http.Header, len(shared)+2)
	maps.Copy(header, shared)
	if call.ID != "" && headerValue(call.ID) {
		header["X-Client-Request-Id"] = []string{call.ID}
	}
	if call.Delta != nil {
		header["Accept"] = []string{"text/event-stream"}
	}
	return header
}

// end gives everything back. A body that was not read to its end costs the
// connection, which is right: what is left of it may be endless.
func (x *exchange) end(response *http.Response) {
	if response != nil {
		_ = response.Body.Close()
	}
	x.cancel()
	x.remote.pool.leave()
}

var errTooLarge = errors.New("the answer is too large")

// readBody reads a whole body, up to the bound.
func (x *exchange) readBody(response *http.Response, bound int) ([]byte, error) {
	body, err := readBounded(response.Body, response.ContentLength, bound)
	if errors.Is(err, errTooLarge) {
		return nil, x.tooLarge(response.StatusCode)
	}
	if err != nil {
		return nil, x.cutOff(err)
	}
	return body, nil
}

// readBounded reads to the end of r, at most limit bytes; length is what the
// sender announced, or -1.
func readBounded(r io.Reader, length int64, limit int) ([]byte, error) {
	if length > int64(limit) {
		return nil, errTooLarge
	}
	size := length + 1 // one more, so that the end is seen without growing
	if length < 0 {
		size = 4 << 10
	}
	body := make([]byte, 0, size)
	for {
		if len(body) == cap(body) {
			body = append(body, 0)[:len(body)]
		}
		n, err := r.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if len(body) > limit {
			return nil, errTooLarge
		}
		if err == io.EOF {
			return body, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// limitTable keeps what was last said of the limits of each model.
type limitTable struct {
	mu     sync.RWMutex
	models map[string]Limits
}

// maxLimitModels bounds the table; models past it are not kept.
const maxLimitModels = 1000

func (t *limitTable) get(model string) (Limits, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	l, ok := t.models[model]
	return l, ok
}

func (t *limitTable) note(model string, header http.Header) {
	l, ok := readLimits(header, time.Now)
	if !ok {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.models[model]; !known && len(t.models) >= maxLimitModels {
		return
	}
	if t.models == nil {
		t.models = make(map[string]Limits)
	}
	t.models[model] = l
}
