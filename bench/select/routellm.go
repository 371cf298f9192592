// Package selection measures how well models are chosen, on what RouteLLM has
// published of a weak and a strong model's answers.
package selection

import (
	"encoding/csv"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages/selection"
)

// row is a prompt with what became of it.
type row struct {
	route        string
	length       int
	features     selection.Features
	weak, strong float64 // 1 for a right answer, else 0
}

// The two models, by the columns of the data. A call of the weak one costs about
// a twenty-fifth of a call of the strong one.
const (
	weak     = "mistralai/Mixtral-8x7B-Instruct-v0.1"
	strong   = "gpt-4-1106-preview"
	weakCost = 0.04
)

// candidates are the models as the configuration would have them: with prices,
// and nothing known of their quality.
var candidates = []selection.Candidate{{Model: weak, PromptUSD: weakCost}, {Model: strong, PromptUSD: 1}}

// readRows reads files, each of which is a route.
func readRows(files ...string) (rows []row, err error) {
	if len(files) == 0 {
		return nil, errors.New("there are no files")
	}
	for _, name := range files {
		read, err := readFile(name)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", filepath.Base(name), err)
		}
		rows = append(rows, read...)
	}
	return rows, nil
}

func readFile(name string) ([]row, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	lines, err := csv.NewReader(file).ReadAll()
	if err != nil {
		return nil, err
	}
	route := strings.TrimSuffix(filepath.Base(name), ".csv")
	if len(lines) < 2 || len(lines[0]) < 3 || lines[0][1] != weak || lines[0][2] != strong {
		return nil, errors.New("its columns are not a prompt and the outcomes of the two models")
	}
	rows := make([]row, 0, len(lines)-1)
	for _, line := range lines[1:] {
		// What the product reads is a request.
		body := fmt.Appendf(nil, `{"messages":[{"role":"user","content":%s}]}`, schemas.Quote(line[0]))
		need := selection.Read(body)
		rows = append(rows, row{
			route: route, length: len(line[0]), features: selection.Describe(nil, need.Prompt),
			weak: right(line[1]), strong: right(line[2]),
		})
	}
	return rows, nil
}

func right(text string) float64 {
	if text == "True" {
		return 1
	}
	return 0
}

// shuffled gives the rows in another order.
func shuffled(rows []row, seed uint64) []row {
	rows = append([]row(nil), rows...)
	random := rand.New(rand.NewPCG(seed, 1))
	random.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
	return rows
}
