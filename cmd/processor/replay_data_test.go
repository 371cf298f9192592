package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/evaluate"
	"github.com/adpa/processor/internal/fakellm"
)

// The example report is of real prompts: headlines that are to be classified
// (FrugalGPT, Apache-2.0), and grade-school problems (GSM8K, MIT) with the recorded
// answers of two models (RouteLLM, Apache-2.0), which the upstream serves.
const (
	weakModel   = "mistralai/Mixtral-8x7B-Instruct-v0.1"
	strongModel = "gpt-4-1106-preview"
	headlines   = 400
	problems    = 400
)

// outcome is what is recorded of one prompt.
type knownOutcome struct {
	prompt, reference string
	answers           map[string]string // by model
}

func readCSV(t *testing.T, path string) [][]string {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	require.NoError(t, err)
	return rows
}

// gsm8k gives every other problem of the set: the other half was used to develop.
func gsm8k(t *testing.T, dir string) (list []knownOutcome) {
	rows := readCSV(t, filepath.Join(dir, "routellm", "gsm8k_responses.csv"))[1:]
	for i := 1; i < len(rows) && len(list) < problems; i += 2 {
		row := rows[i]
		if len(row) < 5 {
			continue
		}
		k := knownOutcome{prompt: row[0], answers: map[string]string{weakModel: row[3], strongModel: row[4]}}
		// The set says which model was right and gives no number: that of a right answer is it.
		for n, model := range []string{weakModel, strongModel} {
			if row[1+n] == "True" && k.reference == "" {
				if number := finalNumber(k.answers[model]); number != "" {
					k.reference = number
				}
			}
		}
		if k.reference != "" {
			list = append(list, k)
		}
	}
	return list
}

// finalNumber gives what a reference with match number compares.
func finalNumber(answer string) string {
	fields := strings.FieldsFunc(answer, func(r rune) bool { return !(r >= '0' && r <= '9' || r == '.' || r == ',' || r == '-') })
	for i := len(fields) - 1; i >= 0; i-- {
		if text := strings.Trim(fields[i], ".,-"); text != "" {
			return text
		}
	}
	return ""
}

// classified gives headlines with their class. No model's answers are recorded,
// so two rules stand for two models: one looks for words in the whole headline,
// one at its first half.
func classified(t *testing.T, dir string) (list []knownOutcome) {
	rows := readCSV(t, filepath.Join(dir, "frugalgpt", "HEADLINES_train.csv"))
	for i := 1; i < len(rows) && len(list) < headlines; i += 2 {
		text := strings.ToLower(rows[i][0])
		list = append(list, knownOutcome{
			prompt:    "Does the price of gold in this headline go up, down, stay neutral, or none? Answer in one word.\n" + rows[i][0],
			reference: rows[i][1],
			answers:   map[string]string{strongModel: direction(text), weakModel: direction(text[:len(text)/2])},
		})
	}
	return list
}

func direction(headline string) string {
	for _, rule := range []struct {
		answer string
		words  []string
	}{
		{"down", []string{"down", "fall", "lose", "drop", "slip", "lower", "decline", "low", "plunge", "dip", "sink", "weak"}},
		{"up", []string{"up", "rise", "gain", "climb", "high", "rebound", "retake", "jump", "advance", "surge", "rall"}},
		{"neutral", []string{"unchanged", "steady", "little changed", "flat", "range"}},
	} {
		for _, word := range rule.words {
			if strings.Contains(headline, word) {
				return rule.answer
			}
		}
	}
	return "none"
}

func TestReplayOnRealPrompts(t *testing.T) {
	dir := os.Getenv("PROCESSOR_DATA")
	if dir == "" {
		t.Skip("reads real prompts: set PROCESSOR_DATA to the directory of the data sets")
	}
	known := map[string]knownOutcome{}
	var references strings.Builder
	bodies := map[string]string{}
	add := func(kind, match string, list []knownOutcome) {
		for i, k := range list {
			id := fmt.Sprintf("%s-%d", kind, i)
			known[k.prompt] = k
			fmt.Fprintf(&references, "{\"id\":%q,\"expected\":%q,\"match\":%q}\n", id, k.reference, match)
			body, err := json.Marshal(map[string]any{
				"model": "chosen", "messages": []map[string]string{{"role": "user", "content": k.prompt}}, "processor": map[string]string{"route": kind},
			})
			require.NoError(t, err)
			bodies[id] = string(body)
		}
	}
	add("headlines", evaluate.MatchExact, classified(t, dir))
	add("gsm8k", evaluate.MatchNumber, gsm8k(t, dir))
	serve := func(c fakellm.Call) *fakellm.Step {
		var body struct{ Model string }
		_ = json.Unmarshal(c.Body, &body)
		prompt := fakellm.LastText(c)
		answer, err := json.Marshal(known[prompt].answers[body.Model])
		if err != nil || known[prompt].answers == nil {
			return &fakellm.Step{Status: 400}
		}
		return &fakellm.Step{Body: fmt.Sprintf(`{"id":"x","object":"chat.completion","model":%q,"choices":[{"index":0,"message":{"role":"assistant","content":%s},"finish_reason":"stop"}],"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}}`,
			body.Model, answer, len(prompt)/4+8, len(answer)/4+1, len(prompt)/4+len(answer)/4+9)}
	}
	x := newTraffic(t, fakellm.Config{Respond: serve})
	live, candidate := x.twoModels("strong.yaml", strongModel), x.twoModels("weak.yaml", weakModel)
	cfg, err := config.Load(live)
	require.NoError(t, err)
	x.cfg.Models, x.cfg.Compress = cfg.Models, cfg.Compress
	stop := x.start()
	x.ask("acme", bodies)
	stop()
	require.NoError(t, os.WriteFile("references.jsonl", []byte(references.String()), 0o600))
	r := x.replay("--config", live, "--candidate", candidate, "--cassette", "--yes", "--reference", "references.jsonl", "-o", "report.html")
	t.Log(r.Verdict.Text)
	require.Equal(t, len(bodies), r.Replay.Pairs)
	require.Equal(t, evaluate.Correct, r.Verdict.RestsOn)
	require.Equal(t, evaluate.IsWorse, r.Verdict.Quality, "the weaker model is worse on both")
	require.Equal(t, evaluate.IsBetter, r.Verdict.Cost)
	if *update {
		target := filepath.Join(sourceDir, "..", "..", "examples", "replay")
		for _, name := range []string{"report.html", "report.json"} {
			text, err := os.ReadFile(name)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(target, name), text, 0o644)) //nolint:gosec // is committed
		}
	}
}

// sourceDir is the package's directory, which tests leave for one of their own.
var sourceDir, _ = os.Getwd()

// twoModels writes a configuration with both models, one of them in the group
// that is asked for. Prices are those of the vendors' lists.
func (x *traffic) twoModels(name, chosen string) string {
	x.t.Helper()
	text := fmt.Sprintf("providers: [{name: fake, kind: openai, base_url: %q, api_key: k}]\ncompress: {enabled: false}\nmodels:\n", x.upstream.URL+"/v1")
	for _, m := range [][2]string{{strongModel, "{input: 10, output: 30}"}, {weakModel, "{input: 0.6, output: 0.6}"}} {
		model, price, group := m[0], m[1], ""
		if model == chosen {
			group = ", group: chosen"
		}
		text += fmt.Sprintf("  - {name: %q, provider: fake%s, price: %s}\n", model, group, price)
	}
	path := filepath.Join(x.dir, name)
	require.NoError(x.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}
