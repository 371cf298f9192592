// Package archtest holds the direction of the module's imports:
// cmd -> config -> {stages, streams, kv, providers}, streams -> stages -> schemas,
// kv and providers -> schemas.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/adpa/processor"

// rule forbids packages to depend on others. A path that begins with ./ is one of
// this module; every path stands for what is below it too.
type rule struct {
	of     []string
	except []string // of these, those that may
	never  []string
	direct bool // only what a package names itself; else also what comes with that
	why    string
}

const (
	natsClient = "github.com/nats-io/nats.go"
	natsServer = "github.com/nats-io/nats-server"
)

var rules = []rule{{
	of: []string{"./schemas"}, never: []string{"./cmd", "./bench", "./internal", "./kv", "./stages", "./streams", natsClient, natsServer},
	why: "schemas are what all others speak of: they know nobody",
}, {
	of: []string{"./stages"}, never: []string{"./streams", "./kv", "./internal/providers", "./internal/config", "./internal/jsx", natsClient, natsServer},
	why: "a stage is a function of requests; what it needs of the world it declares as a small interface",
}, {
	of: []string{"./stages"}, never: []string{"net", "net/http"}, direct: true,
	why: "a stage calls nobody over the network itself",
}, {
	of: []string{"./streams"}, never: []string{"./kv", "./internal/providers", "./internal/config", "./internal/tokens"},
	why: "the runner runs any stage: it does not know what they keep or whom they call",
}, {
	of: []string{"./streams"}, except: []string{"./streams/embedded"}, never: []string{natsServer},
	why: "an application that imports the client compiles no server",
}, {
	of: []string{"./kv"}, never: []string{"./stages", "./streams", "./internal/providers", "./internal/config"},
	why: "buckets hold what others decide",
}, {
	of: []string{"./internal/providers"}, never: []string{"./stages", "./streams", "./kv", "./internal/config", natsClient, natsServer},
	why: "a provider is an HTTP API and nothing else",
}, {
	of: []string{"./internal/tokens", "./internal/units"}, never: []string{"./cmd", "./bench", "./kv", "./stages", "./streams", "./internal/config", "./internal/providers", natsClient, natsServer},
	why: "these are libraries that anything may use",
}, {
	of: []string{"./schemas", "./stages", "./streams", "./kv", "./internal"}, never: []string{"./cmd", "./bench"},
	why: "cmd and bench put the parts together; no part knows the whole",
}, {
	of: []string{"./schemas", "./stages", "./streams", "./kv", "./internal", "./cmd"}, except: testHelpers,
	never: append([]string{"testing", "github.com/stretchr/testify", "go.uber.org/goleak", "github.com/google/go-cmp", "github.com/rogpeppe/go-internal"}, testHelpers...),
	why:   "what serves users carries nothing that is there for tests",
}}

// testHelpers are the packages that only tests and benchmarks use.
var testHelpers = []string{"./internal/natstest", "./internal/fakellm", "./internal/proc", "./internal/archtest"}

func TestImportsPointOneWay(t *testing.T) {
	graph := load(t)
	for _, r := range rules {
		for _, of := range r.of {
			require.True(t, slices.ContainsFunc(slices.Collect(maps.Keys(graph)), func(p string) bool { return under(p, of) }),
				"a rule is about %s, which is not there: has it moved?", of)
		}
	}
	require.Empty(t, violations(graph, rules))
}

func TestAForbiddenImportIsFound(t *testing.T) {
	graph := map[string][]string{
		module + "/a":        {module + "/b", "net/http"},
		module + "/b":        {"example.com/client/v2"},
		module + "/c":        {"net/http"},
		"net/http":           {"net"},
		module + "/a/helper": {module + "/c"},
		module + "/abc":      {module + "/c"},
	}
	require.Equal(t, []string{
		"./a must not depend on example.com/client: of the broker (./a -> ./b -> example.com/client/v2)",
		"./a/helper must not depend on ./c: no c (./a/helper -> ./c)",
	}, violations(graph, []rule{
		{of: []string{"./a"}, never: []string{"example.com/client"}, why: "of the broker"},
		{of: []string{"./a"}, never: []string{"./c"}, why: "no c"},
		{of: []string{"./a"}, never: []string{"net"}, direct: true, why: "not reached: net comes with net/http"},
		{of: []string{"./c"}, except: []string{"./c"}, never: []string{"net/http"}, why: "excepted"},
	}))
}

// load reads who imports whom, tests left out.
func load(t *testing.T) map[string][]string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Imports", module+"/...").Output()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		require.NoError(t, err, "%s", failed.Stderr)
	}
	require.NoError(t, err)
	graph := map[string][]string{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return graph
		}
		require.NoError(t, err)
		graph[p.ImportPath] = p.Imports
	}
}

// violations lists what breaks the rules, each with the chain of imports.
func violations(graph map[string][]string, rules []rule) []string {
	var found []string
	for _, r := range rules {
		for _, p := range slices.Sorted(maps.Keys(graph)) {
			if !underAny(p, r.of) || underAny(p, r.except) {
				continue
			}
			for _, never := range r.never {
				if chain := reach(graph, p, never, r.direct); chain != nil && !under(p, never) {
					found = append(found, short(p)+" must not depend on "+never+": "+r.why+" ("+strings.Join(chain, " -> ")+")")
				}
			}
		}
	}
	return found
}

// reach gives the shortest chain of imports from p to something under target.
func reach(graph map[string][]string, p, target string, direct bool) []string {
	from := map[string]string{p: ""}
	for queue := []string{p}; len(queue) > 0; queue = queue[1:] {
		for _, next := range graph[queue[0]] {
			if _, seen := from[next]; seen {
				continue
			}
			from[next] = queue[0]
			if matches(next, target, direct) {
				var chain []string
				for at := next; at != ""; at = from[at] {
					chain = append([]string{short(at)}, chain...)
				}
				return chain
			}
			if !direct {
				queue = append(queue, next)
			}
		}
	}
	return nil
}

// matches is under, but for direct imports only the very package.
func matches(p, target string, direct bool) bool {
	if direct {
		return short(p) == target
	}
	return under(p, target)
}

func underAny(p string, paths []string) bool {
	return slices.ContainsFunc(paths, func(path string) bool { return under(p, path) })
}

// under reports whether a package is the given path or below it.
func under(p, path string) bool { return strings.HasPrefix(short(p)+"/", path+"/") }

// short writes a package of this module as ./path.
func short(p string) string {
	if inside, ok := strings.CutPrefix(p, module+"/"); ok {
		return "./" + inside
	}
	return p
}
