//go:build race

package tokens

const (
	raceEnabled = true
	// slower thins out the comparisons with the reference under the race
	// detector, which takes ten times as long and has nothing to find there.
	slower = 10
)
