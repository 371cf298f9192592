package main

import (
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

// verdict is what the judge said of a pair: a record of its own file, so that an
// interrupted run asks nothing twice.
type verdict struct {
	Index      int      `json:"i"`
	Preference *float64 `json:"p,omitzero"` // for the candidate; nil where the judge gave none
	Note       note     `json:"n,omitzero"`
}

// judge has the candidate's judge compare the answers of pairs that differ, up
// to a bound, where there is a judge.
func (j *replayJob) judge(ctx context.Context) (err error) {
	model := j.candidate.Score.Judge
	if model == "" || j.cmd.JudgeLimit == 0 {
		return nil
	}
	asked := map[int]bool{}
	verdicts, err := j.openVerdicts(asked)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, verdicts.close()) }()
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
		if asked[index] || !paired || same || p.Baseline.Error != "" || p.Candidate.Error != "" || len(asked) >= j.cmd.JudgeLimit || x.Request == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		said := verdict{Index: index}
		preference, _, err := judge.Prefer(ctx, x.Request, textAnswer(p.Candidate.Text), textAnswer(p.Baseline.Text))
		if err == nil {
			said.Preference = &preference
		}
		said.Note = calls.take(-1)
		asked[index] = true
		text, err := jsonv2.Marshal(&said)
		if err == nil {
			_, err = verdicts.append(recordVerdict, text)
		}
		if err == nil {
			err = verdicts.flush()
		}
		return err
	})
}

// recordVerdict is the kind of records of verdicts.
const recordVerdict = 'v'

// openVerdicts opens the file of verdicts, and notes which pairs have one.
func (j *replayJob) openVerdicts(asked map[int]bool) (*replayLog, error) {
	read := func(_ byte, _ int64, payload []byte) error {
		var v verdict
		if jsonv2.Unmarshal(payload, &v) != nil {
			return errDamaged
		}
		asked[v.Index] = true
		return nil
	}
	verdicts, err := openReplayLog(j.state.results("judge"), j.identity("judge"), read)
	if !errors.Is(err, errOtherLog) {
		return verdicts, err
	}
	if err := j.beginAnew("judge", err); err != nil {
		return nil, err
	}
	return openReplayLog(j.state.results("judge"), j.identity("judge"), read)
}

// textAnswer makes a chat completion of a text.
func textAnswer(text string) []byte {
	return fmt.Appendf(nil, `{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":%s},"finish_reason":"stop"}]}`, schemas.Quote(text))
}

// preferences reads what the judge said, by the number of the request, and what that took.
func (j *replayJob) preferences() (given map[int]float64, took note, err error) {
	given = map[int]float64{}
	path := j.state.results("judge")
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return given, took, nil
	}
	if err != nil {
		return nil, took, fmt.Errorf("opening the judge's verdicts: %w", err)
	}
	defer f.Close()
	records, _, err := newRecordReader(f)
	for err == nil {
		var payload []byte
		var v verdict
		if _, _, payload, err = records.next(); err == nil {
			err = jsonv2.Unmarshal(payload, &v)
		}
		if err == nil {
			took = took.and(v.Note)
			if v.Preference != nil {
				given[v.Index] = *v.Preference
			}
		}
	}
	if !errors.Is(err, io.EOF) {
		return nil, took, unreadable(path, err)
	}
	return given, took, nil
}
