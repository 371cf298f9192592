package main

import (
	"bufio"
	"errors"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages/score"
)

// scoreCmd judges answers.
type scoreCmd struct {
	File string `arg:"" help:"Lines {\"custom_id\", \"body\": {request}, \"response\": {completion}}; - is standard input."`
}

// scored is a line of the output.
type scored struct {
	CustomID string             `json:"custom_id"`
	Score    float64            `json:"score"`
	Metrics  map[string]float64 `json:"metrics"`
	Flags    []string           `json:"flags"`
	Reason   string             `json:"reason,omitzero"` // for flags that say that something does not fit: what
}

// Run scores each line. One that cannot be read gets a line with an error.
func (c *scoreCmd) Run(a *app) error {
	cfg, err := a.load()
	if err != nil {
		return err
	}
	in, err := a.openSource(c.File)
	if err != nil {
		return err
	}
	defer in.reader.Close()
	scorer := score.New(cfg.Score)
	out := bufio.NewWriterSize(a.stdout, 64<<10)
	failed := false
	err = in.each(func(e entry) error {
		line, err := readAsked(e.text)
		var result score.Result
		if err == nil {
			result, err = scoreLine(scorer, line)
		}
		if err != nil {
			failed = true
			return writeJSON(out, &failedLine{line.CustomID, *schemas.NewBatchFailure(line.CustomID, e.number, err).Error})
		}
		row := scored{CustomID: line.CustomID, Score: result.Score, Metrics: map[string]float64{}, Flags: result.Flags, Reason: result.Reason}
		for _, m := range result.Metrics {
			row.Metrics[m.Name] = m.Value
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

func scoreLine(scorer *score.Scorer, line asked) (score.Result, error) {
	if len(line.Response) == 0 || line.Response.Kind() != '{' {
		return score.Result{}, schemas.Invalid(schemas.CodeMissingField, "response", "response is missing: the completion that answers the body")
	}
	completion := []byte(line.Response)
	if body, ok := schemas.Member(completion, "body"); ok { // of a batch's output line
		completion = body.Of(completion)
	}
	result, err := scorer.Score(line.Body, completion, score.Options{})
	if err != nil {
		return result, schemas.Invalid(schemas.CodeInvalidField, "response", "%v", err)
	}
	return result, nil
}
