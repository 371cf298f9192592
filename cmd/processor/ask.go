package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/streams"
)

// askCmd publishes one request.
type askCmd struct {
	Prompt   string   `arg:"" optional:"" help:"What to ask; - or nothing reads it from standard input."`
	Model    string   `default:"auto" help:"The model or group."`
	System   string   `placeholder:"TEXT" help:"A system message before the prompt."`
	Stream   bool     `help:"Print the answer as it comes."`
	Provider []string `placeholder:"NAME" help:"Add a provider, as for run; only where this process does the work."`
	tenantFlag
	JSON bool `name:"json" help:"Print the whole response."`
}

// maxPrompt bounds a prompt from standard input: no message can be larger.
const maxPrompt = 16 << 20

// Run publishes the request, does the work where no server is there, and prints
// the text of the answer.
func (c *askCmd) Run(a *app) error {
	body, err := c.body(a.stdin)
	if err != nil {
		return err
	}
	cfg, err := a.load(withProviders(c.Provider))
	if err != nil {
		return err
	}
	nc, embedded, closeServer, err := a.connectOrEmbed(cfg)
	if err != nil {
		return err
	}
	defer closeServer()
	client, err := a.client(cfg, nc, c.Tenant)
	if err != nil {
		return err
	}
	stop := func() error { return nil }
	if embedded {
		if stop, err = a.background(cfg, nc); err != nil {
			return err
		}
	}
	err = c.ask(a, client, body)
	return errors.Join(err, stop())
}

func (c *askCmd) body(stdin io.Reader) ([]byte, error) {
	prompt := c.Prompt
	if prompt == "" || prompt == "-" {
		text, err := io.ReadAll(io.LimitReader(stdin, maxPrompt))
		if err != nil {
			return nil, fmt.Errorf("reading the prompt: %w", err)
		}
		prompt = string(text)
	}
	if strings.TrimSpace(prompt) == "" {
		return nil, wrongUse(errors.New("the prompt is empty"), `processor ask "What is NATS?"`)
	}
	if !utf8.ValidString(prompt) || !utf8.ValidString(c.System) {
		return nil, wrongUse(errors.New("the prompt is not UTF-8"), "iconv -f latin1 -t utf-8 FILE | processor ask")
	}
	type message struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	messages := []message{{"user", prompt}}
	if c.System != "" {
		messages = []message{{"system", c.System}, {"user", prompt}}
	}
	return json.Marshal(struct {
		Model    string    `json:"model"`
		Messages []message `json:"messages"`
		Stream   bool      `json:"stream,omitempty"`
	}{c.Model, messages, c.Stream})
}

func (c *askCmd) ask(a *app, client *streams.Client, body []byte) error {
	message := streams.Message{ID: streams.NewID(), Body: body}
	if !c.Stream || c.JSON {
		answer, err := client.Ask(a.ctx, message)
		if err != nil {
			return err
		}
		return c.print(a, answer.Body, "")
	}
	var printed strings.Builder
	answer, err := client.Stream(a.ctx, message, func(d streams.Delta) {
		if d.Number == 1 && printed.Len() > 0 { // the attempt so far has failed
			fmt.Fprintln(a.stdout)
			printed.Reset()
		}
		text := chunkText(d.Chunk)
		printed.WriteString(text)
		fmt.Fprint(a.stdout, text)
	})
	if err != nil && !errors.Is(err, streams.ErrChunksGone) {
		return err
	}
	return c.print(a, answer.Body, printed.String())
}

// print prints an answer, of which some was printed before. Chunks may be
// missing at its end; where the answer is another one it is printed whole.
func (c *askCmd) print(a *app, body []byte, printed string) error {
	if c.JSON {
		_, err := fmt.Fprintf(a.stdout, "%s\n", body)
		return err
	}
	text, err := answerText(body)
	if err != nil {
		if printed != "" {
			fmt.Fprintln(a.stdout)
		}
		return err
	}
	rest, ok := strings.CutPrefix(text, printed)
	if !ok {
		rest = "\n" + text
	}
	_, err = fmt.Fprintln(a.stdout, rest)
	return err
}

// completion is what the command line reads of a response or a chunk.
type completion struct {
	Choices []struct {
		Message struct {
			Content string `json:"content"`
			Refusal string `json:"refusal"`
		} `json:"message"`
		Delta struct {
			Content string `json:"content"`
		} `json:"delta"`
	} `json:"choices"`
	Error     *schemas.ErrorObject `json:"error"`
	Processor struct {
		ID    string `json:"id"`
		Stage string `json:"stage"`
	} `json:"processor"`
}

func chunkText(chunk []byte) string {
	var c completion
	if json.Unmarshal(chunk, &c) != nil || len(c.Choices) == 0 {
		return ""
	}
	return c.Choices[0].Delta.Content
}

// answerText gives the text of a response. An error response is an error, and
// so is an answer without text, as of a tool call.
func answerText(body []byte) (string, error) {
	var c completion
	if err := json.Unmarshal(body, &c); err != nil {
		return "", fmt.Errorf("reading the answer: %w", err)
	}
	if c.Error != nil {
		return "", hint(fmt.Errorf("%s (%s, %s)", c.Error.Message, c.Error.Code, c.Error.Type), "processor ask --json prints the whole response")
	}
	if len(c.Choices) == 0 {
		return "", hint(errors.New("the answer has no choices"), "processor ask --json prints the whole response")
	}
	return cmp.Or(c.Choices[0].Message.Content, c.Choices[0].Message.Refusal), nil
}
