package main

import (
	"github.com/go-json-experiment/json"

	"github.com/adpa/processor/internal/tokens"
	"github.com/adpa/processor/schemas"
)

// countUsage counts what a call was probably billed for, where the provider did
// not say: a stream that ended without its usage must not look free.
func countUsage(counter *tokens.Counter, call schemas.Call, answer []byte) schemas.Usage {
	if call.Embeddings {
		prompt, err := counter.Embeddings(call.Model, call.Body)
		if err != nil {
			return schemas.Usage{}
		}
		return schemas.Usage{PromptTokens: prompt.Total(), TotalTokens: prompt.Total()}
	}
	prompt, err := counter.Chat(call.Model, call.Body)
	if err != nil {
		return schemas.Usage{}
	}
	completion := 0
	for _, text := range answerTexts(answer) {
		if n, err := counter.Text(call.Model, text); err == nil {
			completion += n
		}
	}
	return schemas.Usage{PromptTokens: prompt.Total(), CompletionTokens: completion, TotalTokens: prompt.Total() + completion}
}

// answerTexts gives what a model wrote: contents, refusals and arguments of tool calls.
func answerTexts(answer []byte) []string {
	var body struct {
		Choices []struct {
			Message struct {
				Content   string `json:"content"`
				Refusal   string `json:"refusal"`
				Reasoning string `json:"reasoning_content"`
				Calls     []struct {
					Function struct {
						Name      string `json:"name"`
						Arguments string `json:"arguments"`
					} `json:"function"`
				} `json:"tool_calls"`
			} `json:"message"`
		} `json:"choices"`
	}
	if json.Unmarshal(answer, &body) != nil {
		return nil
	}
	var texts []string
	for _, choice := range body.Choices {
		m := choice.Message
		texts = append(texts, m.Content, m.Refusal, m.Reasoning)
		for _, call := range m.Calls {
			texts = append(texts, call.Function.Name, call.Function.Arguments)
		}
	}
	return texts
}
