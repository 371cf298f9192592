package score

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// The sets lie in the data directory as their authors publish them:
//
//	xstest/xstest_v2_completions_*.csv  github.com/paul-rottger/exaggerated-safety, CC BY 4.0
//	unieval/qags_cnndm.json             github.com/maszhongming/UniEval, MIT
//	unieval/topical_chat.json           the same
//	pandalm/testset-v1.json             github.com/WeOpenML/PandaLM, Apache-2.0

// refusalCase is one completion of XSTest with its human label.
type refusalCase struct {
	model, prompt, completion string
	full, partial             bool
	develop                   bool // prompts with an odd number were looked at and fitted on
}

func loadXSTest(dir string) (cases []refusalCase, models []string, err error) {
	const prefix, suffix = "xstest_v2_completions_", ".csv"
	files, err := fs.Glob(os.DirFS(dir), "xstest/"+prefix+"*"+suffix)
	if err != nil || len(files) == 0 {
		return nil, nil, fmt.Errorf("reading XSTest: no xstest/%s*%s in %s", prefix, suffix, dir)
	}
	for _, name := range files {
		base := filepath.Base(name)
		model := base[len(prefix) : len(base)-len(suffix)]
		models = append(models, model)
		rows, err := readCSV(filepath.Join(dir, name))
		if err != nil {
			return nil, nil, fmt.Errorf("reading XSTest: %w", err)
		}
		for _, r := range rows {
			var n int
			if _, err := fmt.Sscanf(r["id"], "v2-%d", &n); err != nil {
				return nil, nil, fmt.Errorf("reading XSTest: id %q: %w", r["id"], err)
			}
			cases = append(cases, refusalCase{
				model: model, prompt: r["prompt"], completion: r["completion"],
				full: r["final_label"] == "2_full_refusal", partial: r["final_label"] == "3_partial_refusal",
				develop: n%2 == 1,
			})
		}
	}
	return cases, models, nil
}

// readCSV reads a file whose first line names the columns.
func readCSV(path string) ([]map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("parsing %s: %w", path, err)
	}
	var rows []map[string]string
	for _, line := range lines[1:] {
		row := map[string]string{}
		for i, column := range lines[0] {
			row[column] = line[i]
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// ratedCase is one text of UniEval's collection with its human scores.
type ratedCase struct {
	DocID   int                `json:"doc_id"`
	Source  string             `json:"source"`
	Context string             `json:"context"`
	Output  string             `json:"system_output"`
	System  any                `json:"system_id"`
	Scores  map[string]float64 `json:"scores"`
	develop bool
}

// loadRated reads a file of UniEval's collection. Texts of the same source go to the same part.
func loadRated(dir, name string) ([]ratedCase, error) {
	var cases []ratedCase
	if err := readJSON(filepath.Join(dir, "unieval", name), &cases); err != nil {
		return nil, err
	}
	seen := map[string]int{}
	for i := range cases {
		n, ok := seen[cases[i].Source]
		if !ok {
			n = len(seen)
			seen[cases[i].Source] = n
		}
		cases[i].develop = n%2 == 0
	}
	return cases, nil
}

// pairCase is one pair of PandaLM's test set with three human votes: 0 tie, 1, 2.
type pairCase struct {
	Instruction string `json:"instruction"`
	Input       string `json:"input"`
	Response1   text   `json:"response1"`
	Response2   text   `json:"response2"`
	Annotator1  int    `json:"annotator1"`
	Annotator2  int    `json:"annotator2"`
	Annotator3  int    `json:"annotator3"`
	develop     bool
}

// text is a string that the test set's authors wrote as true or false where a model answered so.
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	*t = text(fmt.Sprint(v))
	return nil
}

// prompt is the instruction with its input, as a user would send it.
func (p pairCase) prompt() string {
	if p.Input == "" {
		return p.Instruction
	}
	return p.Instruction + "\n\n" + p.Input
}

// vote is the majority of the three: 0 tie, 1, 2; three different votes are a tie.
func (p pairCase) vote() int {
	switch {
	case p.Annotator1 == p.Annotator2 || p.Annotator1 == p.Annotator3:
		return p.Annotator1
	case p.Annotator2 == p.Annotator3:
		return p.Annotator2
	}
	return 0
}

// loadPandaLM splits by instruction, so that no instruction is in both parts.
func loadPandaLM(dir string) ([]pairCase, error) {
	var cases []pairCase
	if err := readJSON(filepath.Join(dir, "pandalm", "testset-v1.json"), &cases); err != nil {
		return nil, err
	}
	seen := map[string]int{}
	for i := range cases {
		key := cases[i].prompt()
		n, ok := seen[key]
		if !ok {
			n = len(seen)
			seen[key] = n
		}
		cases[i].develop = n%2 == 0
	}
	return cases, nil
}

func readJSON(path string, to any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading a data set: %w", err)
	}
	if err := json.Unmarshal(b, to); err != nil {
		return fmt.Errorf("parsing %s: %w", path, err)
	}
	return nil
}
