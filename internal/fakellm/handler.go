package fakellm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/adpa/processor/schemas"
)

// maxBody bounds what is read of a request.
const maxBody = 8 << 20

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// Handler serves the APIs, the lists of models, and GET /stats and /counts.
func (f *Fake) Handler() http.Handler { return http.HandlerFunc(f.serve) }

func (f *Fake) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		f.serveGet(w, r)
		return
	}
	d := dialectOf(r.URL.Path)
	if d == nil {
		http.NotFound(w, r)
		return
	}
	buffer := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(buffer)
	buffer.Reset()
	if _, err := buffer.ReadFrom(http.MaxBytesReader(w, r.Body, maxBody)); err != nil {
		http.Error(w, "the body is too large", http.StatusRequestEntityTooLarge)
		return
	}
	call := Call{Number: f.calls.Add(1), Path: r.URL.Path, Header: r.Header, Body: buffer.Bytes()}
	call.Stream = d.streams(&call)
	if f.cfg.Count {
		f.count(f.cfg.Key(call))
	}
	allowed := f.enter()
	defer f.inFlight.Add(-1)
	if !allowed {
		f.limited.Add(1)
		f.fail(w, d, http.StatusTooManyRequests)
		return
	}
	f.run(&exchange{Fake: f, w: w, r: r, dialect: d, call: &call}, f.step(call))
}

// step decides about a call; nil is the usual answer.
func (f *Fake) step(call Call) *Step {
	if n := int(call.Number) - 1; n < len(f.cfg.Script) {
		return f.cfg.Script[n]
	}
	if f.cfg.Respond != nil {
		if step := f.cfg.Respond(call); step != nil {
			return step
		}
	}
	if len(f.cfg.Failures) > 0 {
		dice := rand.Float64()
		for status, share := range f.cfg.Failures {
			if dice -= share; dice < 0 {
				return &Step{Status: status}
			}
		}
	}
	return nil
}

// fail answers with a status and the error body of the dialect.
func (f *Fake) fail(w http.ResponseWriter, d *dialect, status int) {
	if (status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable) && f.cfg.RetryAfter > 0 {
		w.Header().Set("Retry-After-Ms", strconv.FormatInt(f.cfg.RetryAfter.Milliseconds(), 10))
		w.Header().Set("Retry-After", strconv.Itoa(int((f.cfg.RetryAfter+time.Second-1)/time.Second)))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, d.failure(status))
}

func (f *Fake) serveGet(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	switch path := r.URL.Path; {
	case path == "/stats":
		_ = json.NewEncoder(w).Encode(f.Stats())
	case path == "/counts":
		_ = json.NewEncoder(w).Encode(f.Counts())
	case strings.HasSuffix(path, "/models"):
		_, _ = io.WriteString(w, `{"object":"list","data":[{"id":"fake","object":"model","created":1700000000,"owned_by":"fakellm"}],"models":[{"name":"models/fake"}]}`)
	default:
		http.NotFound(w, r)
	}
}

// exchange is one call and its answer.
type exchange struct {
	*Fake
	w       http.ResponseWriter
	r       *http.Request
	dialect *dialect
	call    *Call
}

var usual = new(Step)

func (f *Fake) run(x *exchange, step *Step) {
	if step == nil {
		step = usual
	}
	switch {
	case !x.wait(step.Delay):
		return
	case step.Hang:
		<-x.r.Context().Done()
		return
	case step.Drop:
		panic(http.ErrAbortHandler)
	}
	for name, value := range step.Header {
		x.w.Header().Set(name, value)
	}
	switch {
	case step.Status >= 400 && step.Body == "":
		f.failed.Add(1)
		f.fail(x.w, x.dialect, step.Status)
	case step.Huge > 0:
		x.sendHuge(step)
	case step.Events != nil || x.call.Stream && step.Body == "":
		x.sendEvents(step)
	default:
		x.sendBody(step)
	}
}

// wait pauses, unless the caller goes away.
func (x *exchange) wait(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-x.r.Context().Done():
		return false
	}
}

func (x *exchange) bill(step *Step) {
	if step.Status >= 300 {
		x.failed.Add(1)
		return
	}
	x.answered.Add(1)
	x.prompt.Add(int64(x.cfg.Prompt))
	x.completion.Add(int64(x.cfg.Completion))
}

func (x *exchange) sendBody(step *Step) {
	body := []byte(step.Body)
	if step.Body == "" {
		if !x.wait(x.cfg.Latency) {
			return
		}
		body = x.dialect.whole(&x.answers, x.call)
	}
	x.bill(step)
	header := x.w.Header()
	header["Content-Type"] = jsonType
	if step.ContentType != "" {
		header.Set("Content-Type", step.ContentType)
	}
	header.Set("Content-Length", strconv.Itoa(len(body)))
	if step.Status != 0 {
		x.w.WriteHeader(step.Status)
	}
	switch {
	case step.CutBytes > 0:
		_, _ = x.w.Write(body[:min(step.CutBytes, len(body))])
		x.abort()
	case step.Drip > 0:
		for i := range body {
			if _, err := x.w.Write(body[i : i+1]); err != nil || !x.flush() || !x.wait(step.Drip) {
				return
			}
		}
	default:
		_, _ = x.w.Write(body)
	}
}

var jsonType = []string{"application/json"}

// sendHuge sends a JSON text without announcing how long it is.
func (x *exchange) sendHuge(step *Step) {
	x.bill(step)
	x.w.Header()["Content-Type"] = jsonType
	if _, err := io.WriteString(x.w, `{"id":"huge","choices":[{"index":0,"message":{"role":"assistant","content":"`); err != nil {
		return
	}
	block := bytes.Repeat([]byte("a"), 64<<10)
	for sent := int64(0); sent < step.Huge; sent += int64(len(block)) {
		if _, err := x.w.Write(block); err != nil {
			return
		}
	}
	_, _ = io.WriteString(x.w, `"},"finish_reason":"stop"}]}`)
}

func (x *exchange) sendEvents(step *Step) {
	if !x.wait(x.cfg.FirstToken) {
		return
	}
	x.streamed.Add(1)
	x.bill(step)
	header := x.w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-cache")
	if step.ContentType != "" {
		header.Set("Content-Type", step.ContentType)
	}
	events := step.Events
	if events == nil {
		events = x.dialect.events(&x.answers)
	}
	x.flush()
	for i, event := range events {
		if step.CutEvents != 0 && i == max(step.CutEvents, 0) {
			x.abort()
		}
		if step.EndEvents != 0 && i == max(step.EndEvents, 0) {
			return
		}
		if i > 0 && !x.wait(x.cfg.TokenDelay) {
			return
		}
		if !x.sendEvent(event, step) {
			return
		}
	}
}

func (x *exchange) sendEvent(event string, step *Step) bool {
	if step.Drip <= 0 {
		_, err := io.WriteString(x.w, event+"\n\n")
		return err == nil && x.flush()
	}
	for _, b := range []byte(event + "\n\n") {
		if _, err := x.w.Write([]byte{b}); err != nil || !x.flush() || !x.wait(step.Drip) {
			return false
		}
	}
	return true
}

func (x *exchange) flush() bool { return http.NewResponseController(x.w).Flush() == nil }

// abort closes the connection in the middle of the answer.
func (x *exchange) abort() {
	x.flush()
	panic(http.ErrAbortHandler)
}

// LastText gives the text of a call's last message, or its input, as they stand
// in the JSON: the Key by default.
func LastText(call Call) string {
	for _, name := range []string{"messages", "contents"} {
		span, ok := schemas.Member(call.Body, name)
		if !ok {
			continue
		}
		messages := span.Of(call.Body)
		for _, content := range []string{`"content":`, `"text":`} {
			if i := bytes.LastIndex(messages, []byte(content)); i >= 0 {
				return firstString(messages[i+len(content):])
			}
		}
	}
	if span, ok := schemas.Member(call.Body, "input"); ok {
		return string(span.Of(call.Body))
	}
	return fmt.Sprintf("call %d", call.Number)
}

// firstString gives the text of the first JSON string in b.
func firstString(b []byte) string {
	decoder := json.NewDecoder(bytes.NewReader(b))
	for {
		token, err := decoder.Token()
		if err != nil {
			return ""
		}
		if text, ok := token.(string); ok {
			return text
		}
	}
}
