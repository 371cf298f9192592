// Package units holds the two quantities that a configuration states with a
// unit: sizes such as 256MB and durations such as 30s.
package units

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Bytes is a size in bytes. Its text is a number with one of the units B, KB,
// MB, GB and TB (KiB, MiB, GiB and TiB mean the same), in steps of 1,024 as in
// nats.conf; a number alone counts bytes.
type Bytes int64

// Sizes of one unit.
const (
	KB Bytes = 1 << 10
	MB Bytes = 1 << 20
	GB Bytes = 1 << 30
	TB Bytes = 1 << 40
)

// sizes lists the units from the largest to the smallest.
var sizes = []struct {
	name string
	size Bytes
}{{"TB", TB}, {"GB", GB}, {"MB", MB}, {"KB", KB}, {"B", 1}}

// ParseBytes reads a size. Fractions such as 1.5GB are rounded down to bytes;
// negative sizes and sizes past 8 EiB are errors.
func ParseBytes(s string) (Bytes, error) {
	text := strings.TrimSpace(s)
	digits := strings.TrimRight(text, "BKMGTkmgtib ")
	unit, ok := unitSize(strings.TrimSpace(text[len(digits):]))
	if !ok || digits == "" || strings.Trim(digits, "0123456789.") != "" {
		return 0, fmt.Errorf("%.40q is not a size like 512KB, 256MB, 4GB or a number of bytes", s)
	}
	if n, err := strconv.ParseInt(digits, 10, 64); err == nil {
		if n > math.MaxInt64/int64(unit) {
			return 0, fmt.Errorf("%.40q is larger than a size can be", s)
		}
		return Bytes(n) * unit, nil
	}
	f, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		return 0, fmt.Errorf("%.40q is not a size like 512KB, 256MB, 4GB or a number of bytes", s)
	}
	if f*float64(unit) >= math.MaxInt64 {
		return 0, fmt.Errorf("%.40q is larger than a size can be", s)
	}
	return Bytes(f * float64(unit)), nil
}

func unitSize(name string) (Bytes, bool) {
	name = strings.ToUpper(name)
	if len(name) == 3 && name[1] == 'I' {
		name = name[:1] + name[2:]
	}
	if name == "" {
		return 1, true
	}
	for _, u := range sizes {
		if u.name == name {
			return u.size, true
		}
	}
	return 0, false
}

// String gives the size in the largest unit that states it exactly.
func (b Bytes) String() string {
	if b == 0 {
		return "0B"
	}
	for _, u := range sizes {
		if b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}

// Short gives the size for people, rounded to a tenth of its unit: 950B, 17.9KB,
// 58.5GB.
func (b Bytes) Short() string {
	for _, u := range sizes {
		if b < u.size || u.size == 1 {
			continue
		}
		n := float64(b) / float64(u.size)
		return strings.TrimSuffix(strconv.FormatFloat(n, 'f', 1, 64), ".0") + u.name
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}

// MarshalText implements encoding.TextMarshaler.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bytes) UnmarshalText(text []byte) (err error) {
	*b, err = ParseBytes(string(text))
	return err
}

// Duration is a span of time. Its text is that of time.ParseDuration, as in
// 1s, 5m or 168h; a number without a unit is an error, except 0.
type Duration time.Duration

// ParseDuration reads a duration that is not negative.
func ParseDuration(s string) (Duration, error) {
	d, err := time.ParseDuration(strings.TrimSpace(s))
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%.40q is not a duration like 500ms, 30s, 5m or 168h", s)
	}
	return Duration(d), nil
}

// Std gives the duration as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String gives the duration without parts that are zero: 1h, not 1h0m0s.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) (err error) {
	*d, err = ParseDuration(string(text))
	return err
}
