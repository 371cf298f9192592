package compress

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The sets lie in the data directory as their authors publish them:
//
//	nq/nq-open-oracle.jsonl.gz        github.com/nelson-liu/lost-in-the-middle, MIT; text CC BY-SA 3.0
//	nq/kv-retrieval-75_keys.jsonl.gz  the same
//	qmsum/val.jsonl                   github.com/Yale-LILY/QMSum, MIT; AMI part CC BY 4.0
//	xquad/xquad.en.json               github.com/google-deepmind/xquad, CC BY-SA 4.0
//	toon/github-repos.json            github.com/toon-format/toon, MIT

// task is one prompt: documents, and a question with its answers.
type task struct {
	documents string
	untitled  string // the documents without their titles, where they have such
	question  string
	answers   []string
}

// meeting is a transcript of QMSum.
type meeting struct {
	turns   []string
	queries []meetingQuery
}

// meetingQuery asks for what was said in some of the turns.
type meetingQuery struct {
	text     string
	relevant []bool // by turn
}

// kvTask is a JSON object of 75 random keys and values, of which one is asked for.
type kvTask struct {
	object     string
	key, value string
	pairs      [][2]string
}

// passage is a question of Natural Questions with the passage that answers it.
type passage struct {
	Question string   `json:"question"`
	Answers  []string `json:"answers"`
	Contexts []struct {
		Title string `json:"title"`
		Text  string `json:"text"`
	} `json:"ctxs"`
}

func loadNQ(dir string) ([]passage, error) {
	var list []passage
	err := eachLine(filepath.Join(dir, "nq", "nq-open-oracle.jsonl.gz"), func(line []byte) error {
		var p passage
		if err := json.Unmarshal(line, &p); err != nil {
			return err
		}
		if len(p.Contexts) > 0 && holds(p.Contexts[0].Text, p.Answers) {
			list = append(list, p)
		}
		return nil
	})
	return list, err
}

func loadKV(dir string) ([]kvTask, error) {
	var list []kvTask
	err := eachLine(filepath.Join(dir, "nq", "kv-retrieval-75_keys.jsonl.gz"), func(line []byte) error {
		var r struct {
			Records [][2]string `json:"ordered_kv_records"`
			Key     string      `json:"key"`
			Value   string      `json:"value"`
		}
		if err := json.Unmarshal(line, &r); err != nil {
			return err
		}
		var b strings.Builder
		for i, pair := range r.Records {
			fmt.Fprintf(&b, "%s%q: %q", []string{"{", ",\n "}[min(i, 1)], pair[0], pair[1])
		}
		b.WriteString("}")
		list = append(list, kvTask{b.String(), r.Key, r.Value, r.Records})
		return nil
	})
	return list, err
}

func loadQMSum(dir string) ([]meeting, error) {
	var list []meeting
	err := eachLine(filepath.Join(dir, "qmsum", "val.jsonl"), func(line []byte) error {
		var r struct {
			Queries []struct {
				Query string      `json:"query"`
				Spans [][2]string `json:"relevant_text_span"`
			} `json:"specific_query_list"`
			Turns []struct {
				Speaker string `json:"speaker"`
				Content string `json:"content"`
			} `json:"meeting_transcripts"`
		}
		if err := json.Unmarshal(line, &r); err != nil {
			return err
		}
		var m meeting
		for _, t := range r.Turns {
			m.turns = append(m.turns, t.Speaker+": "+strings.Join(strings.Fields(t.Content), " "))
		}
		for _, q := range r.Queries {
			relevant := make([]bool, len(m.turns))
			for _, span := range q.Spans {
				from, err := strconv.Atoi(span[0])
				if err != nil {
					return err
				}
				to, err := strconv.Atoi(span[1])
				if err != nil {
					return err
				}
				for i := from; i <= min(to, len(relevant)-1); i++ {
					relevant[i] = true
				}
			}
			m.queries = append(m.queries, meetingQuery{q.Query, relevant})
		}
		list = append(list, m)
		return nil
	})
	return list, err
}

// article is one of XQuAD or SQuAD: paragraphs with questions, of which those of
// SQuAD 2.0 may have no answer.
type article struct {
	Paragraphs []struct {
		Context   string `json:"context"`
		Questions []struct {
			Question string `json:"question"`
			Answers  []struct {
				Text string `json:"text"`
			} `json:"answers"`
		} `json:"qas"`
	} `json:"paragraphs"`
}

func loadXQuAD(dir string) ([]article, error) {
	return loadSQuAD(filepath.Join(dir, "xquad", "xquad.en.json"))
}

// loadSQuAD reads a file in the format of SQuAD.
func loadSQuAD(path string) ([]article, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading questions: %w", err)
	}
	var set struct {
		Data []article `json:"data"`
	}
	if err := json.Unmarshal(raw, &set); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return set.Data, nil
}

// eachLine calls visit for the lines of a file, gzipped when its name says so.
func eachLine(path string, visit func(line []byte) error) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading the data: %w", err)
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
	}
	s := bufio.NewScanner(r)
	s.Buffer(nil, 16<<20)
	for n := 1; s.Scan(); n++ {
		if err := visit(s.Bytes()); err != nil {
			return fmt.Errorf("reading %s, line %d: %w", path, n, err)
		}
	}
	return s.Err()
}

// holds reports whether a text has one of the answers, whatever their case.
func holds(text string, answers []string) bool {
	text = strings.ToLower(text)
	for _, a := range answers {
		if strings.Contains(text, strings.ToLower(a)) {
			return true
		}
	}
	return false
}
