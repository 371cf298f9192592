package providers

import (
	"net/http"
	"net/url"
	"time"

	"github.com/adpa/processor/schemas"
)

// anthropic speaks the Messages API.
type anthropic struct {
	cfg             Config
	messages, model *url.URL
	now             func() time.Time
}

func newAnthropic(cfg Config) (Provider, error) {
	base, err := parseBase(cfg.BaseURL)
	if err != nil {
		return nil, err
	}
	d := &anthropic{cfg: cfg, messages: base.JoinPath("v1/messages"), model: base.JoinPath("v1/models"), now: time.Now}
	return newRemote(cfg, d), nil
}

func (d *anthropic) header() http.Header {
	return http.Header{"X-Api-Key": {string(d.cfg.APIKey)}, "Anthropic-Version": {d.cfg.APIVersion}}
}

func (d *anthropic) models() *url.URL { return d.model }

func (d *anthropic) request(call *schemas.Call) (*url.URL, []byte, error) {
	if call.Embeddings {
		return nil, nil, schemas.Invalid(schemas.CodeInvalidField, "model", "Anthropic has no embeddings; name a model of another provider")
	}
	body, err := anthropicRequest(call.Body, call.Model, call.Delta != nil)
	return d.messages, body, err
}

func (d *anthropic) answer(_ *schemas.Call, body []byte) (schemas.Answer, error) {
	return anthropicAnswer(body, d.now().Unix())
}

func (d *anthropic) stream(*schemas.Call) events {
	return &anthropicEvents{created: d.now().Unix()}
}
