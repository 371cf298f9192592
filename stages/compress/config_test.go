package compress

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDefaultsAreValid(t *testing.T) {
	require.NoError(t, Defaults().Validate())
}

func TestConfigSaysWhatIsWrong(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"technique": {func(c *Config) { c.Techniques = []string{"zip"} }, `techniques: unknown technique "zip"; known are structural, semantic,`},
		"ratio":     {func(c *Config) { c.TargetRatio = 1.5 }, "target_ratio: 1.5 is out of range; allowed is 0 to 1"},
		"threshold": {func(c *Config) { c.QualityThreshold = -1 }, "quality_threshold: -1 is out of range; allowed is 0 to 1"},
	} {
		t.Run(name, func(t *testing.T) {
			config := Defaults()
			tt.change(&config)
			_, err := New(config, func(string) int { return 0 })
			require.ErrorContains(t, err, tt.want)
			var field *FieldError
			require.ErrorAs(t, err, &field)
		})
	}
}

func TestParseOptions(t *testing.T) {
	o, err := ParseOptions([]byte(`{"techniques":["semantic"],"target_ratio":0,"quality_threshold":1,"preserve_meaning":false,"keep":["x"],"query":"y"}`))
	require.NoError(t, err)
	require.Equal(t, 0.0, *o.TargetRatio)
	require.Equal(t, "y", o.Query)
	for _, raw := range []string{"", "null", "true", "{}"} {
		o, err := ParseOptions([]byte(raw))
		require.NoError(t, err)
		require.Equal(t, Options{}, o)
	}
	o, err = ParseOptions([]byte("false"))
	require.NoError(t, err)
	require.True(t, o.Off)
	for raw, want := range map[string]string{
		`[]`:                         "want an object or false",
		`{"ratio":1}`:                "allowed are techniques, target_ratio,",
		`{"target_ratio":"x"}`:       "target_ratio",
		`{"target_ratio":2}`:         "target_ratio: 2 is out of range",
		`{"quality_threshold":1e9}`:  "quality_threshold: 1e+09 is out of range",
		`{"techniques":["x"]}`:       "unknown technique",
		`{"techniques":"semantic"}`:  "techniques",
		`{"keep":["a","a"],"keep":1`: "keep",
	} {
		_, err := ParseOptions([]byte(raw))
		require.ErrorContains(t, err, want, raw)
	}
}
