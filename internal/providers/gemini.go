package providers

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/adpa/processor/schemas"
)

// gemini speaks Google's generateContent.
type gemini struct {
	cfg  Config
	base *url.URL
	now  func() time.Time
}

func newGemini(cfg Config) (Provider, error) {
	base, err := parseBase(cfg.BaseURL)
	if err != nil {
		return nil, err
	}
	return newRemote(cfg, &gemini{cfg: cfg, base: base, now: time.Now}), nil
}

func (d *gemini) header() http.Header {
	if d.cfg.APIKey == "" {
		return http.Header{}
	}
	return http.Header{"X-Goog-Api-Key": {string(d.cfg.APIKey)}}
}

func (d *gemini) models() *url.URL { return d.base.JoinPath("models") }

// method gives the address of a model's method.
func (d *gemini) method(model, name string) *url.URL {
	// A slash in the name stays one, as in tunedModels/mine.
	if !strings.Contains(model, "/") {
		model = "models/" + model
	}
	u := *d.base
	u.Path, u.RawPath = strings.TrimRight(d.base.Path, "/")+"/"+model+":"+name, ""
	return &u
}

func (d *gemini) request(call *schemas.Call) (*url.URL, []byte, error) {
	if strings.Contains(call.Model, "..") {
		return nil, nil, schemas.Invalid(schemas.CodeInvalidField, "model", "%.64q is no name of a model", call.Model)
	}
	if call.Embeddings {
		body, err := geminiEmbedRequest(call.Body, call.Model)
		return d.method(call.Model, "batchEmbedContents"), body, err
	}
	body, err := geminiRequest(call.Body, call.Model)
	if call.Delta == nil {
		return d.method(call.Model, "generateContent"), body, err
	}
	target := d.method(call.Model, "streamGenerateContent")
	target.RawQuery = "alt=sse"
	return target, body, err
}

func (d *gemini) answer(call *schemas.Call, body []byte) (schemas.Answer, error) {
	if call.Embeddings {
		return geminiEmbedAnswer(body, call.Model)
	}
	return geminiAnswer(body, d.now().Unix())
}

func (d *gemini) stream(*schemas.Call) events { return &geminiEvents{created: d.now().Unix()} }
