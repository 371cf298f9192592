package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/fakellm"
	"github.com/adpa/processor/stages/tune"
)

// parametersOf is what a response says that was set.
func parametersOf(t *testing.T, a answer) string {
	t.Helper()
	var body struct {
		Processor struct{ Parameters json.RawMessage }
	}
	require.NoError(t, json.Unmarshal([]byte(a.raw), &body), a.raw)
	return string(body.Processor.Parameters)
}

func tuneHarbours(c *config.Config) {
	c.Models = append(c.Models, configModel("gpt-4o"))
	c.Tune.Enabled, c.Tune.Parameters = true, []string{"temperature"}
	c.Tune.Ranges = map[string]tune.Range{"temperature": {Min: 0.2, Max: 0.8, Steps: 2}}
}

func TestParametersAreTunedSharedAndKept(t *testing.T) {
	t.Parallel()
	p := newTestPipeline(t, fakellm.Config{Respond: func(c fakellm.Call) *fakellm.Step {
		if strings.Contains(string(c.Body), `"temperature":0.2`) {
			return saying(goodText)
		}
		return saying(brokenText)
	}}, tuneHarbours)
	stop := p.start()
	n := 0
	found := func(id string) bool {
		p.publish(id, asking(id, `{"route":"harbour"}`))
		return parametersOf(t, p.await(id)) == `{"temperature":0.2}`
	}
	for all := false; !all; { // until nothing else is tried any more
		require.Less(t, n, 3000)
		all = true
		for range 30 {
			p.publish(fmt.Sprintf("t%d", n), asking(fmt.Sprintf("t%d", n), `{"route":"harbour"}`))
			n++
		}
		for i := n - 30; i < n; i++ {
			all = parametersOf(t, p.await(fmt.Sprintf("t%d", i))) == `{"temperature":0.2}` && all
		}
	}
	require.GreaterOrEqual(t, n, 90, "each setting has its trials")

	p.publish("own", strings.Replace(asking("own", `{"route":"harbour"}`), `{"model"`, `{"temperature":0.9,"model"`, 1))
	require.Empty(t, parametersOf(t, p.await("own")), "what a request sets itself is never touched")
	p.publish("not", asking("not", `{"route":"harbour","tune":false}`))
	require.Empty(t, parametersOf(t, p.await("not")))
	p.publish("odd", asking("odd", `{"tune":{"parameters":["n"]}}`))
	require.Equal(t, "invalid_field", p.await("odd").Error.Code)

	stop()
	p.registry = prometheus.NewRegistry()
	p.start() // another process, which has observed nothing
	for i := range 5 {
		require.True(t, found(fmt.Sprintf("later%d", i)))
	}
}

func TestAModelThatTakesNoTemperatureIsLeftAlone(t *testing.T) {
	t.Parallel()
	p := newTestPipeline(t, fakellm.Config{Respond: func(c fakellm.Call) *fakellm.Step {
		if strings.Contains(string(c.Body), `"temperature"`) {
			return &fakellm.Step{Status: 400}
		}
		return saying(goodText)
	}}, tuneHarbours)
	p.start()
	for i := range 20 {
		id := fmt.Sprintf("r%d", i)
		p.publish(id, asking(id, `{}`))
		require.Len(t, p.await(id).Choices, 1)
	}
	require.EqualValues(t, 21, p.upstream.Stats().Calls, "refused once, and not set again")
}
