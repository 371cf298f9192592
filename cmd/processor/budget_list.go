package main

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/adpa/processor/kv/budget"
)

type budgetListCmd struct {
	Tenant string `placeholder:"TENANT" help:"Only this tenant's; else those of all."`
	By     string `placeholder:"model|day" help:"What was used by model or by day, as far back as it is kept, in place of the limits."`
	Since  string `placeholder:"DATE" help:"With --by, only what was used from this day of UTC on, as in 2026-11-01."`
	CSV    bool   `name:"csv" xor:"form" help:"Print CSV."`
	JSON   bool   `name:"json" xor:"form" help:"Print JSON, one object a line."`
}

// Run prints the limits, or the usage report.
func (c *budgetListCmd) Run(a *app) error {
	if err := c.validate(); err != nil {
		return err
	}
	b, err := a.budgetBook()
	if err != nil {
		return err
	}
	defer b.close()
	tenants, err := b.known(c.Tenant)
	if err != nil {
		return err
	}
	if c.By != "" {
		return c.usage(a, b, tenants)
	}
	return c.limits(a.stdout, b.List(c.Tenant))
}

func (c *budgetListCmd) validate() error {
	if c.Tenant != "" {
		if err := validTenant(c.Tenant); err != nil {
			return err
		}
	}
	if c.By != "" && c.By != "model" && c.By != "day" {
		return wrongUse(fmt.Errorf("--by: %.40q is neither model nor day", c.By), "--by model")
	}
	if c.Since == "" {
		return nil
	}
	if c.By == "" {
		return wrongUse(errors.New("--since goes with --by: limits are those of now"), "processor budget list --by day --since "+time.Now().UTC().Format(time.DateOnly))
	}
	if _, err := time.Parse(time.DateOnly, c.Since); err != nil {
		return wrongUse(fmt.Errorf("--since: %.40q is no date", c.Since), "--since "+time.Now().UTC().Format(time.DateOnly))
	}
	return nil
}

func (c *budgetListCmd) limits(w io.Writer, list []budget.Status) error {
	switch {
	case c.JSON:
		return printJSON(w, list)
	case c.CSV:
		return writeCSV(w, limitColumns, forPrograms.rows(list))
	case len(list) == 0:
		_, err := fmt.Fprintln(w, "no limits; budgets: in the configuration or processor budget set makes some")
		return err
	}
	return writeTable(w, limitColumns, forPeople.rows(list))
}

// limitColumns are those of the table and of CSV. A row with a model is its
// share of the limit above.
var limitColumns = []string{"tenant", "window", "unit", "model", "limit", "used", "open", "lost", "of_limit", "resets", "on_exhausted", "set"}

// limitForm is how the cells of a limit are written: for people or for programs.
type limitForm struct {
	unit   func(budget.Unit) string
	number func(budget.Quantity) string
	part   func(used, limit budget.Quantity) string
	time   func(time.Time) string
}

var forPeople = limitForm{
	unit:   func(budget.Unit) string { return "" }, // stands with each number
	number: budget.Quantity.String,
	part: func(used, limit budget.Quantity) string {
		return strconv.FormatFloat(100*float64(used.N)/float64(max(limit.N, 1)), 'f', 1, 64) + "%"
	},
	time: local,
}

var forPrograms = limitForm{
	unit: func(u budget.Unit) string { return string(u) },
	number: func(q budget.Quantity) string {
		text, _ := q.MarshalJSON() // never fails
		return string(text)
	},
	part: func(used, limit budget.Quantity) string {
		return strconv.FormatFloat(float64(used.N)/float64(max(limit.N, 1)), 'f', 4, 64)
	},
	time: func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.Format(time.RFC3339)
	},
}

func (f *limitForm) rows(list []budget.Status) [][]string {
	var rows [][]string
	for _, s := range list {
		set := "configuration"
		if s.Set {
			set = "run time"
		}
		row := func(model string, limit budget.Quantity, used ...string) {
			cells := append([]string{s.Tenant, string(s.Window), f.unit(s.Unit), model, f.number(limit)}, used...)
			rows = append(rows, append(cells, f.time(s.ResetsAt), string(s.OnExhausted), set))
		}
		if !slices.Contains(budget.Scopes, s.Window) { // of one request: nothing adds up
			row("", s.Limit, "", "", "", "")
			continue
		}
		row("", s.Limit, f.number(s.Settled), f.number(s.Open), f.number(s.Lost), f.part(s.Settled, s.Limit))
		for _, m := range s.Models {
			row(m.Model, m.Share, f.number(m.Settled), f.number(m.Open), "", f.part(m.Settled, m.Share))
		}
	}
	return rows
}

// usageRow is a line of the usage report.
type usageRow struct {
	Tenant string `json:"tenant"`
	Date   string `json:"date,omitempty"` // of UTC
	Model  string `json:"model,omitempty"`
	budget.Amount
	Lost budget.Amount `json:"lost"` // of it, for calls whose outcome is unknown
}

func (c *budgetListCmd) usage(a *app, b *budgetBook, tenants []string) error {
	var rows []usageRow
	for _, tenant := range tenants {
		used, err := b.Usage(a.ctx, tenant)
		if err != nil {
			return err
		}
		rows = append(rows, c.sum(used)...)
	}
	switch {
	case c.JSON:
		return printJSON(a.stdout, rows)
	case c.CSV:
		return writeCSV(a.stdout, c.usageColumns(), c.usageRows(rows, budget.USD.String))
	case len(rows) == 0:
		_, err := fmt.Fprintln(a.stdout, "nothing was used under a budget")
		return err
	}
	return writeTable(a.stdout, c.usageColumns(), c.usageRows(rows, func(u budget.USD) string { return "$" + u.String() }))
}

// sum adds up a tenant's usage by model or by day, in that order.
func (c *budgetListCmd) sum(used []budget.Used) []usageRow {
	var rows []usageRow
	at := map[string]int{}
	for _, u := range used {
		if u.Date < c.Since {
			continue
		}
		row := usageRow{Tenant: u.Tenant, Date: u.Date}
		if c.By == "model" {
			row = usageRow{Tenant: u.Tenant, Model: u.Model}
		}
		key := row.Date + row.Model
		i, known := at[key]
		if !known {
			i = len(rows)
			at[key] = i
			rows = append(rows, row)
		}
		add(&rows[i].Amount, u.Amount)
		add(&rows[i].Lost, u.Lost)
	}
	slices.SortFunc(rows, func(a, b usageRow) int { return cmp.Or(cmp.Compare(a.Date, b.Date), cmp.Compare(a.Model, b.Model)) })
	return rows
}

func add(to *budget.Amount, a budget.Amount) {
	to.Tokens += a.Tokens
	to.Cost += a.Cost
	to.Requests += a.Requests
}

func (c *budgetListCmd) usageColumns() []string {
	return []string{"tenant", cmp.Or(map[string]string{"day": "date"}[c.By], c.By), "requests", "tokens", "usd", "lost_tokens", "lost_usd"}
}

func (c *budgetListCmd) usageRows(list []usageRow, money func(budget.USD) string) [][]string {
	rows := make([][]string, len(list))
	for i, u := range list {
		rows[i] = []string{u.Tenant, u.Date + u.Model, strconv.FormatInt(u.Requests, 10), strconv.FormatInt(u.Tokens, 10),
			money(u.Cost), strconv.FormatInt(u.Lost.Tokens, 10), money(u.Lost.Cost)}
	}
	return rows
}

// writeTable aligns columns for people. Columns that are empty throughout are left out.
func writeTable(w io.Writer, columns []string, rows [][]string) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var shown []int
	for i := range columns {
		if slices.ContainsFunc(rows, func(row []string) bool { return row[i] != "" }) {
			shown = append(shown, i)
		}
	}
	heads := make([]string, len(columns))
	for i, column := range columns {
		heads[i] = strings.ToUpper(strings.ReplaceAll(column, "_", " "))
	}
	for _, row := range append([][]string{heads}, rows...) {
		cells := make([]string, len(shown))
		for k, i := range shown {
			cells[k] = row[i]
		}
		fmt.Fprintln(table, strings.TrimRight(strings.Join(cells, "\t"), "\t"))
	}
	return table.Flush()
}

func writeCSV(w io.Writer, columns []string, rows [][]string) error {
	out := csv.NewWriter(w)
	if err := out.WriteAll(append([][]string{columns}, rows...)); err != nil { // flushes
		return fmt.Errorf("writing CSV: %w", err)
	}
	return nil
}
