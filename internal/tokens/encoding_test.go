package tokens

import (
	"bytes"
	"compress/gzip"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// texts are small texts on which encoders have gone wrong or could.
var texts = map[string]string{
	"empty":        "",
	"english":      "The quick brown fox doesn't jump; it's 12345 o'clock, they'LL say. I'd've\tgone!\n\n  Then...",
	"contractions": "'s 't're 'RE'Ve 'll'LL 'd'M don'T x'ſ 'K he'sx 'lx 're' '",
	"special":      "<|endoftext|> a<|fim_prefix|>b<|endofprompt|><|im_start|>user",
	"numbers":      "1 12 123 1234 12345678 ٣٤٥٦٧ 3.14159 ½Ⅷ 1,000,000",
	"spaces":       "a  b   c \t d\u00a0\u00a0e\u3000f \u2028 g  \r\n\r\n  h\n \n  \n",
	"trailing":     "text with spaces at the end   ",
	"lines":        "a\n\n\nb\r\n\r\nc \n d\n  e//\n/\r\n/x",
	"case":         "HTMLParser parseHTML XMLHttpRequest iPhone McDonald ǅungla ABCdefGHI aB",
	"chinese":      "人工智能正在改变我们的世界。2024年，大型语言模型（LLM）的成本下降了百分之九十！请问：这是为什么？",
	"japanese":     "東京は日本の首都です。カタカナとひらがな、ＡＢＣ１２３も混ざる。",
	"korean":       "안녕하세요, 오늘 날씨가 정말 좋네요. 대한민국",
	"arabic":       "مرحبا بالعالم، كيف حالُكَ اليوم؟ هٰذَا نَصٌّ عَرَبِيٌّ مُشَكَّلٌ ١٢٣",
	"hindi":        "नमस्ते दुनिया, आप कैसे हैं? यह एक परीक्षण है।",
	"thai":         "สวัสดีชาวโลก นี่คือการทดสอบ",
	"emoji":        "👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 😀😃😄 ❤️‍🔥 1️⃣",
	"marks":        "e\u0301\u0302\u0303 \u0301a \u0301\u0301B A\u0301BC \u0301AB ǅ\u0301",
	"mixed":        "ABCあDEFgh あABC あい'S ʰABCʰ ªA º's Aª's",
	"invalid":      "a\xff\xfe b\xc3(\xe4\xb8 \xed\xa0\x80 \xf4\x90\x80\x80z\xe4",
	"nul":          "\x00\x00a\x00 \x7f\u0085\u200b\ufeffx",
	"code":         "func main() {\n\tfor i := 0; i < 10; i++ {\n\t\tfmt.Println(\"hi\", i) // note\n\t}\n}\n",
	"json":         `{"a":[1,2.5e-3,true,null],"b":{"c":"\u00e9\n"},"id":"550e8400-e29b-41d4-a716-446655440000"}`,
	"long word":    strings.Repeat("abcdefghij", 60) + " " + strings.Repeat("x", 300),
}

func TestEncodesAsTheReference(t *testing.T) {
	for _, name := range Names() {
		t.Run(name, func(t *testing.T) {
			enc, ref := load(t, name), reference(t, name)
			for _, text := range texts {
				requireSame(t, enc, ref, text)
			}
		})
	}
}

// A token in the middle of a piece is found by merging alone, so tokens are
// tried as pieces and between letters that make them part of one.
func TestEncodesTokens(t *testing.T) {
	for _, name := range []string{O200kBase, CL100kBase, P50kBase, R50kBase} {
		t.Run(name, func(t *testing.T) {
			enc, ref := load(t, name), reference(t, name)
			for token := 0; token < enc.vocab.size(); token += 7 * slower {
				text := enc.Decode(nil, []int{token})
				if len(text) == 0 || len(text) > 32 {
					continue
				}
				requireSame(t, enc, ref, string(text))
				requireSame(t, enc, ref, "q"+string(bytes.TrimSpace(text))+"z")
			}
		})
	}
}

// Merging finds every token but those that only whole pieces are.
func TestEveryTokenIsReachable(t *testing.T) {
	for _, name := range []string{O200kBase, CL100kBase, P50kBase, R50kBase} {
		enc := load(t, name)
		var s scratch
		for token := range uint32(enc.vocab.size()) {
			text := enc.vocab.token(token)
			if len(text) == 0 {
				continue
			}
			found, ok := enc.vocab.lookup(text)
			require.True(t, ok)
			require.Equal(t, token, found)
			require.Equalf(t, []uint32{token}, enc.vocab.merge(text, &s), "%s: %q", name, text)
		}
	}
}

func TestEncodesRandomText(t *testing.T) {
	alphabets := []string{
		"ab", "a ", "aA'sS ", " \n", " \n\ta", "0123456789 ", "<|endoftext|>", "abcdefghijklmnopqrstuvwxyz",
		"的一是不了在人有我他这中大来上国", "aé\u0301Bあʰ ", "\xff\xc3\xa9\xe4\xb8\xad a", "👍🏽\u200d👨 ", "/\r\n a",
	}
	random := rand.New(rand.NewPCG(1, 2))
	for _, name := range Names() {
		enc, ref := load(t, name), reference(t, name)
		for _, alphabet := range alphabets {
			for range 60 {
				requireSame(t, enc, ref, randomText(random, []rune(alphabet), random.IntN(200)))
			}
		}
	}
}

func randomText(random *rand.Rand, alphabet []rune, n int) string {
	var b strings.Builder
	for range n {
		b.WriteRune(alphabet[random.IntN(len(alphabet))])
	}
	return b.String()
}

// dataDir is where the real data is, or the test is skipped.
func dataDir(tb testing.TB) string {
	tb.Helper()
	dir := os.Getenv("PROCESSOR_DATA")
	if dir == "" {
		tb.Skip("set PROCESSOR_DATA to the directory of the data sets to run this")
	}
	return dir
}

func TestEncodesTheDataAsTheReference(t *testing.T) {
	dir := dataDir(t)
	for _, name := range []string{O200kBase, CL100kBase} {
		requireSameTree(t, dir, name, func(string) bool { return true })
	}
}

// goSources is the directory with the sources of Go's library.
func goSources(tb testing.TB) string {
	tb.Helper()
	root, err := exec.CommandContext(tb.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		tb.Skipf("the sources of Go are not here: %v", err)
	}
	return filepath.Join(strings.TrimSpace(string(root)), "src")
}

func TestEncodesSourceCodeAsTheReference(t *testing.T) {
	root := goSources(t)
	dirs := []string{"strings", "unicode", "encoding/json"}[:max(1, 3/slower)]
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(root, dir)); err != nil {
			t.Skipf("the sources of Go are not here: %v", err)
		}
		for _, name := range []string{O200kBase, CL100kBase, R50kBase} {
			requireSameTree(t, filepath.Join(root, dir), name, func(path string) bool { return filepath.Ext(path) == ".go" })
		}
	}
}

// requireSameTree compares on the files below dir, in chunks: the reference
// takes quadratic memory traffic on long texts.
func requireSameTree(t *testing.T, dir, name string, want func(path string) bool) {
	t.Helper()
	enc, ref := load(t, name), reference(t, name)
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !want(path) {
			return err
		}
		data, err := readFile(path)
		if err != nil {
			return err
		}
		for chunk := range chunks(data, 64<<10) {
			requireSame(t, enc, ref, string(chunk))
		}
		return nil
	}))
}

// readFile reads a file, unpacked if it is packed.
func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil || filepath.Ext(path) != ".gz" {
		return readAll(file, err)
	}
	defer file.Close()
	unpacked, err := gzip.NewReader(file)
	return readAll(unpacked, err)
}

func readAll(r io.ReadCloser, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func chunks(data []byte, size int) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(data) > 0 {
			n := min(size, len(data))
			if !yield(data[:n]) {
				return
			}
			data = data[n:]
		}
	}
}

// Hostile texts are encoded right, which is compared at a size that the
// reference can bear, and in linear time: eight times the text may take 32
// times as long here, for the machine's sake, but quadratic time takes 64.
func TestHostileTextsTakeLinearTime(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has nothing to find here, and is slow")
	}
	for _, hostile := range hostileTexts {
		for _, name := range []string{O200kBase, CL100kBase, R50kBase} {
			enc := load(t, name)
			requireSame(t, enc, reference(t, name), hostile.make(2<<10))
			small, large := hostile.make(128<<10), hostile.make(1<<20)
			ratio := math.Inf(1)
			for attempt := 0; attempt < 5 && ratio >= 32; attempt++ {
				ratio = timeOf(enc, large) / timeOf(enc, small)
			}
			require.Lessf(t, ratio, 32.0, "%s on %s", name, hostile.name)
		}
	}
}

func timeOf(enc *Encoding, text string) float64 {
	start := time.Now()
	enc.Count(text)
	return time.Since(start).Seconds()
}

func TestDecodeReturnsTheText(t *testing.T) {
	for _, name := range Names() {
		enc := load(t, name)
		for _, text := range texts {
			require.Equal(t, string([]rune(text)), string(enc.Decode(nil, enc.Encode(nil, text))))
		}
		require.Empty(t, enc.Decode(nil, []int{-1, enc.vocab.size(), 1 << 40}))
	}
}

func TestLoadNamesTheEncodingsItKnows(t *testing.T) {
	_, err := Load("o300k_base")
	require.EqualError(t, err, `unknown encoding "o300k_base": use one of cl100k_base, gpt2, o200k_base, p50k_base, p50k_edit, r50k_base`)
}

func TestEncodeAppends(t *testing.T) {
	enc := load(t, CL100kBase)
	dst := enc.Encode([]int{7}, "hello world")
	require.Equal(t, []int{7, 15339, 1917}, dst)
}

func TestConcurrentUse(t *testing.T) {
	var wg sync.WaitGroup
	requests := counter(t)
	for i := range 16 {
		wg.Go(func() {
			enc, err := Load(Names()[i%len(Names())])
			if err != nil {
				t.Error(err)
				return
			}
			if count, err := requests.Chat("gpt-4", []byte(cookbookMessages)); err != nil || count.Total() != 129 {
				t.Errorf("counted %v, %v: want 129", count, err)
			}
			for _, text := range texts {
				if got, want := enc.Count(text), len(enc.Encode(nil, text)); got != want {
					t.Errorf("%s counts %d, encodes %d: %q", enc.Name(), got, want, text)
				}
			}
		})
	}
	wg.Wait()
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool drop items at random")
	}
	for _, name := range Names() {
		enc := load(t, name)
		for label, text := range texts {
			data := []byte(text)
			dst := enc.Encode(nil, text)
			require.Zerof(t, testing.AllocsPerRun(20, func() {
				enc.Count(text)
				enc.CountBytes(data)
				dst = enc.Encode(dst[:0], text)
			}), "%s on %s", name, label)
		}
	}
}

func TestScratchIsBounded(t *testing.T) {
	s := &scratch{
		tokens:  make([]uint32, maxScratch+1),
		blocked: make([]uint64, maxScratch+1),
		text:    make([]byte, maxScratch+1),
	}
	s.release()
	require.Nil(t, s.tokens)
	require.Nil(t, s.blocked)
	require.Nil(t, s.text)
}

func TestParseVocabularyRejectsDamage(t *testing.T) {
	for ranks, want := range map[string]string{
		"IQ==":               `reading ranks, line 1: no space between token and rank in "IQ=="`,
		"IQ== x":             `reading ranks, line 1: reading the rank: strconv.Atoi: parsing "x": invalid syntax`,
		"IQ== 1\nIg== 1":     "reading ranks, line 2: rank 1 is out of order: want 2 to 2097151",
		"IQ== 99999999":      "reading ranks, line 1: rank 99999999 is out of order: want 0 to 2097151",
		"!!!! 0":             "reading ranks, line 1: decoding the token: illegal base64 data at input byte 0",
		"IQ== 0\nIg== 1\n\n": "reading ranks: 2 tokens: want at least the 256 single bytes",
		"IQ== 0\nIQ== 1":     `reading ranks: token 1 is "!": want each single byte once in the first 256`,
		"IQ== 0\nISE= 1":     `reading ranks: token 1 is "!!": want each single byte once in the first 256`,
	} {
		_, err := parseVocabulary([]byte(ranks))
		require.EqualError(t, err, want, "%q", ranks)
	}
}

func FuzzEncodesAsTheReference(f *testing.F) {
	for _, text := range texts {
		f.Add(text)
	}
	names := []string{O200kBase, CL100kBase, R50kBase, P50kBase}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4096 {
			return
		}
		for _, name := range names {
			requireSame(t, load(t, name), reference(t, name), text)
		}
	})
}
