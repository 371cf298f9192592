package budget

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// USD is an amount of money in nano-dollars, so that sums are exact. In JSON
// and YAML it is a decimal number of dollars with at most nine decimals.
type USD int64

// Dollar is one US dollar.
const Dollar USD = 1_000_000_000

// maxDollars bounds an amount, so that sums of a few cannot overflow.
const maxDollars = int64(maxQuantity) / int64(Dollar)

// ParseUSD reads a decimal number of dollars such as 12, 0.5 or 0.000000001.
func ParseUSD(s string) (USD, error) {
	text := strings.TrimSpace(s)
	whole, fraction, _ := strings.Cut(text, ".")
	digits := strings.TrimRight(fraction, "0")
	if whole+fraction == "" || strings.Trim(whole+fraction, "0123456789") != "" {
		return 0, fmt.Errorf("%.40q is not an amount of US dollars such as 12.50", s)
	}
	if len(digits) > 9 {
		return 0, fmt.Errorf("%.40q has more than nine decimals", s)
	}
	var dollars, nanos int64
	var err error
	if whole != "" {
		if dollars, err = strconv.ParseInt(whole, 10, 64); err != nil || dollars >= maxDollars {
			return 0, fmt.Errorf("%.40q is more than %d dollars", s, maxDollars)
		}
	}
	if digits != "" {
		nanos, _ = strconv.ParseInt(digits+strings.Repeat("0", 9-len(digits)), 10, 64) // nine digits at most
	}
	return USD(dollars)*Dollar + USD(nanos), nil
}

// FromDollars gives the nearest amount to a number of dollars; what is negative
// or no number is 0.
func FromDollars(dollars float64) USD {
	if !(dollars > 0) { // false for NaN
		return 0
	}
	return USD(math.Round(min(dollars, float64(maxDollars)) * float64(Dollar)))
}

// Dollars gives the amount as a number of dollars, for display.
func (u USD) Dollars() float64 { return float64(u) / float64(Dollar) }

// String writes the exact decimal, as 12.5.
func (u USD) String() string {
	sign := ""
	if u < 0 {
		sign, u = "-", -u
	}
	text := fmt.Sprintf("%s%d.%09d", sign, u/Dollar, u%Dollar)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

// UnmarshalYAML reads a decimal number of dollars.
func (u *USD) UnmarshalYAML(text []byte) (err error) {
	*u, err = ParseUSD(strings.Trim(strings.TrimSpace(string(text)), `"'`))
	return err
}

// MarshalYAML writes a decimal number of dollars.
func (u USD) MarshalYAML() ([]byte, error) { return []byte(u.String()), nil }

// MarshalJSON writes a decimal number of dollars.
func (u USD) MarshalJSON() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalJSONFrom reads a decimal number of dollars.
func (u *USD) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	value, err := dec.ReadValue()
	if err != nil {
		return err
	}
	if value.Kind() != '0' {
		return errors.New("an amount of US dollars is a number such as 12.50")
	}
	*u, err = ParseUSD(string(value))
	return err
}
