// Package deploytest tests what a deployment is made of by running it: the
// Dockerfile, docker-compose.yml, and what Prometheus and Grafana read. What
// needs root and other programs runs with PROCESSOR_DEPLOY=1 (.ci/deploy).
package deploytest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
)

const root = "../.."

// passwords are those that docker-compose.yml takes from .env.
var passwords = map[string]string{
	"SYS_PASSWORD": "psys", "PROCESSOR_PASSWORD": "pprocessor", "ACME_PASSWORD": "pacme",
	"BETA_PASSWORD": "pbeta", "ROUTES_PASSWORD": "proutes", "GRAFANA_PASSWORD": "pgrafana",
}

// composeFile is what the tests read of docker-compose.yml.
type composeFile struct {
	Services map[string]service `yaml:"services"`
}

type service struct {
	Image       string            `yaml:"image"`
	Command     []string          `yaml:"command"`
	Environment map[string]string `yaml:"environment"`
	Volumes     []string          `yaml:"volumes"`
	Ports       []string          `yaml:"ports"`
	ReadOnly    bool              `yaml:"read_only"`
	CapDrop     []string          `yaml:"cap_drop"`
	SecurityOpt []string          `yaml:"security_opt"`
	MemLimit    string            `yaml:"mem_limit"`
	Healthcheck struct {
		Test []string `yaml:"test"`
	} `yaml:"healthcheck"`
}

var variable = regexp.MustCompile(`\$\{([A-Z_]+):\?[^}]*\}`)

// interpolate puts the passwords into the text of docker-compose.yml.
func interpolate(t *testing.T, text []byte) []byte {
	t.Helper()
	return variable.ReplaceAllFunc(text, func(found []byte) []byte {
		name := string(variable.FindSubmatch(found)[1])
		value, ok := passwords[name]
		require.True(t, ok, "docker-compose.yml takes %s, which its first lines do not set", name)
		return []byte(value)
	})
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	require.NoError(t, err)
	return text
}

func compose(t *testing.T) composeFile {
	t.Helper()
	var c composeFile
	require.NoError(t, yaml.UnmarshalWithOptions(interpolate(t, readFile(t, "docker-compose.yml")), &c, yaml.AllowDuplicateMapKey())) // a key may replace one that is merged
	require.NotEmpty(t, c.Services)
	return c
}

// mounts gives the files of the repository, and the volumes, that a service
// sees, by where it sees them.
func (s service) mounts() (files, volumes map[string]string) {
	files, volumes = map[string]string{}, map[string]string{}
	for _, v := range s.Volumes {
		source, rest, _ := strings.Cut(v, ":")
		target, _, _ := strings.Cut(rest, ":")
		if strings.HasPrefix(source, "./") {
			files[target] = source
		} else {
			volumes[target] = source
		}
	}
	return files, volumes
}

// rules is what the tests read of alerts.yml.
type rules struct {
	Groups []struct {
		Rules []rule `yaml:"rules"`
	} `yaml:"groups"`
}

type rule struct {
	Record      string            `yaml:"record"`
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func alertRules(t *testing.T) []rule {
	t.Helper()
	var r rules
	require.NoError(t, yaml.Unmarshal(readFile(t, "deploy/prometheus/alerts.yml"), &r))
	require.Len(t, r.Groups, 1)
	return r.Groups[0].Rules
}

// dashboard is what the tests read of Grafana's.
type dashboard struct {
	UID    string  `json:"uid"`
	Title  string  `json:"title"`
	Panels []panel `json:"panels"`
}

type panel struct {
	ID          int    `json:"id"`
	Type        string `json:"type"`
	Title       string `json:"title"`
	Description string `json:"description"`
	GridPos     struct {
		H, W, X, Y int
	} `json:"gridPos"`
	Datasource  struct{ Type, UID string } `json:"datasource"`
	FieldConfig struct {
		Defaults struct {
			Unit string `json:"unit"`
		} `json:"defaults"`
	} `json:"fieldConfig"`
	Targets []struct {
		RefID string `json:"refId"`
		Expr  string `json:"expr"`
	} `json:"targets"`
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	require.NoError(t, json.Unmarshal(readFile(t, "deploy/grafana/dashboards/processor.json"), &d))
	return d
}
