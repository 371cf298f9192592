package providers

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"math"
	"strconv"

	"github.com/adpa/processor/schemas"
)

const (
	defaultDimensions = 256
	maxDimensions     = 4096
	maxInputs         = 2048 // as OpenAI takes at most
)

// embed answers an embeddings request with vectors made of the words' hashes:
// texts that share words are near each other, and equal texts are equal.
func (s *simulated) embed(call *schemas.Call) (schemas.Answer, error) {
	inputs, dimensions, base := embedRequest(call.Body)
	if len(inputs) > maxInputs {
		return schemas.Answer{}, untranslatable(schemas.Invalid(schemas.CodeInvalidField, "input", "has more than %d texts", maxInputs))
	}
	model := modelName(call.Model)
	out := append([]byte(nil), `{"object":"list","data":[`...)
	size, vector := 0, make([]float32, dimensions)
	for i, input := range inputs {
		size += len(input)
		hashVector(vector, input)
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, `{"object":"embedding","index":`...)
		out = strconv.AppendInt(out, int64(i), 10)
		out = append(out, `,"embedding":`...)
		if base {
			out = appendBase64(out, vector)
		} else {
			out = appendVector(out, vector)
		}
		out = append(out, '}')
		if len(out) > s.cfg.MaxResponse*max(call.Requests, 1) {
			return schemas.Answer{}, untranslatable(schemas.Invalid(schemas.CodeTooLarge, "input", "the vectors do not fit into %d bytes (max_response); ask for fewer texts or dimensions", s.cfg.MaxResponse))
		}
	}
	tokens := tokensOf(size, s.cfg.Simulated.TokenFactor)
	out = append(append(out, `],"model":`...), schemas.Quote(model)...)
	out = append(out, `,"usage":{"prompt_tokens":`...)
	out = strconv.AppendInt(out, int64(tokens), 10)
	out = append(out, `,"total_tokens":`...)
	out = strconv.AppendInt(out, int64(tokens), 10)
	return schemas.Answer{Body: append(out, '}', '}'), Model: model, Usage: schemas.Usage{PromptTokens: tokens, TotalTokens: tokens}}, nil
}

// embedRequest reads the texts of a request. A text given as a list of tokens
// stands for itself.
func embedRequest(body []byte) (inputs [][]byte, dimensions int, base64 bool) {
	dimensions = defaultDimensions
	schemas.Members(body, func(name []byte, _, value schemas.Span) bool {
		switch v := value.Of(body); string(name) {
		case "input":
			inputs = embedInputs(v)
		case "dimensions":
			if n := smallInt(v); n > 0 {
				dimensions = min(n, maxDimensions)
			}
		case "encoding_format":
			base64 = string(v) == `"base64"`
		}
		return true
	})
	return inputs, dimensions, base64
}

func embedInputs(value []byte) (inputs [][]byte) {
	if value[0] == '"' {
		return [][]byte{[]byte(textOf(value))}
	}
	numbers := false
	elements(value, func(element []byte) bool {
		switch element[0] {
		case '"':
			inputs = append(inputs, []byte(textOf(element)))
		case '[':
			inputs = append(inputs, element)
		default:
			numbers = true
		}
		return !numbers && len(inputs) <= maxInputs
	})
	if numbers {
		return [][]byte{value}
	}
	return inputs
}

// hashVector sets v to the unit vector of a text: each word adds one to or takes
// one from the place that its hash gives (feature hashing, Weinberger et al. 2009).
func hashVector(v []float32, text []byte) {
	clear(v)
	for _, word := range bytes.FieldsFunc(text, func(r rune) bool { return r < 0x80 && folded[byte(r)] == 0 }) {
		h := hash(bytes.ToLower(word))
		if h>>63 == 0 {
			v[h%uint64(len(v))]++
		} else {
			v[h%uint64(len(v))]--
		}
	}
	sum := 0.0
	for _, f := range v {
		sum += float64(f) * float64(f)
	}
	if sum == 0 { // no words, or they cancel out
		v[0], sum = 1, 1
	}
	for i := range v {
		v[i] /= float32(math.Sqrt(sum))
	}
}

func appendVector(out []byte, v []float32) []byte {
	out = append(out, '[')
	for i, f := range v {
		if i > 0 {
			out = append(out, ',')
		}
		out = strconv.AppendFloat(out, float64(f), 'g', -1, 32)
	}
	return append(out, ']')
}

// appendBase64 writes little-endian floats, as OpenAI's encoding_format base64 has them.
func appendBase64(out []byte, v []float32) []byte {
	raw := make([]byte, 0, 4*len(v))
	for _, f := range v {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(f))
	}
	out = append(out, '"')
	out = base64.StdEncoding.AppendEncode(out, raw)
	return append(out, '"')
}
