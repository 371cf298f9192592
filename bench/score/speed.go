package score

import (
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/adpa/processor/stages/score"
)

// The sizes of the speed measurement, in bytes: about 250 tokens of prompt and 400 of answer.
const (
	promptBytes = 1100
	answerBytes = 1800
	speedTime   = 2 * time.Second
)

// speed scores answers of PandaLM, joined to the sizes above, on one goroutine.
func speed(w io.Writer, dir string) error {
	pairs, err := loadPandaLM(dir)
	if err != nil {
		return err
	}
	var prompts, answers []byte
	for _, p := range pairs {
		prompts = append(append(prompts, p.prompt()...), '\n')
		answers = append(append(answers, p.Response1...), '\n')
	}
	var requests, completions [][]byte
	for len(prompts) >= promptBytes && len(answers) >= answerBytes {
		requests = append(requests, request(string(prompts[:promptBytes]), ""))
		completions = append(completions, completion(string(answers[:answerBytes])))
		prompts, answers = prompts[promptBytes:], answers[answerBytes:]
	}
	scorer := score.New(score.DefaultConfig())
	n, start := 0, time.Now()
	for time.Since(start) < speedTime {
		for i := range requests {
			if _, err := scorer.Score(requests[i], completions[i], score.Options{}); err != nil {
				return err
			}
		}
		n += len(requests)
	}
	perSecond := float64(n) / time.Since(start).Seconds()
	fmt.Fprintf(w, "\nSpeed: %d different answers of %d bytes (about 400 tokens), prompts of %d bytes (about 250 tokens), one goroutine, %s on %s.\n",
		len(requests), answerBytes, promptBytes, runtime.Version(), runtime.GOARCH)
	fmt.Fprintf(w, "  %.0f answers a second, %.1f µs each\n", perSecond, 1e6/perSecond)
	return nil
}
