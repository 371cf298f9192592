package compress

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

func newCompressor(t testing.TB, change ...func(*Config)) *Compressor {
	t.Helper()
	config := Defaults()
	for _, f := range change {
		f(&config)
	}
	c, err := New(config, counter(t))
	require.NoError(t, err)
	return c
}

func techniquesOf(names ...string) func(*Config) {
	return func(c *Config) { c.Techniques = names }
}

func bodyOf(t testing.TB, messages ...map[string]string) []byte {
	t.Helper()
	body, err := json.Marshal(map[string]any{"model": "gpt-4o", "messages": messages})
	require.NoError(t, err)
	return body
}

func TestBodyKeepsEveryOtherByte(t *testing.T) {
	c := newCompressor(t)
	body := []byte(`{ "x" : [1.00, 1e400, 12345678901234567890] ,"messages":[{"content":"one  \n\n\n\ntwo","role":"user","y":"\u0041"} ,` +
		`{"role":"user","content":[{"type":"text","text":"a  \n\n\n\nb"},{"type":"image_url","image_url":{"url":"data:  x"}}]}],"z":"  "}`)
	want := `{ "x" : [1.00, 1e400, 12345678901234567890] ,"messages":[{"content":"one\n\ntwo","role":"user","y":"\u0041"} ,` +
		`{"role":"user","content":[{"type":"text","text":"a\n\nb"},{"type":"image_url","image_url":{"url":"data:  x"}}]}],"z":"  "}`
	before := bytes.Clone(body)
	got := c.Body(body, Options{})
	require.Equal(t, want, string(got.Body))
	require.Equal(t, before, body, "the given body is not written to")
	require.Positive(t, got.Saved())
	require.False(t, got.Lossy())
	require.Equal(t, 1.0, got.Preservation)
}

func TestNothingToSaveIsTheSameSlice(t *testing.T) {
	c := newCompressor(t)
	body := bodyOf(t, map[string]string{"role": "user", "content": ordinary})
	got := c.Body(body, Options{})
	require.Same(t, &body[0], &got.Body[0])
	require.False(t, got.Changed)
	allocs := testing.AllocsPerRun(100, func() { c.Body(body, Options{}) })
	require.Zero(t, allocs)
}

func TestOff(t *testing.T) {
	body := bodyOf(t, map[string]string{"role": "user", "content": "a  \n\n\n\nb"})
	require.True(t, newCompressor(t).Body(body, Options{}).Changed)
	require.False(t, newCompressor(t).Body(body, Options{Off: true}).Changed)
	require.False(t, newCompressor(t, func(c *Config) { c.Enabled = false }).Body(body, Options{}).Changed)
	require.False(t, newCompressor(t).Body(body, Options{Techniques: []string{}}).Changed)
}

func TestBodiesOfAnyShapeAreLeftAlone(t *testing.T) {
	c := newCompressor(t)
	for _, body := range []string{
		``, `[]`, `"x"`, `{}`, `{"messages":null}`, `{"messages":{}}`, `{"messages":[]}`, `{"messages":[1,null,"x",[]]}`,
		`{"messages":[{"role":"user"}]}`, `{"messages":[{"role":"user","content":null}]}`,
		`{"messages":[{"role":"user","content":[1,{"type":"text"},{"type":"text","text":1}]}]}`,
		`{"messages":[{"role":"user","content":"\ud800 a  \n\n\n\nb"}]}`,
	} {
		got := c.Body([]byte(body), Options{})
		require.Equal(t, body, string(got.Body))
	}
}

func TestTablesRoundTrip(t *testing.T) {
	rows := func(row string) string { return "[" + strings.TrimSuffix(strings.Repeat(row+",", 4), ",") + "]" }
	for _, value := range []string{
		rows(`{"id":1,"name":"a"}`),
		rows(`{"a":"","b":" x","c":"x ","d":"1","e":"-0.5e3","f":"true","g":"null","h":null,"i":false}`),
		rows(`{"a":1.00,"b":12345678901234567890,"c":1e400,"d":-0}`),
		rows(`{"a":"tab\there","b":"quote\"","c":"{x}","d":"[1]","e":"\"q\"","f":"a  b","g":"\u0041","h":"x|y"}`),
		rows(`{"a":{"b":[1,2,{"c":"d"}]},"e":[],"f":{}}`),
		rows(`{"":1," ":2,"[x]":3,"a\"b":4,"true":5}`),
		`{"total":4,"items":` + rows(`{"id":1,"name":"x"}`) + `,"more":{"list":` + rows(`{"k":"v"}`) + `}}`,
		`[` + rows(`{"id":1}`) + `,` + rows(`{"id":2}`) + `]`,
	} {
		text, ok := encodeTables([]byte(value))
		require.True(t, ok, value)
		back, err := DecodeTables(text)
		require.NoError(t, err, text)
		require.Equal(t, value, string(back), text)
	}
}

func TestNoTableWhereRowsDiffer(t *testing.T) {
	for _, value := range []string{
		`[{"a":1},{"a":2}]`, `[{"a":1},{"a":2},{"b":3}]`, `[{"a":1},{"a":2},{"a":3,"b":4}]`, `[{"a":1,"b":1},{"b":2,"a":2},{"a":3,"b":3}]`,
		`[{},{},{}]`, `[1,2,3]`, `[{"a":1},{"a":2},3]`, `{"x":"@table1","y":[{"a":1},{"a":2},{"a":3}]}`,
	} {
		_, ok := encodeTables([]byte(value))
		require.False(t, ok, value)
	}
}

func TestExamplesOfAnswersKeepTheirForm(t *testing.T) {
	array := "[" + strings.TrimSuffix(strings.Repeat(`{ "id": 1, "name": "x" },`, 8), ",") + "]"
	content := "Answer like this:\n```json\n" + array + "\n```\n"
	for _, from := range []string{"system", "developer", "assistant"} {
		got := newCompressor(t).Body(bodyOf(t, map[string]string{"role": from, "content": content}), Options{})
		require.Contains(t, string(got.Body), `[{\"id\":1,\"name\":\"x\"},`, from)
	}
	got := newCompressor(t).Body(bodyOf(t, map[string]string{"role": "tool", "content": content}), Options{})
	require.Contains(t, string(got.Body), `[8]{id\tname}:\n1\tx\n`)
}

func TestLogsRoundTrip(t *testing.T) {
	var b strings.Builder
	for i := range 40 {
		fmt.Fprintf(&b, "2026-01-02 10:00:%02d INFO request %d from 10.0.0.%d took %dms\n", i, 1000+i, i%3, i*7%50)
		if i%10 == 9 {
			b.WriteString("2026-01-02 10:00:00 ERROR | out of memory = panic\n\tat main.go:12\n")
		}
	}
	log := strings.TrimSuffix(b.String(), "\n")
	edits := logEdits(log, roleTool)
	require.Len(t, edits, 1)
	folded := edits[0].with
	require.Less(t, len(folded), len(log)*3/4)
	back, err := DecodeLog(folded)
	require.NoError(t, err)
	require.Equal(t, log, back)
	require.Empty(t, logEdits(folded, roleTool), "a folded log is not folded again")
}

func TestLogSummaryIsForLongToolOutputAlone(t *testing.T) {
	var b strings.Builder
	for i := range 400 {
		fmt.Fprintf(&b, "2026-01-02 10:00:%02d INFO request %d took %dms\n", i%60, 1000+i, i*7%50)
		if i == 200 {
			b.WriteString("2026-01-02 10:03:20 ERROR disk /dev/sda1 is full\n")
		}
	}
	off := false
	lossy := Options{PreserveMeaning: &off}
	c := newCompressor(t)
	user := c.Body(bodyOf(t, map[string]string{"role": "user", "content": b.String()}), lossy)
	require.False(t, user.Lossy())
	tool := bodyOf(t, map[string]string{"role": "tool", "content": b.String()})
	require.False(t, c.Body(tool, Options{}).Lossy())
	got := c.Body(tool, lossy)
	require.True(t, got.Lossy())
	require.Contains(t, string(got.Body), "disk /dev/sda1 is full")
	require.Contains(t, string(got.Body), "request 1000 took")
	require.Contains(t, string(got.Body), "request 1399 took")
	require.Contains(t, string(got.Body), "[400 lines like it]")
	require.Less(t, got.Sent*10, got.Original)
}

func TestRepeatsRoundTrip(t *testing.T) {
	block := "Terms of service for everybody who reads this\nRule one is that there are rules for all\nRule two is in the book of rules\nRule three is left to the reader\n"
	text := "Intro\n" + block + "Middle\n" + block + "End\n" + block
	out := splice(text, repeatEdits(text, roleUser))
	require.Less(t, len(out), len(text)*2/3)
	back, err := DecodeRepeats(out)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(text, back))
	require.Empty(t, repeatEdits("```go\n"+text+"```\n", roleUser), "code keeps its lines")
	forged := "[3 lines again from: Intro]\n" + text
	require.Empty(t, repeatEdits(forged, roleUser), "a text that holds a reference of its own stays")
}

// hostile are inputs that cost time or break parsers.
var hostile = map[string]string{
	"nested arrays":       strings.Repeat("[", 450_000) + strings.Repeat("]", 450_000),
	"nested objects":      strings.Repeat(`{"a":`, 150_000) + "1" + strings.Repeat("}", 150_000),
	"nested rows":         strings.Repeat(`[{"a":`, 400) + "1" + strings.Repeat(`},{"a":1},{"a":2}]`, 400),
	"wide table":          "[" + strings.Repeat("{"+strings.TrimSuffix(strings.Repeat(`"column": 1, `, 20_000), ", ")+"},", 3) + "{}]",
	"wide markdown":       "|" + strings.Repeat(" a |", 100_000) + "\n|" + strings.Repeat("---|", 100_000) + "\n|" + strings.Repeat(" b |", 100_000),
	"one line":            strings.Repeat("lorem ipsum dolor ", 50_000),
	"one character":       strings.Repeat("a", 900_000),
	"blanks":              strings.Repeat(" ", 900_000),
	"newlines":            strings.Repeat("\n", 900_000),
	"open fence":          "```json\n" + strings.Repeat("{ \"a\": 1 }\n", 50_000),
	"fences":              strings.Repeat("```\n", 200_000),
	"fence marks":         strings.Repeat("`", 900_000),
	"open brackets":       strings.Repeat("[\n", 400_000),
	"brackets, no JSON":   strings.Repeat("[a\n", 150_000) + strings.Repeat("]\n", 150_000),
	"open quotes":         strings.Repeat("{\"\n", 300_000),
	"backslashes":         `["` + strings.Repeat(`\`, 900_000),
	"quotes":              strings.Repeat(`{"\"`, 200_000),
	"broken encoding":     strings.Repeat("{ \"a\": \"\xff\xfe\" }\n", 50_000),
	"mixed encodings":     strings.Repeat("na\xefve caf\xe9 naïve  café \xe2\x80 \u200b\n\n\n\n", 20_000),
	"escapes":             strings.Repeat("\x1b[", 450_000),
	"open escape":         strings.Repeat("\x1b]", 450_000),
	"open tags":           strings.Repeat("<a \"", 200_000) + "</",
	"tags":                "<div>" + strings.Repeat("<div>", 150_000) + "</div>",
	"open comment":        "<html>" + strings.Repeat("<!-- ", 150_000) + "</html>",
	"same lines":          strings.Repeat("the same line over and over, again and again and again\n", 15_000),
	"log":                 strings.Repeat("10:00:00 INFO x=1 y=2 {} <> {*} <*>\n", 20_000),
	"log with many holes": strings.Repeat("10:00:00 INFO"+strings.Repeat(" 1a", 2_000)+"\n", 100),
	"data":                strings.Repeat("data:a;base64,", 60_000),
	"table rows":          strings.Repeat("|-|\n", 200_000),
	"short runs":          strings.Repeat("a  b", 200_000),
	"null bytes":          strings.Repeat("\x00", 900_000),
	"no space, CJK":       strings.Repeat("数据", 150_000),
}

var everyPass = techniquesOf(Structural, HTML, DataURIs, LogSummary, Comments)

func TestHostileInputIsBounded(t *testing.T) {
	c := newCompressor(t, everyPass)
	c.count = cheap // the passes are meant, not the counting
	for name, text := range hostile {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			for _, from := range []role{roleTool, roleUser} {
				r, ok := rewrite(text, from, c.passes, c.count)
				if ok {
					require.Less(t, r.sent, r.original)
				}
			}
			// Two passes over 900 KB take well under a second when they are
			// linear; the bound only tells that from quadratic time.
			require.Less(t, time.Since(start), 2*time.Minute)
		})
	}
}

func BenchmarkOrdinaryBody(b *testing.B) {
	c := newCompressor(b)
	body := bodyOf(b, map[string]string{"role": "system", "content": "You are a helpful assistant."}, map[string]string{"role": "user", "content": ordinary})
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		c.Body(body, Options{})
	}
}

// ordinary is a prompt of about 1 KB as applications send them.
var ordinary = `You help the support team of a shop for outdoor equipment. Read the message of the customer and answer in a friendly tone.

Rules:
- Never promise a refund before the article has come back.
- Name the order number when the customer gave one.
- If the question is about delivery, say that it takes 3 to 5 working days [see the terms].

Customer: Hello, I ordered a tent (order 2026-11-0042, the "Fjell 3") two weeks ago and it has not arrived yet. The tracking page says "in transit" since Monday. I leave for my trip on Friday! Could you find out where it is, and, if it cannot be here by Thursday, cancel the order? I'd rather buy one in the city than go without. Also: does the footprint come with it or do I have to order it apart? Your page says both, which confuses me a little; the picture shows it, the list of parts does not. My daughter's sleeping bag (the small green one) came last week and is very nice, thank you for that. Best regards, Anna

Answer:`
