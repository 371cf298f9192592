package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/adpa/processor/internal/evaluate"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/score"
)

// verdictLine is what the judge said of a pair: a line of its own file, so that
// an interrupted run asks nothing twice.
type verdictLine struct {
	Index      int      `json:"i"`
	Preference *float64 `json:"p,omitzero"` // for the candidate; nil where the judge gave none
	Note       note     `json:"n,omitzero"`
}

// judge has the candidate's judge compare the answers of pairs that differ, up
// to a bound, where there is a judge.
func (j *replayJob) judge(ctx context.Context) error {
	model := j.candidate.Score.Judge
	if model == "" || j.cmd.JudgeLimit == 0 {
		return nil
	}
	done, _, err := j.preferencesTo(nil)
	if err != nil {
		return err
	}
	lines, f, err := openResults(j.state.file("judge.jsonl"))
	if err != nil {
		return err
	}
	defer f.Close()
	cfg := isolated(j.candidate, preparerPrefix+"-judge", 1)
	if err := provisionLocal(ctx, cfg, j.own); err != nil {
		return err
	}
	d, err := newDeps(ctx, cfg, j.own, nil)
	if err != nil {
		return err
	}
	defer d.close()
	calls := &cassette{cost: d.models.cost, count: d.counter, now: func(int) *record { return nil }}
	calls.stand(d.models, simulatedProviders(cfg.ProviderList()))
	judge := score.NewJudge(model, 1, func(ctx context.Context, request []byte) ([]byte, float64, error) {
		r := &stages.Request{}
		r.ID, r.Tenant, r.Kind, r.Model, r.Body = replayID(0), "judge", schemas.Chat, model, request
		route, err := d.models.route(r)
		if err != nil {
			return nil, 0, err
		}
		answer, err := route.Caller.Generate(ctx, schemas.Call{ID: "judge", Model: route.Model, Body: request})
		return answer.Body, d.models.cost(route.Model, answer.Usage), err
	})
	return j.pairs(func(index int, x *record, p *evaluate.Pair, _ *note, paired bool) error {
		same := p.Baseline.Text == p.Candidate.Text
		if _, known := done[index]; known || !paired || same || p.Baseline.Error != "" || p.Candidate.Error != "" || lines >= j.cmd.JudgeLimit || x.Request == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		line := verdictLine{Index: index}
		preference, _, err := judge.Prefer(ctx, x.Request, textAnswer(p.Candidate.Text), textAnswer(p.Baseline.Text))
		if err == nil {
			line.Preference = &preference
		}
		line.Note = calls.take(-1)
		text, err := marshalLine(&line)
		if err == nil {
			_, err = f.Write(text)
		}
		if err != nil {
			return fmt.Errorf("writing the judge's verdicts: %w", err)
		}
		lines++
		return nil
	})
}

// textAnswer makes a chat completion of a text.
func textAnswer(text string) []byte {
	return fmt.Appendf(nil, `{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":%s},"finish_reason":"stop"}]}`, schemas.Quote(text))
}

// preferences reads what the judge said, by the number of the request, and what that took.
func (j *replayJob) preferences() (map[int]float64, note, error) {
	given := map[int]float64{}
	_, took, err := j.preferencesTo(given)
	return given, took, err
}

func (j *replayJob) preferencesTo(given map[int]float64) (asked map[int]bool, took note, err error) {
	asked = map[int]bool{}
	f, err := os.Open(j.state.file("judge.jsonl"))
	if errors.Is(err, os.ErrNotExist) {
		return asked, took, nil
	}
	if err != nil {
		return nil, took, fmt.Errorf("opening the judge's verdicts: %w", err)
	}
	defer f.Close()
	reader := bufio.NewReader(f)
	for {
		text, length, err := readLine(reader, maxTapeLine)
		if errors.Is(err, io.EOF) && length == 0 {
			return asked, took, nil
		}
		var line verdictLine
		if err != nil && !errors.Is(err, io.EOF) || jsonv2.Unmarshal(text, &line) != nil {
			return asked, took, nil // a line that was cut off is written again
		}
		asked[line.Index] = true
		took = took.and(line.Note)
		if line.Preference != nil && given != nil {
			given[line.Index] = *line.Preference
		}
	}
}
