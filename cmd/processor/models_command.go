package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/calibration"
	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/stages/selection"
)

// modelsCmd shows what was learnt of models.
type modelsCmd struct {
	jsonFlag
	Route string `placeholder:"ROUTE" help:"Only on this route; else over all routes, and then on each."`
}

// Help says what the figures are.
func (*modelsCmd) Help() string {
	return "Quality is the mean score of the answers, older ones counting less, with half of a 90% interval. " +
		"The plot sets it against what a call costs; the models on the frontier are those that none is both better and cheaper than."
}

// modelRow is what models prints of a model on a route.
type modelRow struct {
	Route    string    `json:"route"` // "" is all routes together
	Model    string    `json:"model"`
	Quality  *float64  `json:"quality"` // null where no answer was scored
	Low      float64   `json:"quality_low"`
	High     float64   `json:"quality_high"`
	Answers  float64   `json:"answers"` // that were scored, ever
	Calls    float64   `json:"calls"`   // ever
	Success  float64   `json:"success_rate"`
	P50      float64   `json:"latency_p50_ms"`
	P95      float64   `json:"latency_p95_ms"`
	Output   float64   `json:"output_tokens"`
	CostUSD  float64   `json:"cost_usd"` // of a call, the median
	Frontier bool      `json:"frontier"`
	Updated  time.Time `json:"updated,omitzero"`
}

// Run prints the figures.
func (c *modelsCmd) Run(a *app) error {
	cfg, err := a.load()
	if err != nil {
		return err
	}
	rows, err := modelRows(a, cfg)
	if err != nil {
		return err
	}
	if c.Route != "" {
		rows = slices.DeleteFunc(rows, func(r modelRow) bool { return r.Route != c.Route })
	}
	markFrontiers(rows)
	switch {
	case c.JSON:
		return printJSON(a.stdout, rows)
	case len(rows) == 0 && c.Route != "":
		_, err := fmt.Fprintf(a.stdout, "nothing was measured on route %q; processor models lists the routes\n", c.Route)
		return err
	case len(rows) == 0:
		_, err := fmt.Fprintln(a.stdout, "nothing was measured yet: figures come with the first answers")
		return err
	}
	if err := printModels(a.stdout, rows); err != nil {
		return err
	}
	first := rows[0].Route
	plotModels(a.stdout, slices.DeleteFunc(rows, func(r modelRow) bool { return r.Route != first }))
	return nil
}

// modelRows reads the bucket: over all routes first, then route by route.
func modelRows(a *app, cfg config.Config) ([]modelRow, error) {
	nc, err := a.connect(cfg)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	l, err := openLearnt(a.ctx, js, bucketLayout(cfg).Bucket(kv.BucketModels))
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, hint(err, "processor provision")
	}
	if err != nil {
		return nil, err
	}
	defer l.close()
	rows := []modelRow{}
	now := time.Now()
	l.figures.Each(func(key string, f *selection.Figures) {
		part := strings.Split(key, ".")
		if model, ok := calibration.UnescapeName(part[1]); ok {
			rows = append(rows, newModelRow(routeName(part[0]), model, now, *f))
		}
	})
	slices.SortFunc(rows, func(x, y modelRow) int {
		return cmp.Or(cmp.Compare(x.Route, y.Route), cmp.Compare(value(y.Quality), value(x.Quality)), cmp.Compare(x.Model, y.Model))
	})
	return rows, nil
}

// routeName is what people know a route by.
func routeName(part string) string {
	if part == allRoutes {
		return ""
	}
	if name, ok := calibration.UnescapeName(part); ok {
		return name
	}
	return part // a cluster
}

func value(p *float64) float64 {
	if p == nil {
		return -1
	}
	return *p
}

func newModelRow(route, model string, now time.Time, f selection.Figures) modelRow {
	s := f.Summary(now)
	r := modelRow{
		Route: route, Model: model, Answers: f.Answers, Calls: f.Calls, Success: rounded(s.Success),
		P50: rounded(s.Latency.Seconds() * 1000), P95: rounded(s.Slow.Seconds() * 1000),
		Output: math.Round(s.Output), CostUSD: math.Round(s.CostUSD*1e9) / 1e9, Updated: time.UnixMilli(f.At).UTC(),
	}
	if f.Answers > 0 {
		quality := rounded(s.Quality)
		r.Quality, r.Low, r.High = &quality, rounded(s.Low), rounded(s.High)
	}
	return r
}

func rounded(x float64) float64 { return math.Round(x*1e4) / 1e4 }

// markFrontiers finds on each route the models that none is both better and cheaper than.
func markFrontiers(rows []modelRow) {
	for i := range rows {
		r := &rows[i]
		r.Frontier = r.Quality != nil && !slices.ContainsFunc(rows, func(o modelRow) bool {
			return o.Route == r.Route && o.Quality != nil &&
				*o.Quality >= *r.Quality && o.CostUSD <= r.CostUSD && (*o.Quality > *r.Quality || o.CostUSD < r.CostUSD)
		})
	}
}

func printModels(out io.Writer, rows []modelRow) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ROUTE\tMODEL\tQUALITY\tANSWERS\tFAILED\tP50\tP95\tCOST")
	for _, r := range rows {
		quality := "-"
		if r.Quality != nil {
			quality = fmt.Sprintf("%.2f ±%.2f", *r.Quality, (r.High-r.Low)/2)
		}
		if r.Frontier {
			quality += " *"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%.0f\t%.1f%%\t%s\t%s\t%s\n", cmp.Or(short(r.Route, 14), "(all)"), short(r.Model, 20),
			quality, r.Answers, 100*(1-r.Success), millis(r.P50), millis(r.P95), usdText(r.CostUSD))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, "* on the frontier: no other is both better and cheaper")
	return err
}

// short cuts a name in its middle, for its beginning and its end tell most.
func short(name string, most int) string {
	letters := []rune(strings.ToValidUTF8(name, "?"))
	if len(letters) <= most {
		return string(letters)
	}
	return string(letters[:most/2]) + "…" + string(letters[len(letters)-(most-most/2-1):])
}

func millis(ms float64) string {
	switch {
	case ms == 0:
		return "-"
	case ms < 1:
		return "<1ms"
	case ms < 1000:
		return fmt.Sprintf("%.0fms", ms)
	}
	return fmt.Sprintf("%.1fs", ms/1000)
}

func usdText(usd float64) string {
	if usd == 0 {
		return "-"
	}
	return fmt.Sprintf("$%.3g", usd)
}
