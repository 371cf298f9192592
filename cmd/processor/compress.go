package main

import (
	"bufio"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/internal/tokens"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages/compress"
)

// compressCmd runs the compress stage on a file.
type compressCmd struct {
	File       string   `arg:"" optional:"" help:"A text, or a .jsonl file of requests (batch lines or bodies); nothing or - reads a text from standard input."`
	Query      string   `placeholder:"TEXT" help:"What the text is read for; else the question is looked for in it."`
	Ratio      *float64 `placeholder:"SHARE" help:"The share of the compressible tokens to keep at most; 0 leaves it to the threshold."`
	Threshold  *float64 `placeholder:"SHARE" help:"The preservation that must remain; 0 switches that floor off."`
	Techniques []string `placeholder:"NAME" help:"structural, semantic, or single passes. With a query or a ratio and no techniques: structural,semantic."`
	jsonFlag
}

// compressed is a line of the output for a .jsonl file.
type compressed struct {
	CustomID     string         `json:"custom_id"`
	Body         jsontext.Value `json:"body,omitzero"`
	Text         string         `json:"text,omitzero"`
	Tokens       sentTokens     `json:"tokens"`
	Preservation float64        `json:"preservation"`
}

type sentTokens struct {
	Original int `json:"original"`
	Sent     int `json:"sent"`
}

// failedLine is the line of the output for one that is no request.
type failedLine struct {
	CustomID string             `json:"custom_id"`
	Error    schemas.BatchError `json:"error"`
}

// Run compresses with the settings of the configuration where no flag says otherwise.
func (c *compressCmd) Run(a *app) error {
	cfg, err := a.load()
	if err != nil {
		return err
	}
	encoding, err := tokens.Load("o200k_base")
	if err != nil {
		return err
	}
	cfg.Compress.Enabled = true
	compressor, err := compress.New(cfg.Compress, encoding.Count)
	if err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	options, err := c.options()
	if err != nil {
		return err
	}
	in, err := a.openSource(c.File)
	if err != nil {
		return err
	}
	defer in.reader.Close()
	if in.lines() {
		return c.requests(a, in, compressor, options)
	}
	return c.text(a, in, compressor, options)
}

// options makes what a request would say, and has it checked as one.
func (c *compressCmd) options() (compress.Options, error) {
	o := compress.Options{Techniques: c.Techniques, TargetRatio: c.Ratio, QualityThreshold: c.Threshold, Query: c.Query}
	if len(o.Techniques) == 0 && (c.Query != "" || c.Ratio != nil) {
		o.Techniques = []string{compress.Structural, compress.Semantic}
	}
	raw, err := json.Marshal(&o)
	if err != nil {
		return o, fmt.Errorf("encoding the options: %w", err)
	}
	if o, err = compress.ParseOptions(raw); err != nil {
		return o, wrongUse(err, "processor compress FILE --query TEXT --ratio 0.25 --threshold 0.9 --techniques structural,semantic")
	}
	return o, nil
}

func (c *compressCmd) text(a *app, in source, compressor *compress.Compressor, options compress.Options) error {
	text, err := in.text()
	if err != nil {
		return err
	}
	r := compressor.Text(text, c.Query, options)
	if c.JSON {
		line, err := json.Marshal(&compressed{Text: r.Text, Tokens: sentTokens{r.Original, r.Sent}, Preservation: r.Preservation})
		if err != nil {
			return fmt.Errorf("encoding the output: %w", err)
		}
		_, err = fmt.Fprintf(a.stdout, "%s\n", line)
		return err
	}
	if _, err := fmt.Fprint(a.stdout, r.Text); err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "tokens %d -> %d, preservation %.2f\n", r.Original, r.Sent, r.Preservation)
	return nil
}

func (c *compressCmd) requests(a *app, in source, compressor *compress.Compressor, options compress.Options) error {
	counter, err := tokens.NewCounter(tokens.DefaultTable())
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(a.stdout, 64<<10)
	failed := false
	err = in.each(func(e entry) error {
		line, err := readAsked(e.text)
		if err != nil {
			failed = true
			return writeJSON(out, &failedLine{line.CustomID, *schemas.NewBatchFailure(line.CustomID, e.number, err).Error})
		}
		row := compressed{CustomID: line.CustomID, Body: line.Body, Preservation: 1}
		if line.parsed.Kind == schemas.Chat {
			r := compressor.Body(line.Body, options)
			row.Body, row.Preservation = r.Body, r.Preservation
		}
		if row.Tokens, err = countBoth(counter, line, row.Body); err != nil {
			return fmt.Errorf("%s:%d: %w", in.name, e.number, err)
		}
		return writeJSON(out, &row)
	})
	if err = errors.Join(err, out.Flush()); err != nil {
		return err
	}
	if failed {
		return errFailed
	}
	return nil
}

func countBoth(counter *tokens.Counter, line asked, sent []byte) (sentTokens, error) {
	count := counter.Chat
	if line.parsed.Kind == schemas.Embeddings {
		count = counter.Embeddings
	}
	model := modelOf(line.parsed.Model)
	before, err := count(model, line.Body)
	if err != nil {
		return sentTokens{}, err
	}
	after, err := count(model, sent)
	return sentTokens{before.Total(), after.Total()}, err
}

func writeJSON(w *bufio.Writer, row any) error {
	text, err := json.Marshal(row, json.Deterministic(true))
	if err != nil {
		return fmt.Errorf("encoding the output: %w", err)
	}
	_, _ = w.Write(text) // an error comes back from the last write
	return w.WriteByte('\n')
}
