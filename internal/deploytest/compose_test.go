package deploytest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/units"
	"github.com/adpa/processor/stages"
)

func TestEveryServiceIsConfined(t *testing.T) {
	for name, s := range compose(t).Services {
		require.True(t, s.ReadOnly, "%s: read_only", name)
		require.Equal(t, []string{"ALL"}, s.CapDrop, "%s: cap_drop", name)
		require.Equal(t, []string{"no-new-privileges:true"}, s.SecurityOpt, "%s: security_opt", name)
		require.NotEmpty(t, s.MemLimit, "%s: mem_limit", name)
		for _, p := range s.Ports {
			require.True(t, strings.HasPrefix(p, "127.0.0.1:"), "%s publishes %s to the whole network", name, p)
		}
		if s.Image != "processor" { // which is built
			require.Regexp(t, `:v?\d+\.\d+\.\d+`, s.Image, "%s: an image without a version changes by itself", name)
		}
		files, _ := s.mounts()
		for target, source := range files {
			_, err := os.Stat(filepath.Join(root, source))
			require.NoError(t, err, "%s: %s", name, target)
		}
	}
}

func TestTheReplicasRunEveryStageBetweenThem(t *testing.T) {
	var run []string
	for _, s := range compose(t).Services {
		if at := slices.Index(s.Command, "--stages"); at >= 0 {
			run = append(run, strings.Split(s.Command[at+1], ",")...)
		}
	}
	require.ElementsMatch(t, stages.Names, run)
}

func TestTheReplicasConfigurationFitsTheServers(t *testing.T) {
	t.Setenv("PROCESSOR_PASSWORD", passwords["PROCESSOR_PASSWORD"])
	cfg, err := config.Load(filepath.Join(root, "deploy/processor.yaml"))
	require.NoError(t, err)
	require.Equal(t, 3, cfg.NATS.Replicas)
	for _, p := range cfg.ProviderList() {
		require.Equal(t, "simulated", p.Kind, "nothing is paid before somebody decides so")
	}

	allowed := regexp.MustCompile(`max_file_store: (\d+GB)`).FindSubmatch(readFile(t, "nats.conf"))
	require.NotNil(t, allowed)
	most, err := units.ParseBytes(string(allowed[1]))
	require.NoError(t, err)
	s := cfg.Streams
	sum := s.Requests.MaxBytes + s.Archive.MaxBytes + 4*s.Stage.MaxBytes + 2*s.Responses.MaxBytes + s.Dead.MaxBytes + cfg.Cache.MaxSize
	require.Less(t, sum, most, "the streams may hold more than a server, which has a copy of each")

	for name, service := range compose(t).Services {
		if service.Image != "processor" {
			continue
		}
		limit, err := units.ParseBytes(strings.ToUpper(service.MemLimit) + "B")
		require.NoError(t, err)
		require.Greater(t, limit, cfg.Resources.MaxMemory, "%s: the container ends before the process pulls less", name)
	}
}

func TestPrometheusAsksEveryReplica(t *testing.T) {
	var c struct {
		ScrapeConfigs []struct {
			JobName string `yaml:"job_name"`
			DNS     []struct {
				Names []string `yaml:"names"`
			} `yaml:"dns_sd_configs"`
		} `yaml:"scrape_configs"`
	}
	require.NoError(t, yaml.Unmarshal(readFile(t, "deploy/prometheus/prometheus.yml"), &c))
	var asked, replicas []string
	for _, job := range c.ScrapeConfigs {
		for _, sd := range job.DNS {
			asked = append(asked, sd.Names...)
		}
	}
	for name, s := range compose(t).Services {
		if s.Image == "processor" && s.Command[0] == "run" {
			replicas = append(replicas, name)
		}
	}
	require.ElementsMatch(t, replicas, asked)
}

// Each alert leads to an entry of the runbook, and each entry is of an alert.
func TestEveryAlertHasARunbook(t *testing.T) {
	entries := map[string]bool{}
	_, runbook, found := strings.Cut(string(readFile(t, "docs/operations.md")), "\n## Runbook\n")
	require.True(t, found, "docs/operations.md has no Runbook")
	runbook, _, _ = strings.Cut(runbook, "\n## ")
	for _, entry := range strings.Split(runbook, "\n### ")[1:] {
		name, text, _ := strings.Cut(entry, "\n")
		entries[name] = true
		for _, part := range []string{"**Means**", "**Look**", "**Do**"} {
			require.Contains(t, text, part, "the entry %s", name)
		}
	}
	alerts := 0
	for _, r := range alertRules(t) {
		if r.Alert == "" {
			continue
		}
		alerts++
		require.True(t, entries[r.Alert], "the runbook has no entry %s", r.Alert)
		require.Equal(t, "docs/operations.md#"+strings.ToLower(r.Alert), r.Annotations["runbook"])
		require.NotEmpty(t, r.Annotations["summary"], r.Alert)
		require.Contains(t, []string{"warning", "critical"}, r.Labels["severity"], r.Alert)
	}
	require.Len(t, entries, alerts, "an entry of the runbook is of no alert")
}

func TestTheDashboardIsWhole(t *testing.T) {
	d := readDashboard(t)
	require.Equal(t, "processor", d.UID)
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		require.False(t, ids[p.ID], "%s: its id is taken", p.Title)
		ids[p.ID] = true
		require.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24, "%s: beyond the right edge", p.Title)
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				require.Empty(t, taken[at], "%s lies over another panel", p.Title)
				taken[at] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		require.Contains(t, []string{"stat", "timeseries"}, p.Type)
		require.Equal(t, "prometheus", p.Datasource.UID, "%s: the data source that is provisioned", p.Title)
		require.NotEmpty(t, p.Description, p.Title)
		require.NotEmpty(t, p.FieldConfig.Defaults.Unit, p.Title)
		require.NotEmpty(t, p.Targets, p.Title)
	}
	require.Contains(t, string(readFile(t, "deploy/grafana/provisioning/datasources/prometheus.yml")), "uid: prometheus")
	grafana := compose(t).Services["grafana"]
	files, _ := grafana.mounts()
	require.Equal(t, "./deploy/grafana/dashboards", files["/etc/grafana/dashboards"])
	require.Contains(t, string(readFile(t, "deploy/grafana/provisioning/dashboards/processor.yml")), "path: /etc/grafana/dashboards")
}
