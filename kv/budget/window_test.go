package budget

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := location(name)
	require.NoError(t, err)
	return z
}

func moment(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	require.NoError(t, err)
	return at
}

func TestSpanAt(t *testing.T) {
	for _, c := range []struct {
		name              string
		scope             Scope
		zone, now         string
		wantStart, wantTo string
	}{
		{"minute", Minute, "UTC", "2026-11-23T10:11:12Z", "2026-11-23T10:11:00Z", "2026-11-23T10:12:00Z"},
		{"hour of a half zone", Hour, "Asia/Kolkata", "2026-11-23T10:11:12Z", "2026-11-23T09:30:00Z", "2026-11-23T10:30:00Z"},
		{"day", Day, "Europe/Berlin", "2026-11-23T23:30:00Z", "2026-11-23T23:00:00Z", "2026-11-24T23:00:00Z"},
		{"day of 23 hours", Day, "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"},
		{"day of 25 hours", Day, "Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"},
		{"hour before the clock goes back", Hour, "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z"},
		{"the same hour again", Hour, "Europe/Berlin", "2026-10-25T01:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"},
		{"day without a midnight", Day, "America/Sao_Paulo", "2018-11-04T12:00:00Z", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"},
		{"day before that", Day, "America/Sao_Paulo", "2018-11-04T02:59:59Z", "2018-11-03T03:00:00Z", "2018-11-04T03:00:00Z"},
		{"month", Month, "America/New_York", "2026-12-31T23:00:00Z", "2026-12-01T05:00:00Z", "2027-01-01T05:00:00Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := spanAt(c.scope, zone(t, c.zone), moment(t, c.now))
			require.Equal(t, c.wantStart, time.Unix(s.start, 0).UTC().Format(time.RFC3339))
			require.Equal(t, c.wantTo, s.resetsAt().Format(time.RFC3339))
		})
	}
	require.True(t, spanAt(Total, time.UTC, time.Now()).resetsAt().IsZero())
}

// TestSpansTile checks that windows follow each other without a gap or overlap,
// in zones with all kinds of changes of the clock.
func TestSpansTile(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, name := range []string{"UTC", "Europe/Berlin", "Asia/Kathmandu", "America/Sao_Paulo", "Australia/Lord_Howe", "America/Havana", "Asia/Beirut"} {
		z := zone(t, name)
		for range 2000 {
			now := time.Unix(1_500_000_000+random.Int64N(400_000_000), random.Int64N(1e9))
			for _, scope := range Scopes[:4] {
				s := spanAt(scope, z, now)
				require.True(t, s.contains(now.Unix()), "%s of %v in %s", scope, now, name)
				next := spanAt(scope, z, s.resetsAt())
				require.Equal(t, s.end, next.start, "%s after %v in %s", scope, now, name)
				require.Equal(t, s, spanAt(scope, z, time.Unix(s.start, 0)))
				require.Equal(t, s, spanAt(scope, z, time.Unix(s.end-1, 0)))
			}
		}
	}
}
