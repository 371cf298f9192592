package schemas

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// uncached lists the top-level members that do not change an answer, so that
// they are no part of the cache key.
var uncached = map[string]bool{
	"stream": true, "stream_options": true, "store": true, "metadata": true, "user": true,
	"safety_identifier": true, "prompt_cache_key": true, "prompt_cache_retention": true,
	"prompt_cache_options": true, "service_tier": true, "processor": true,
}

// optionsCached lists the members of the processor object that change an answer.
var optionsCached = map[string]bool{
	"template": true, "variables": true, "structure": true, "select": true, "tune": true, "quality": true,
}

// CacheKey is the fingerprint of what was asked: SHA-256, in hex, of the
// canonical JSON of the body without what does not change an answer, and of
// what does in the processor object. Order of members, forms of numbers and of
// strings, and white space do not matter; unknown members do. The body must be
// valid JSON without repeated members.
func CacheKey(body []byte, options []byte) string {
	buf := make([]byte, 0, len(body)+len(options)+16)
	buf = appendCanonicalObject(buf, body, func(name string) bool { return !uncached[name] })
	if len(options) > 0 {
		buf = append(buf, '|')
		buf = appendCanonicalObject(buf, options, func(name string) bool { return optionsCached[name] })
	}
	sum := sha256.Sum256(buf)
	return hex.EncodeToString(sum[:])
}

// AppendCanonical appends the canonical form of a valid JSON value: members
// sorted by name, no white space, strings with the fewest escapes, numbers in
// one form without losing digits.
func AppendCanonical(dst, value []byte) []byte {
	i := skipSpace(value, 0)
	if i >= len(value) {
		return dst
	}
	switch value[i] {
	case '{':
		return appendCanonicalObject(dst, value[i:], nil)
	case '[':
		return appendCanonicalArray(dst, value[i:])
	case '"':
		return appendCanonicalString(dst, value[i:skipString(value, i)])
	case 't', 'f', 'n':
		return append(dst, bytes.TrimSpace(value[i:])...)
	}
	return appendCanonicalNumber(dst, bytes.TrimSpace(value[i:]))
}

func appendCanonicalObject(dst, object []byte, keep func(name string) bool) []byte {
	type member struct {
		name  string
		value Span
	}
	var few [16]member
	members := few[:0]
	sorted := true
	Members(object, func(name []byte, _, value Span) bool {
		text := string(name)
		if strings.IndexByte(text, '\\') >= 0 {
			if plain, err := Unquote([]byte(`"` + text + `"`)); err == nil {
				text = plain
			}
		}
		if keep == nil || keep(text) {
			sorted = sorted && (len(members) == 0 || members[len(members)-1].name < text)
			members = append(members, member{text, value})
		}
		return true
	})
	if !sorted {
		slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.name, b.name) })
	}
	dst = append(dst, '{')
	for i, m := range members {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, Quote(m.name)...)
		dst = append(dst, ':')
		dst = AppendCanonical(dst, m.value.Of(object))
	}
	return append(dst, '}')
}

func appendCanonicalArray(dst, array []byte) []byte {
	dst = append(dst, '[')
	i := skipSpace(array, 1)
	for first := true; i < len(array) && array[i] != ']'; first = false {
		if !first {
			dst = append(dst, ',')
		}
		end := skipValue(array, i)
		dst = AppendCanonical(dst, array[i:end])
		i = skipSpace(array, end)
		if i < len(array) && array[i] == ',' {
			i = skipSpace(array, i+1)
		} else if i == end && end == len(array) {
			break
		}
	}
	return append(dst, ']')
}

func appendCanonicalString(dst, quoted []byte) []byte {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return append(dst, quoted...)
	}
	text, err := Unquote(quoted)
	if err != nil {
		return append(dst, quoted...)
	}
	return append(dst, Quote(text)...)
}

// appendCanonicalNumber writes a number as its digits without leading or
// trailing zeros and a power of ten, which loses nothing at any size:
// 1, 1.0 and 10e-1 are "1"; 9007199254740993 stays what it is.
func appendCanonicalNumber(dst, number []byte) []byte {
	if plainInteger(number) {
		return append(dst, number...)
	}
	sign, digits, exponent, ok := decompose(string(number))
	if !ok {
		return append(dst, number...)
	}
	if digits == "" {
		return append(dst, '0')
	}
	dst = append(dst, sign...)
	dst = append(dst, digits...)
	switch {
	case exponent == 0:
		return dst
	case exponent > 0 && len(digits)+exponent <= 40:
		return append(dst, strings.Repeat("0", exponent)...)
	}
	return fmt.Appendf(dst, "e%d", exponent)
}

func plainInteger(number []byte) bool {
	if len(number) > 40 {
		return false
	}
	for i, c := range number {
		if c < '0' || c > '9' {
			if i != 0 || c != '-' {
				return false
			}
		}
	}
	return len(number) > 0 && (number[0] != '-' || len(number) > 1 && number[1] != '0')
}

// decompose splits a JSON number into a sign, digits that neither begin nor end
// with a zero, and the power of ten that they are multiplied by.
func decompose(number string) (sign, digits string, exponent int, ok bool) {
	if rest, negative := strings.CutPrefix(number, "-"); negative {
		sign, number = "-", rest
	}
	mantissa := number
	if at := strings.IndexAny(number, "eE"); at >= 0 {
		if len(number)-at > 10 {
			return "", "", 0, false
		}
		if _, err := fmt.Sscanf(number[at+1:], "%d", &exponent); err != nil {
			return "", "", 0, false
		}
		mantissa = number[:at]
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	exponent -= len(fraction)
	digits = strings.TrimLeft(whole+fraction, "0")
	trimmed := strings.TrimRight(digits, "0")
	exponent += len(digits) - len(trimmed)
	return sign, trimmed, exponent, true
}
