// Package tokens counts the tokens of texts and requests, and what they cost.
//
// An Encoding counts text exactly as OpenAI's tokenizers do, in linear time and
// without allocation: text is cut into pieces by hand-written functions
// (pieces.go), and a piece is a token of the vocabulary or merged from several
// (vocabulary.go, trie.go, merge.go). A Counter counts whole requests, by the
// rules of a Table that names models. Prices turn counts into dollars, and a
// Calibration learns from bills what the counts get wrong.
package tokens
