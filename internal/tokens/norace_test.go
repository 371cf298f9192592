//go:build !race

package tokens

const (
	raceEnabled = false
	slower      = 1
)
