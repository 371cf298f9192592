package providers

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret is a text that must not be shown. However it is printed, encoded or
// logged, it shows as <secret>; only a conversion to string gives the text.
// The empty Secret shows as nothing, so that one sees that it is not set.
// Keep it in exported fields alone: fmt prints unexported ones without asking.
type Secret string

const hidden = "<secret>"

func (s Secret) shown() string {
	if s == "" {
		return ""
	}
	return hidden
}

// String implements fmt.Stringer.
func (s Secret) String() string { return s.shown() }

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return s.shown() }

// Format implements fmt.Formatter, for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.shown()) }

// MarshalText implements encoding.TextMarshaler: JSON, XML, and keys of maps.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.shown()), nil }

// MarshalYAML implements the YAML encoder's interface.
func (s Secret) MarshalYAML() (any, error) { return s.shown(), nil }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.shown()) }
