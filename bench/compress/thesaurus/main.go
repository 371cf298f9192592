// Command thesaurus makes the table of related words that the compressor reads
// queries with, from what vectors.py wrote into a directory:
//
//	go run ./bench/compress/thesaurus DIRECTORY stages/compress/thesaurus.bin
//
// The form of the table stands in stages/compress/thesaurus.go.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/adpa/processor/stages/compress"
)

const (
	dims = 384
	// nearest is how many neighbours a word has at most, and alike the cosine
	// that they must reach.
	nearest = 8
	alike   = 0.5
)

// word is a stem with the sum of its words' vectors, weighted by frequency.
type word struct {
	stem      string
	frequency float64
	vector    [dims]float64
}

type neighbour struct {
	id     int
	cosine float64
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "thesaurus:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("give the directory of words.txt and vectors.f32, and the file to write")
	}
	words, err := load(args[0])
	if err != nil {
		return err
	}
	center(words)
	table, err := encode(words)
	if err != nil {
		return err
	}
	if err := os.WriteFile(args[1], table, 0o644); err != nil {
		return fmt.Errorf("writing the table: %w", err)
	}
	return nil
}

// load reads the words and puts those of one stem together.
func load(dir string) ([]*word, error) {
	list, err := os.Open(filepath.Join(dir, "words.txt"))
	if err != nil {
		return nil, fmt.Errorf("reading the words: %w", err)
	}
	defer list.Close()
	raw, err := os.ReadFile(filepath.Join(dir, "vectors.f32"))
	if err != nil {
		return nil, fmt.Errorf("reading the vectors: %w", err)
	}
	byStem := map[string]*word{}
	s := bufio.NewScanner(list)
	for s.Scan() {
		var rank int
		var text string
		if _, err := fmt.Sscan(s.Text(), &rank, &text); err != nil {
			return nil, fmt.Errorf("reading the words: %w", err)
		}
		if len(raw) < 4*dims {
			return nil, errors.New("there are fewer vectors than words")
		}
		vector := raw[:4*dims]
		raw = raw[4*dims:]
		terms := compress.Terms(text)
		if len(terms) != 1 {
			continue // it says nothing by itself
		}
		w := byStem[terms[0]]
		if w == nil {
			w = &word{stem: terms[0]}
			byStem[terms[0]] = w
		}
		share := 1 / float64(rank) // Zipf's law
		w.frequency += share
		for i := range w.vector {
			w.vector[i] += share * float64(math.Float32frombits(binary.LittleEndian.Uint32(vector[4*i:])))
		}
	}
	words := make([]*word, 0, len(byStem))
	for _, w := range byStem {
		words = append(words, w)
	}
	slices.SortFunc(words, func(a, b *word) int { return cmp.Compare(a.stem, b.stem) })
	return words, s.Err()
}

// center takes what all words share off the vectors, which makes the cosines
// tell more.
func center(words []*word) {
	var mean [dims]float64
	for _, w := range words {
		normalize(&w.vector)
		for i, x := range w.vector {
			mean[i] += x / float64(len(words))
		}
	}
	for _, w := range words {
		for i := range w.vector {
			w.vector[i] -= mean[i]
		}
		normalize(&w.vector)
	}
}

func normalize(v *[dims]float64) {
	sum := 0.0
	for _, x := range v {
		sum += x * x
	}
	for i := range v {
		v[i] /= math.Sqrt(sum)
	}
}

func encode(words []*word) ([]byte, error) {
	if len(words) > math.MaxUint16 {
		return nil, fmt.Errorf("%d words are more than 16 bits number", len(words))
	}
	index := binary.LittleEndian.AppendUint32(nil, uint32(len(words)))
	var records bytes.Buffer
	for i, w := range words {
		index = binary.LittleEndian.AppendUint32(index, uint32(4+4*len(words)+records.Len()))
		near := neighbours(words, i)
		records.WriteByte(byte(len(w.stem)))
		records.WriteString(w.stem)
		// The logarithm to the base 10 of how often the word comes in a billion.
		records.WriteByte(byte(math.Round(32 * (7.7 + math.Log10(w.frequency)))))
		records.WriteByte(byte(len(near)))
		for _, n := range near {
			records.Write([]byte{byte(n.id), byte(n.id >> 8), byte(math.Round(255 * n.cosine))})
		}
	}
	return append(index, records.Bytes()...), nil
}

// neighbours gives the words nearest to one, the nearest first.
func neighbours(words []*word, i int) []neighbour {
	var near []neighbour
	for k, other := range words {
		cosine := 0.0
		for d := range dims {
			cosine += words[i].vector[d] * other.vector[d]
		}
		if k != i && cosine >= alike {
			near = append(near, neighbour{k, cosine})
		}
	}
	slices.SortFunc(near, func(a, b neighbour) int {
		return cmp.Or(cmp.Compare(b.cosine, a.cosine), cmp.Compare(a.id, b.id))
	})
	return near[:min(len(near), nearest)]
}
