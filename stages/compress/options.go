package compress

import (
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Options is what one request says about its compression: the object
// processor.compress. Members that are nil leave the configuration in force.
type Options struct {
	// Off is true when the request says false.
	Off bool `json:"-"`

	Techniques       []string `json:"techniques,omitempty"`
	TargetRatio      *float64 `json:"target_ratio,omitempty"`
	QualityThreshold *float64 `json:"quality_threshold,omitempty"`
	PreserveMeaning  *bool    `json:"preserve_meaning,omitempty"`
	// Query is what the documents are read for. Empty means that it is found
	// in the last user message.
	Query string `json:"query,omitempty"`
	// Keep are strings: semantic keeps every segment that holds one of them.
	Keep []string `json:"keep,omitempty"`
	// Prefix is what is known about the provider's prompt cache. The caller of
	// the package fills it in, never the request.
	Prefix Prefix `json:"-"`
}

const (
	maxKeep      = 64
	maxQueryText = 16 << 10
)

// ParseOptions reads the raw value of processor.compress: an object, true,
// false, null or nothing. Errors are of type *FieldError.
func ParseOptions(raw []byte) (Options, error) {
	var o Options
	switch string(raw) {
	case "", "null", "true":
		return o, nil
	case "false":
		return Options{Off: true}, nil
	}
	if jsontext.Value(raw).Kind() != '{' {
		return o, &FieldError{Reason: "want an object or false"}
	}
	if err := json.Unmarshal(raw, &o, json.RejectUnknownMembers(true)); err != nil {
		return Options{}, &FieldError{Reason: fmt.Sprintf("%v; allowed are techniques, target_ratio, quality_threshold, preserve_meaning, query and keep", err)}
	}
	return o, o.validate()
}

func (o Options) validate() error {
	if err := validTechniques(o.Techniques); err != nil {
		return err
	}
	if o.TargetRatio != nil {
		if err := validShare("target_ratio", *o.TargetRatio); err != nil {
			return err
		}
	}
	if o.QualityThreshold != nil {
		if err := validShare("quality_threshold", *o.QualityThreshold); err != nil {
			return err
		}
	}
	if len(o.Keep) > maxKeep {
		return &FieldError{Field: "keep", Reason: fmt.Sprintf("%d strings; at most %d are allowed", len(o.Keep), maxKeep)}
	}
	if len(o.Query) > maxQueryText {
		return &FieldError{Field: "query", Reason: fmt.Sprintf("%d bytes; at most %d are allowed", len(o.Query), maxQueryText)}
	}
	return nil
}

// apply lays the request's settings over the configuration.
func (o Options) apply(c Config) Config {
	if o.Off {
		c.Enabled = false
	}
	if o.Techniques != nil {
		c.Techniques = o.Techniques
	}
	if o.TargetRatio != nil {
		c.TargetRatio = *o.TargetRatio
	}
	if o.QualityThreshold != nil {
		c.QualityThreshold = *o.QualityThreshold
	}
	if o.PreserveMeaning != nil {
		c.PreserveMeaning = *o.PreserveMeaning
	}
	return c
}
