package compress

import (
	"fmt"
	"slices"
	"strings"
)

// Techniques that a configuration or a request may name.
const (
	// Structural runs every pass that loses nothing: JSON, Tables, Logs,
	// Repeats, Ansi and Space. With preserve_meaning false it also runs the
	// passes that lose markup or bulk: HTML, DataURIs and LogSummary.
	Structural = "structural"
	// Semantic keeps the parts of documents, old turns and tool output that the
	// question needs, and drops the rest.
	Semantic = "semantic"

	// JSON writes JSON in fences, in tool results and standing alone without
	// white space, and uniform arrays of objects as a header and rows.
	JSON = "json"
	// Tables removes the padding of Markdown tables.
	Tables = "tables"
	// Logs writes log lines as templates and the values that fill them.
	Logs = "logs"
	// Repeats replaces a block of lines that stood before by a reference to it.
	Repeats = "repeats"
	// Ansi removes terminal escape sequences and zero-width characters.
	Ansi = "ansi"
	// Space shortens runs of blanks and blank lines in prose.
	Space = "space"

	// HTML (lossy) writes HTML pages as text.
	HTML = "html"
	// DataURIs (lossy) replaces base64 payloads by a placeholder.
	DataURIs = "data_uris"
	// LogSummary (lossy) keeps of long logs in tool results the first and last
	// line of each kind, the errors, and counts.
	LogSummary = "log_summary"
	// Comments (lossy) removes comment lines from fenced code, never directives.
	Comments = "comments"
)

var techniques = []string{
	Structural, Semantic, JSON, Tables, Logs, Repeats, Ansi, Space,
	HTML, DataURIs, LogSummary, Comments,
}

// Config is how prompts are compressed when the request does not say.
type Config struct {
	// Enabled switches the stage on. Default true.
	Enabled bool `yaml:"enabled" json:"enabled"`
	// Techniques are structural, semantic, or single passes by name. Default [structural].
	Techniques []string `yaml:"techniques" json:"techniques"`
	// TargetRatio is the share of the compressible tokens that semantic keeps
	// at most, 0 to 1. 0 leaves it to QualityThreshold alone. Default 0.7.
	TargetRatio float64 `yaml:"target_ratio" json:"target_ratio"`
	// QualityThreshold is the preservation that must remain, 0 to 1: semantic
	// makes no removal that would take it below. 0 switches it off. Default 0.9.
	QualityThreshold float64 `yaml:"quality_threshold" json:"quality_threshold"`
	// PreserveMeaning true means that where they disagree the threshold is
	// obeyed, false that the ratio is. Default true.
	PreserveMeaning bool `yaml:"preserve_meaning" json:"preserve_meaning"`
}

// Defaults is the configuration of a deployment that says nothing.
func Defaults() Config {
	return Config{
		Enabled:          true,
		Techniques:       []string{Structural},
		TargetRatio:      0.7,
		QualityThreshold: 0.9,
		PreserveMeaning:  true,
	}
}

// Validate reports the first setting that is out of range and what is allowed.
func (c Config) Validate() error {
	if err := validTechniques(c.Techniques); err != nil {
		return err
	}
	if err := validShare("target_ratio", c.TargetRatio); err != nil {
		return err
	}
	return validShare("quality_threshold", c.QualityThreshold)
}

func validTechniques(names []string) error {
	for _, name := range names {
		if !slices.Contains(techniques, name) {
			return &FieldError{Field: "techniques", Reason: fmt.Sprintf(
				"unknown technique %.40q; known are %s", name, strings.Join(techniques, ", "))}
		}
	}
	return nil
}

func validShare(field string, v float64) error {
	if v >= 0 && v <= 1 { // false for NaN
		return nil
	}
	return &FieldError{Field: field, Reason: fmt.Sprintf("%v is out of range; allowed is 0 to 1", v)}
}

// FieldError names the setting that is wrong, relative to the compress object,
// and what would be right.
type FieldError struct {
	Field  string
	Reason string
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Reason }
