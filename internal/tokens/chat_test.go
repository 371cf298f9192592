package tokens

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"image"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

func counter(tb testing.TB, own ...Rule) *Counter {
	tb.Helper()
	c, err := NewCounter(append(DefaultTable(), own...))
	require.NoError(tb, err)
	return c
}

func chat(tb testing.TB, model, body string) Count {
	tb.Helper()
	count, err := counter(tb).Chat(model, []byte(body))
	require.NoError(tb, err)
	return count
}

// The example of OpenAI's cookbook "How to count tokens with tiktoken" (MIT
// licence), with the numbers that the API billed.
const cookbookMessages = `{"model":"x","messages":[
	{"role":"system","content":"You are a helpful, pattern-following assistant that translates corporate jargon into plain English."},
	{"role":"system","name":"example_user","content":"New synergies will help drive top-line growth."},
	{"role":"system","name":"example_assistant","content":"Things working well together will increase revenue."},
	{"role":"system","name":"example_user","content":"Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage."},
	{"role":"system","name":"example_assistant","content":"Let's talk later when we're less busy about how to do better."},
	{"role":"user","content":"This late pivot means we don't have time to boil the ocean for the client deliverable."}]}`

func TestChatCountsAsOpenAIBilled(t *testing.T) {
	for model, billed := range map[string]int{
		"gpt-3.5-turbo-0301": 127,
		"gpt-3.5-turbo-0613": 129,
		"gpt-4-0613":         129,
		"gpt-4":              129,
		"gpt-4o":             124,
		"gpt-4o-mini":        124,
	} {
		require.Equal(t, Count{Messages: billed}, chat(t, model, cookbookMessages), model)
	}
}

func TestChatCountsFunctionsByTheCookbook(t *testing.T) {
	body := `{"messages":[
		{"role":"system","content":"You are a helpful assistant that can answer to questions about the weather."},
		{"role":"user","content":"What's the weather like in San Francisco?"}],
		"tools":[{"type":"function","function":{"name":"get_current_weather","description":"Get the current weather in a given location",
			"parameters":{"type":"object","properties":{
				"location":{"type":"string","description":"The city and state, e.g. San Francisco, CA"},
				"unit":{"type":"string","description":"The unit of temperature to return","enum":["celsius","fahrenheit"]}},
			"required":["location"]}}}]}`
	for model, billed := range map[string]int{"gpt-3.5-turbo": 105, "gpt-4": 105, "gpt-4o": 101, "gpt-4o-mini": 101} {
		require.Equal(t, billed, chat(t, model, body).Total(), model)
	}
}

func TestChatCountsEachPart(t *testing.T) {
	enc := load(t, O200kBase)
	n := func(texts ...string) int {
		sum := 0
		for _, text := range texts {
			sum += enc.Count(text)
		}
		return sum
	}
	for name, c := range map[string]struct {
		body string
		want Count
	}{
		"nothing":        {`{}`, Count{Messages: 3}},
		"no messages":    {`{"messages":[]}`, Count{Messages: 3}},
		"empty message":  {`{"messages":[{}]}`, Count{Messages: 6}},
		"escapes":        {`{"messages":[{"content":"caf\u00e9\n\ud83d\ude00"}]}`, Count{Messages: 6 + n("café\n😀")}},
		"escaped member": {`{"messages":[{"c\u006fntent":"hello there"}]}`, Count{Messages: 6 + n("hello there")}},
		"parts": {
			`{"messages":[{"role":"user","content":[{"type":"text","text":"one two"},{"type":"text","text":"three"},"four",{"type":"refusal","refusal":"no"}]}]}`,
			Count{Messages: 6 + n("user", "one two", "three", "four", "no")},
		},
		"calls": {
			`{"messages":[{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},
			  {"role":"tool","tool_call_id":"call_1","content":"42"},{"role":"assistant","function_call":{"name":"g","arguments":"{}"}}]}`,
			Count{Messages: 3*3 + 3 + 2*perCall + n("assistant", "f", `{"a":1}`, "tool", "42", "assistant", "g", "{}")},
		},
		"nested function": {
			`{"functions":[{"description":"Do it.","name":"f","parameters":{"type":"object","properties":{"a":{"type":"object","properties":{"b":{"type":"array","items":{"type":"string"}}}}}}}]}`,
			Count{Messages: 3, Tools: 7 + 12 + n("f", ":Do it") + 2*(perProperties+perProperty) + n("a", ":object", "b", ":array", ":string")},
		},
		"two functions share the end": {
			`{"tools":[{"function":{"name":"f"}},{"function":{"name":"g"}}]}`,
			Count{Messages: 3, Tools: 2*7 + 12 + n("f", "g")},
		},
		"schema for the answer": {
			`{"response_format":{"type":"json_schema","json_schema":{"name":"answer","strict":true,"schema": { "type" : "object" } }}}`,
			Count{Messages: 3, Tools: perSchema + n("answer", `{"type":"object"}`)},
		},
		"json mode":         {`{"response_format":{"type":"json_object"}}`, Count{Messages: 3}},
		"what is no prompt": {`{"model":"m","temperature":1,"stop":["a b c"],"metadata":{"messages":[{"content":"x"}]},"processor":{"template":"t"}}`, Count{Messages: 3}},
		"wrong types":       {`{"messages":[1,"x",null,[],{"role":5,"content":{"text":"x"},"name":7,"tool_calls":3}],"tools":{"a":1},"functions":[4],"response_format":"x"}`, Count{Messages: 3 + 5*3, Tools: 7 + 12}},
		"image without URL": {`{"messages":[{"content":[{"type":"image_url","image_url":{"detail":"low"}}]}]}`, Count{Messages: 6, Images: 85}},
		"image to fetch":    {`{"messages":[{"content":[{"type":"image_url","image_url":{"url":"https://example.com/a.png"}}]}]}`, Count{Messages: 6, Images: 765}},
		"image as a string": {`{"messages":[{"content":[{"type":"image_url","image_url":"https://example.com/a.png"}]}]}`, Count{Messages: 6, Images: 765}},
		"image of known size": {
			`{"messages":[{"content":[{"type":"image_url","image_url":{"detail":"high","url":"` + pngURL(t, 1024, 512) + `"}}]}]}`,
			Count{Messages: 6, Images: 85 + 2*170},
		},
	} {
		if diff := cmp.Diff(c.want, chat(t, "gpt-4o", c.body)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestChatRejectsWhatIsNoRequest(t *testing.T) {
	deep := strings.Repeat(`{"properties":{"a":`, 20_000)
	for body, want := range map[string]string{
		``:                             "unexpected EOF",
		`[]`:                           "the body is a JSON [: want an object",
		`"x"`:                          "the body is a JSON string: want an object",
		`{`:                            "unexpected EOF",
		`{"messages":[{"content":"x"`:  "unexpected EOF",
		`{"messages":[}`:               "invalid character",
		`{} {}`:                        "there is more after the JSON object",
		`{"messages":[],"messages":1}`: "duplicate object member name",
		`{"a":{"b":1,"b":2}}`:          "duplicate object member name",
		"{\"a\":\"\xff\"}":             "invalid UTF-8",
		`{"a":"\ud800"}`:               "surrogate",
		`{"tools":[{"function":{"parameters":` + deep:                                          "exceeded max depth",
		`{"messages":` + strings.Repeat("[", 20_000):                                           "exceeded max depth",
		`{"response_format":{"json_schema":{"schema":` + strings.Repeat(`{"a":`, 20_000) + `1`: "exceeded max depth",
	} {
		_, err := counter(t).Chat("gpt-4o", []byte(body))
		require.ErrorContainsf(t, err, "counting the tokens of a chat request: ", "%.80s", body)
		require.ErrorContainsf(t, err, want, "%.80s", body)
	}
	// A body that failed leaves nothing behind for the next one.
	require.Equal(t, Count{Messages: 3}, chat(t, "gpt-4o", `{}`))
}

func TestEmbeddings(t *testing.T) {
	c := counter(t)
	for body, want := range map[string][2]int{ // all together, and the longest input
		`{"model":"m","input":"hello world"}`:     {2, 2},
		`{"input":["hello world","hello"]}`:       {3, 2},
		`{"input":[1,2,3,4]}`:                     {4, 4},
		`{"input":[[1,2,3],[4,5]]}`:               {5, 3},
		`{"input":[],"dimensions":256}`:           {0, 0},
		`{"input":{"a":1},"encoding_format":"x"}`: {0, 0},
	} {
		count, err := c.Embeddings("text-embedding-3-small", []byte(body))
		require.NoError(t, err)
		require.Equal(t, want, [2]int{count.Total(), count.Longest}, body)
	}
	_, err := c.Embeddings("text-embedding-3-small", []byte(`{"input":`))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.ErrorContains(t, err, "counting the tokens of an embeddings request: ")
}

func TestFactorScalesTexts(t *testing.T) {
	body := `{"messages":[{"role":"user","content":"` + strings.Repeat("hello ", 100) + `"}]}`
	exact := chat(t, "gpt-4o", body).Total()
	require.InDelta(t, 1.2*float64(exact), float64(chat(t, "claude-sonnet-4-5", body).Total()), 1)
	n, err := counter(t).Text("claude-sonnet-4-5", "hello world")
	require.NoError(t, err)
	require.Equal(t, 3, n)
}

func TestChatSteadyStateAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool drop items at random")
	}
	c := counter(t)
	body := []byte(cookbookMessages)
	_, err := c.Chat("gpt-4o", body)
	require.NoError(t, err)
	require.Zero(t, testing.AllocsPerRun(50, func() { _, _ = c.Chat("gpt-4o", body) }))
}

func FuzzChat(f *testing.F) {
	f.Add([]byte(cookbookMessages))
	f.Add([]byte(`{"tools":[{"function":{"name":"f","parameters":{"properties":{"a":{"enum":["x"]}}}}}],"response_format":{"json_schema":{"schema":{}}}}`))
	f.Add([]byte(`{"messages":[{"content":[{"image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}}]}],"input":[[1]]}`))
	c := counter(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		count, err := c.Chat("gpt-4o", body)
		if valid := json.Valid(body); err == nil && !valid {
			t.Fatalf("%q is no JSON but counts %v", body, count)
		}
		// An enumeration starts at -3, so hostile tools may sum up to little.
		if err == nil && count.Messages < 3 {
			t.Fatalf("%q counts %v", body, count)
		}
		if _, err := c.Embeddings("text-embedding-3-small", body); err == nil && !json.Valid(body) {
			t.Fatalf("%q is no JSON but counts", body)
		}
	})
}

func pngURL(tb testing.TB, width, height int) string {
	tb.Helper()
	var b bytes.Buffer
	require.NoError(tb, png.Encode(&b, image.NewGray(image.Rect(0, 0, width, height))))
	return dataURL("image/png", b.Bytes())
}

func dataURL(media string, data []byte) string {
	return "data:" + media + ";base64," + base64.StdEncoding.EncodeToString(data)
}

func TestImageSize(t *testing.T) {
	picture := image.NewGray(image.Rect(0, 0, 300, 200))
	var asPNG, asJPEG, asGIF bytes.Buffer
	require.NoError(t, png.Encode(&asPNG, picture))
	require.NoError(t, jpeg.Encode(&asJPEG, picture, nil))
	require.NoError(t, gif.Encode(&asGIF, picture, nil))
	webp := func(format, rest string) string {
		return "RIFF\x00\x00\x00\x00WEBP" + format + rest
	}
	for name, url := range map[string]string{
		"png":  dataURL("image/png", asPNG.Bytes()),
		"jpeg": dataURL("image/jpeg", asJPEG.Bytes()),
		"gif":  dataURL("image/gif", asGIF.Bytes()),
		// Size less one, in 24 bits each; in 14 bits each; in 14 of 16 bits each.
		"webp extended": dataURL("image/webp", []byte(webp("VP8X", "\x0a\x00\x00\x00\x00\x00\x00\x00\x2b\x01\x00\xc7\x00\x00"))),
		"webp lossless": dataURL("image/webp", []byte(webp("VP8L", "\x00\x00\x00\x00\x2f\x2b\xc1\x31\x00\x00\x00\x00\x00\x00"))),
		"webp lossy":    dataURL("image/webp", []byte(webp("VP8 ", "\x00\x00\x00\x00\x00\x00\x00\x9d\x01\x2a\x2c\x01\xc8\x00"))),
	} {
		width, height := imageSize([]byte(url))
		require.Equal(t, [2]int{300, 200}, [2]int{width, height}, name)
	}
	for _, url := range []string{
		"", "data:", "data:image/png;base64,", "data:image/png,abc", "https://example.com/x,y;base64", "data:image/png;base64,!!!!",
		dataURL("image/png", asPNG.Bytes()[:20]), dataURL("image/jpeg", asJPEG.Bytes()[:10]), dataURL("image/gif", []byte("GIF89a")),
		dataURL("image/webp", []byte("RIFF")), dataURL("text/plain", []byte("hello")),
	} {
		width, height := imageSize([]byte(url))
		require.Equal(t, [2]int{maxSide, maxSide}, [2]int{width, height}, "%.60q", url)
	}
}

// The examples are those of OpenAI's guide to images, and of its price page.
func TestImageRules(t *testing.T) {
	for _, c := range []struct {
		model         string
		width, height int
		detail        string
		want          int
	}{
		{"gpt-4o", 1024, 1024, "high", 765},
		{"gpt-4o", 2048, 4096, "high", 1105},
		{"gpt-4o", 4096, 8192, "low", 85},
		{"gpt-4o", 128, 64, "auto", 255},
		{"gpt-4o-mini", 128, 64, "high", 2833 + 5667},
		{"gpt-5", 1024, 1024, "high", 70 + 4*140},
		{"o3", 128, 64, "high", 225},
		{"gpt-4.1-mini", 1024, 1024, "", 1659},
		{"gpt-4.1-mini", 1800, 2400, "", 2353},
		{"gpt-4.1-mini", 4000, 1474, "", 2348},
		{"o4-mini", 128, 64, "", 14},
		{"gpt-5.5", 1024, 1024, "high", 1229},
		{"claude-sonnet-4-5", 1000, 1000, "", 1334},
		{"claude-sonnet-4-5", 8000, 8000, "", 1600},
		{"gemini-2.5-pro", 384, 384, "", 258},
		{"gemini-2.5-pro", 960, 540, "", 2 * 258},
		{"gemini-3.1-pro-preview", 960, 540, "", 1120},
		{"gpt-3.5-turbo", 960, 540, "", 0},
		{"gpt-4o", -1, 0, "", 255},
		{"gpt-4.1-mini", 1, 1 << 20, "", 2489},
	} {
		rule, _ := DefaultTable().Lookup(c.model)
		require.Equal(t, c.want, rule.Images.Tokens(c.width, c.height, c.detail), fmt.Sprint(c))
	}
}
