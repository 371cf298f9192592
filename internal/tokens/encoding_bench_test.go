package tokens

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkAgainstReference counts each text of a corpus once with either
// encoder, in turns of a fifth of the texts so that both meet the same machine,
// and reports the ratio of their times: the median over the turns, since a busy
// machine disturbs single ones. Garbage is collected before a turn is timed, so
// that neither pays for what the other left. Run it with -benchtime=1x: then
// each text is new.
func BenchmarkAgainstReference(b *testing.B) {
	for _, corpus := range corpora {
		for _, name := range []string{O200kBase, CL100kBase} {
			b.Run(corpus.name+"/"+name, func(b *testing.B) {
				texts := corpus.read(b)
				enc, ref := load(b, name), reference(b, name)
				var own, other time.Duration
				var size, tokens int
				var ratios []float64
				for b.Loop() {
					for batch := range slices.Chunk(texts, (len(texts)+4)/5) {
						count, ownTime := countAll(batch, enc.Count)
						want, otherTime := countAll(batch, func(text string) int { return len(ref.EncodeOrdinary(text)) })
						require.Equal(b, want, count)
						own += ownTime
						other += otherTime
						ratios = append(ratios, float64(otherTime)/float64(ownTime))
						tokens += count
						for _, text := range batch {
							size += len(text)
						}
					}
				}
				slices.Sort(ratios)
				b.ReportMetric(float64(size)/own.Seconds()/1e6, "MB/s")
				b.ReportMetric(float64(size)/other.Seconds()/1e6, "reference-MB/s")
				b.ReportMetric(ratios[len(ratios)/2], "x")
				b.ReportMetric(float64(size)/float64(tokens), "B/token")
			})
		}
	}
}

func countAll(texts []string, count func(string) int) (tokens int, took time.Duration) {
	runtime.GC()
	start := time.Now()
	for _, text := range texts {
		tokens += count(text)
	}
	return tokens, time.Since(start)
}

var corpora = []struct {
	name string
	read func(testing.TB) []string
}{{"english", englishTexts}, {"code", codeTexts}, {"chinese", chineseTexts}}

// BenchmarkCount is the own encoder alone.
func BenchmarkCount(b *testing.B) {
	for _, corpus := range corpora {
		b.Run(corpus.name, func(b *testing.B) {
			texts, enc := corpus.read(b), load(b, CL100kBase)
			size := 0
			for _, text := range texts {
				size += len(text)
			}
			b.SetBytes(int64(size))
			for b.Loop() {
				for _, text := range texts {
					enc.Count(text)
				}
			}
		})
	}
}

// BenchmarkHostile counts texts that take quadratic time elsewhere, at three
// sizes: the time for a byte has to stay the same.
func BenchmarkHostile(b *testing.B) {
	for _, hostile := range hostileTexts {
		for _, size := range []int{64 << 10, 256 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%s/%dKiB", hostile.name, size>>10), func(b *testing.B) {
				enc := load(b, O200kBase)
				text := hostile.make(size)
				b.SetBytes(int64(len(text)))
				for b.Loop() {
					enc.Count(text)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(text)), "ns/B")
			})
		}
	}
}

var hostileTexts = []struct {
	name string
	make func(size int) string
}{
	{"one letter", func(n int) string { return strings.Repeat("a", n) }},
	{"spaces", func(n int) string { return strings.Repeat(" ", n) }},
	{"special tokens", func(n int) string { return strings.Repeat("<|endoftext|>", n/13) }},
	{"random letters", func(n int) string {
		return randomText(rand.New(rand.NewPCG(3, 4)), []rune("abcdefghijklmnopqrstuvwxyz"), n)
	}},
	{"combining marks", func(n int) string { return strings.Repeat("\u0301", n/2) }},
	{"random Chinese", func(n int) string {
		return randomText(rand.New(rand.NewPCG(5, 6)), []rune("的一是不了在人有我他这中大来上国"), n/3)
	}},
	{"capitals, one caseless", func(n int) string { return strings.Repeat("あ"+strings.Repeat("D", 1000), n/1003) }},
	{"spaces, one line", func(n int) string { return strings.Repeat("\n"+strings.Repeat(" ", 1000), n/1001) }},
	{"invalid", func(n int) string { return strings.Repeat("\xff", n) }},
}

// englishTexts are the turns of meetings, in texts of about 8 KB.
func englishTexts(tb testing.TB) []string {
	file, err := os.Open(filepath.Join(dataDir(tb), "qmsum", "val.jsonl"))
	require.NoError(tb, err)
	defer file.Close()
	var texts []string
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var meeting struct {
			Turns []struct{ Speaker, Content string } `json:"meeting_transcripts"`
		}
		require.NoError(tb, json.Unmarshal(lines.Bytes(), &meeting))
		var text strings.Builder
		for _, turn := range meeting.Turns {
			fmt.Fprintf(&text, "%s: %s\n", turn.Speaker, turn.Content)
			if text.Len() > 8<<10 {
				texts = append(texts, text.String())
				text.Reset()
			}
		}
	}
	require.NoError(tb, lines.Err())
	return texts
}

// codeTexts are files of Go's library, in texts of at most 8 KB.
func codeTexts(tb testing.TB) []string {
	files, err := filepath.Glob(filepath.Join(goSources(tb), "net", "http", "*.go"))
	require.NoError(tb, err)
	if len(files) == 0 {
		tb.Skip("the sources of Go are not here")
	}
	var texts []string
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(tb, err)
		for chunk := range chunks(data, 8<<10) {
			texts = append(texts, string(chunk))
		}
	}
	return texts
}

// chineseTexts shuffles sentences, so that no two texts are the same.
func chineseTexts(tb testing.TB) []string {
	data, err := os.ReadFile(filepath.Join("testdata", "chinese.txt"))
	require.NoError(tb, err)
	sentences := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	random := rand.New(rand.NewPCG(7, 8))
	texts := make([]string, 200)
	for i := range texts {
		random.Shuffle(len(sentences), func(i, j int) { sentences[i], sentences[j] = sentences[j], sentences[i] })
		texts[i] = string(bytes.Join(sentences, nil))
	}
	return texts
}
