package main

import (
	"cmp"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/adpa/processor/internal/tokens"
	"github.com/adpa/processor/schemas"
)

// tokensCmd counts tokens.
type tokensCmd struct {
	File  []string `arg:"" optional:"" help:"Texts, or .jsonl files of requests (batch lines or bodies); nothing or - reads a text from standard input."`
	Model string   `placeholder:"MODEL" help:"Count as this model does; else as the request's own, or gpt-4o."`
	jsonFlag
}

// defaultModel is the model that a text without one is counted for.
const defaultModel = "gpt-4o"

// counted is a row of the command's output.
type counted struct {
	File     string  `json:"file"`
	Line     int     `json:"line,omitempty"` // of a .jsonl file
	CustomID string  `json:"custom_id,omitempty"`
	Model    string  `json:"model"`
	Tokens   int     `json:"tokens"`
	Messages int     `json:"messages,omitempty"` // of the tokens, those of messages with their overhead
	Tools    int     `json:"tools,omitempty"`
	Images   int     `json:"images,omitempty"`
	CostUSD  float64 `json:"cost_usd"` // as a prompt; 0 where no price is known
	Error    string  `json:"error,omitempty"`
}

// Run counts each file, or each request of it, and the sum.
func (c *tokensCmd) Run(a *app) error {
	cfg, err := a.load()
	if err != nil {
		return err
	}
	counter, err := tokens.NewCounter(countingRules(cfg))
	if err != nil {
		return err
	}
	t := &tokenTable{app: a, json: c.JSON, prices: priceList(cfg), counter: counter, model: c.Model}
	files := c.File
	if len(files) == 0 {
		files = []string{"-"}
	}
	for _, name := range files {
		if err := t.file(name); err != nil {
			return errors.Join(err, t.end())
		}
	}
	if err := t.end(); err != nil {
		return err
	}
	if t.failed {
		return errFailed
	}
	return nil
}

// tokenTable prints rows as they are counted.
type tokenTable struct {
	app     *app
	json    bool
	model   string
	prices  tokens.Prices
	counter *tokens.Counter
	table   *tabwriter.Writer
	rows    int
	total   int
	cost    float64
	failed  bool
}

func (t *tokenTable) file(name string) error {
	in, err := t.app.openSource(name)
	if err != nil {
		return err
	}
	defer in.reader.Close()
	if in.lines() {
		return in.each(func(e entry) error { return t.request(in.name, e) })
	}
	text, err := in.text()
	if err != nil {
		return err
	}
	model := cmp.Or(t.model, defaultModel)
	n, err := t.counter.Text(model, text)
	if err != nil {
		return err
	}
	return t.row(counted{File: in.name, Model: model, Tokens: n})
}

func (t *tokenTable) request(file string, e entry) error {
	line, err := readAsked(e.text)
	row := counted{File: file, Line: e.number, CustomID: line.CustomID, Model: cmp.Or(t.model, modelOf(line.parsed.Model))}
	if err != nil {
		row.Error = schemas.AsError(err).Error()
		t.failed = true
		return t.row(row)
	}
	count := t.counter.Chat
	if line.parsed.Kind == schemas.Embeddings {
		count = t.counter.Embeddings
	}
	n, err := count(row.Model, line.Body)
	if err != nil {
		return fmt.Errorf("%s:%d: %w", file, e.number, err)
	}
	row.Tokens, row.Messages, row.Tools, row.Images = n.Total(), n.Messages, n.Tools, n.Images
	return t.row(row)
}

// modelOf gives the model to count for; auto leaves that open.
func modelOf(requested string) string {
	if requested == "" || requested == "auto" {
		return defaultModel
	}
	return requested
}

func (t *tokenTable) row(r counted) error {
	if price, ok := t.prices.Lookup(r.Model); ok {
		r.CostUSD = price.Cost(r.Tokens, 0, 0)
	}
	t.rows, t.total, t.cost = t.rows+1, t.total+r.Tokens, t.cost+r.CostUSD
	if t.json {
		return printJSON(t.app.stdout, []counted{r})
	}
	if t.table == nil {
		t.table = tabwriter.NewWriter(t.app.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t.table, "INPUT\tMODEL\tTOKENS\tCOST")
	}
	name := r.File
	if r.Line > 0 {
		name = fmt.Sprintf("%s:%d", r.File, r.Line)
	}
	if r.CustomID != "" {
		name += " " + r.CustomID
	}
	if r.Error != "" {
		_, err := fmt.Fprintf(t.table, "%s\t%s\t-\t%s\n", name, r.Model, r.Error)
		return err
	}
	_, err := fmt.Fprintf(t.table, "%s\t%s\t%d\t%s\n", name, r.Model, r.Tokens, dollars(r.CostUSD))
	if t.rows%1000 == 0 {
		err = errors.Join(err, t.table.Flush())
	}
	return err
}

func (t *tokenTable) end() error {
	if t.table == nil {
		return nil
	}
	if t.rows > 1 {
		fmt.Fprintf(t.table, "total\t\t%d\t%s\n", t.total, dollars(t.cost))
	}
	return t.table.Flush()
}

// dollars writes a cost; - where no price is known.
func dollars(usd float64) string {
	if usd == 0 {
		return "-"
	}
	return fmt.Sprintf("$%.6f", usd)
}
