// Package score measures the scorer against human judgement on public data.
package score

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Run prints every figure of docs/quality-management.md that concerns scoring. The data
// directory holds the sets named in data.go. With the argument "fit" it prints the
// tables to be committed as stages/score/tables.go instead.
func Run(w io.Writer, dataDir string, args []string) error {
	if dataDir == "" {
		return errors.New("no data directory: set PROCESSOR_DATA to one that holds xstest, unieval and pandalm")
	}
	if len(args) == 1 && args[0] == "fit" {
		return fit(w, dataDir)
	}
	if len(args) > 0 {
		return fmt.Errorf("unknown argument %.64q: give none, or fit", strings.Join(args, " "))
	}
	for _, part := range []func(io.Writer, string) error{refusals, relevances, groundednesses, preferences, dialogues, failures, speed} {
		if err := part(w, dataDir); err != nil {
			return err
		}
	}
	return nil
}

// request builds a chat completion request of a system message, if any, and a user message.
func request(user, system string) []byte {
	type message struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	var messages []message
	if system != "" {
		messages = append(messages, message{"system", system})
	}
	return encode(map[string]any{"model": "m", "messages": append(messages, message{"user", user})})
}

// completion builds a chat completion of one answer that ended by itself.
func completion(answer string) []byte {
	return encode(map[string]any{"object": "chat.completion", "choices": []any{map[string]any{
		"index": 0, "finish_reason": "stop", "message": map[string]any{"role": "assistant", "content": answer},
	}}})
}

// encode writes JSON. What it is given are strings and maps of them, which cannot fail.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// fit prints the tables of stages/score/tables.go.
func fit(w io.Writer, dir string) error {
	refusalCases, _, err := loadXSTest(dir)
	if err != nil {
		return err
	}
	matchedCases, err := loadMatched(dir)
	if err != nil {
		return err
	}
	grounded, err := fitGrounded(dir)
	if err != nil {
		return err
	}
	preference, err := fitPreference(dir)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, `package score

// The tables are fitted on public data by "go run ./bench score fit" and printed by it.
// Each begins with the intercept of a logistic regression.`)
	for _, t := range []struct {
		name, size, origin string
		weights            []float64
	}{
		{"refusalWeights", "refusalWidth", "XSTest (Röttger et al., CC BY 4.0): the prompts with odd numbers, completions of all models there.",
			fitRefusal(refusalCases, func(c refusalCase) bool { return c.develop })},
		{"relevanceWeights", "relevanceWidth", "XSTest, PandaLM (Apache-2.0), QAGS-CNN and Topical-Chat (UniEval's copies, MIT): half of the prompts of each, their answers against shuffled ones.",
			fitRelevance(matchedCases)},
		{"groundedWeights", "1", "QAGS-CNN (Wang et al., UniEval's copy, MIT): half of the articles, three votes each.", grounded},
		{"preferenceWeights", "3", "PandaLM's test set (Apache-2.0): half of the instructions, the majority of three votes.", preference},
	} {
		fmt.Fprintf(w, "\n// %s: %s\nvar %s = [1 + %s]float64{\n", t.name, t.origin, t.name, t.size)
		for _, v := range t.weights {
			fmt.Fprintf(w, "\t%.4g,\n", v)
		}
		fmt.Fprintln(w, "}")
	}
	return nil
}
