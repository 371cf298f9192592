package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pkoukk/tiktoken-go"
	loader "github.com/pkoukk/tiktoken-go-loader"

	"github.com/adpa/processor/internal/tokens"
)

// tokenTurns is into how many turns a corpus is cut.
const tokenTurns = 5

// textSize is about how long the texts of a corpus are, in bytes.
const textSize = 8 << 10

// runTokens prints the figures of counting in docs/token-optimization.md: its
// speed against tiktoken-go, which is the reference, and on hostile texts.
func runTokens(out io.Writer, dataDir string, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unknown argument %.64q: tokens takes none but -data", strings.Join(args, " "))
	}
	if dataDir == "" {
		return errors.New("no data directory: set PROCESSOR_DATA to one that holds qmsum")
	}
	encodings := map[string]*tokens.Encoding{}
	for _, name := range []string{tokens.O200kBase, tokens.CL100kBase} {
		begin := time.Now()
		before := heapBytes()
		encoding, err := tokens.Load(name)
		if err != nil {
			return err
		}
		took := time.Since(begin)
		encodings[name] = encoding
		fmt.Fprintf(out, "First use of %s: %d ms, %.0f MB kept.\n", name, took.Milliseconds(), float64(heapBytes()-before)/1e6)
	}
	if err := againstReference(out, dataDir, encodings); err != nil {
		return err
	}
	hostile(out, encodings[tokens.O200kBase])
	return nil
}

func heapBytes() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// corpora are what is counted, with the least ratio to reach.
var corpora = []struct {
	name string
	bar  float64
	read func(dataDir string) ([]string, error)
}{
	{"English", 10, englishTexts},
	{"code", 10, codeTexts},
	{"Chinese", 4, chineseTexts},
}

// setReferenceLoader is done once, for tiktoken-go keeps the loader in a global.
var setReferenceLoader = sync.OnceFunc(func() { tiktoken.SetBpeLoader(loader.NewOfflineLoader()) })

func againstReference(out io.Writer, dataDir string, encodings map[string]*tokens.Encoding) error {
	setReferenceLoader()
	fmt.Fprintf(out, "\n| texts | encoding | MB | MB/s | reference, MB/s | ratio: median, least, most of %d turns | bar |\n| --- | --- | --- | --- | --- | --- | --- |\n", tokenTurns)
	for _, corpus := range corpora {
		texts, err := corpus.read(dataDir)
		if err != nil {
			return fmt.Errorf("reading %s texts: %w", corpus.name, err)
		}
		for _, name := range []string{tokens.O200kBase, tokens.CL100kBase} {
			reference, err := tiktoken.GetEncoding(name)
			if err != nil {
				return fmt.Errorf("loading the reference %s: %w", name, err)
			}
			r, err := race(texts, encodings[name].Count, func(text string) int { return len(reference.EncodeOrdinary(text)) })
			if err != nil {
				return fmt.Errorf("%s, %s: %w", corpus.name, name, err)
			}
			slices.Sort(r.ratios)
			fmt.Fprintf(out, "| %s | %s | %.1f | %.1f | %.1f | %.1f, %.1f, %.1f | %.0f |\n", corpus.name, name, float64(r.bytes)/1e6,
				float64(r.bytes)/r.own.Seconds()/1e6, float64(r.bytes)/r.other.Seconds()/1e6,
				r.ratios[len(r.ratios)/2], r.ratios[0], r.ratios[len(r.ratios)-1], corpus.bar)
		}
	}
	return nil
}

// raced is what became of a race.
type raced struct {
	bytes      int
	own, other time.Duration
	ratios     []float64
}

// race counts each text once with either counter, in turns so that both meet the
// same machine. Garbage is collected before a turn is timed, so that neither pays
// for what the other left. Counts that differ are an error.
func race(texts []string, own, other func(string) int) (r raced, err error) {
	if len(texts) < tokenTurns {
		return r, fmt.Errorf("%d texts are too few", len(texts))
	}
	for turn := range slices.Chunk(texts, (len(texts)+tokenTurns-1)/tokenTurns) {
		count, ownTime := countTexts(turn, own)
		want, otherTime := countTexts(turn, other)
		if count != want {
			return r, fmt.Errorf("counted %d tokens, and the reference %d", count, want)
		}
		r.own, r.other = r.own+ownTime, r.other+otherTime
		r.ratios = append(r.ratios, otherTime.Seconds()/ownTime.Seconds())
		for _, text := range turn {
			r.bytes += len(text)
		}
	}
	return r, nil
}

func countTexts(texts []string, count func(string) int) (n int, took time.Duration) {
	runtime.GC()
	begin := time.Now()
	for _, text := range texts {
		n += count(text)
	}
	return n, time.Since(begin)
}

// englishTexts are the turns of meetings.
func englishTexts(dataDir string) (texts []string, err error) {
	file, err := os.Open(filepath.Join(dataDir, "qmsum", "val.jsonl"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var meeting struct {
			Turns []struct{ Speaker, Content string } `json:"meeting_transcripts"`
		}
		if err := json.Unmarshal(lines.Bytes(), &meeting); err != nil {
			return nil, err
		}
		var text strings.Builder
		for _, turn := range meeting.Turns {
			fmt.Fprintf(&text, "%s: %s\n", turn.Speaker, turn.Content)
			if text.Len() > textSize {
				texts = append(texts, text.String())
				text.Reset()
			}
		}
	}
	return texts, lines.Err()
}

// codeTexts are files of Go's library.
func codeTexts(string) (texts []string, err error) {
	root, err := exec.CommandContext(context.Background(), "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("finding the sources of Go: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(root)), "src", "net", "http", "*.go"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		texts = append(texts, cutText(string(text))...)
	}
	return texts, nil
}

// chineseTexts shuffles the sentences of a text, so that no two texts are the
// same. The text is in the repository, where this has to run.
func chineseTexts(string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join("internal", "tokens", "testdata", "chinese.txt"))
	if err != nil {
		return nil, fmt.Errorf("%w; run the benchmark at the root of the repository", err)
	}
	sentences := strings.Split(strings.TrimSpace(string(text)), "\n")
	random := rand.New(rand.NewPCG(7, 8))
	texts := make([]string, 200)
	for i := range texts {
		random.Shuffle(len(sentences), func(i, j int) { sentences[i], sentences[j] = sentences[j], sentences[i] })
		texts[i] = strings.Join(sentences, "")
	}
	return texts, nil
}

// cutText cuts a text at the ends of lines into pieces of about textSize.
func cutText(text string) (pieces []string) {
	for len(text) > textSize {
		end := textSize
		if line := strings.IndexByte(text[end:], '\n'); line >= 0 {
			end += line + 1
		} else {
			end = len(text)
		}
		pieces = append(pieces, text[:end])
		text = text[end:]
	}
	return append(pieces, text)
}

// hostileTexts take quadratic time elsewhere.
var hostileTexts = []struct {
	name string
	make func(size int) string
}{
	{"one letter", func(n int) string { return strings.Repeat("a", n) }},
	{"spaces", func(n int) string { return strings.Repeat(" ", n) }},
	{`<\|endoftext\|>`, func(n int) string { return strings.Repeat("<|endoftext|>", n/13) }},
	{"random letters", func(n int) string {
		random := rand.New(rand.NewPCG(3, 4))
		text := make([]byte, n)
		for i := range text {
			text[i] = 'a' + byte(random.IntN(26))
		}
		return string(text)
	}},
	{"combining marks", func(n int) string { return strings.Repeat("\u0301", n/2) }},
}

// hostile prints the time for a byte at three sizes, the least of several tries:
// it stays the same where time is linear.
func hostile(out io.Writer, encoding *tokens.Encoding) {
	sizes := []int{64 << 10, 256 << 10, 1 << 20}
	fmt.Fprint(out, "\n| ns a byte | 64 KiB | 256 KiB | 1 MiB |\n| --- | --- | --- | --- |\n")
	for _, text := range hostileTexts {
		fmt.Fprintf(out, "| %s |", text.name)
		for _, size := range sizes {
			fmt.Fprintf(out, " %.1f |", perByte(text.make(size), encoding.Count))
		}
		fmt.Fprintln(out)
	}
}

func perByte(text string, count func(string) int) float64 {
	const tries = 9
	least := time.Duration(1<<63 - 1)
	for range tries {
		begin := time.Now()
		count(text)
		least = min(least, time.Since(begin))
	}
	return float64(least.Nanoseconds()) / float64(len(text))
}
