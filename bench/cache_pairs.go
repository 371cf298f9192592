package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"os"
	"strconv"
	"strings"
	"unicode"
)

// questionPair is two questions and whether people found that they ask the same.
type questionPair struct {
	a, b   string
	same   bool
	second bool // it is of the half that is reported
}

// key is the same for a pair that is spaced, quoted or ordered in another way.
func (p questionPair) key() string {
	a, b := plainText(p.a), plainText(p.b)
	return min(a, b) + "|" + max(a, b)
}

// plainText gives the letters and digits of a text, in lower case.
func plainText(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, text)
}

// readPairs reads the pairs of some files, each once, but those of other files.
func readPairs(files, but []string) ([]questionPair, error) {
	seen := map[string]bool{}
	if _, err := newPairs(but, seen); err != nil {
		return nil, err
	}
	return newPairs(files, seen)
}

// newPairs reads the pairs whose keys are not yet seen, and adds them to these.
func newPairs(files []string, seen map[string]bool) (pairs []questionPair, err error) {
	for _, file := range files {
		read, err := readPairFile(file)
		if err != nil {
			return nil, err
		}
		for _, p := range read {
			if key := p.key(); !seen[key] {
				seen[key] = true
				pairs = append(pairs, p)
			}
		}
	}
	return pairs, nil
}

func readPairFile(file string) ([]questionPair, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	read := readTSV
	if strings.HasSuffix(file, ".gz") {
		read = readArchive
	}
	pairs, err := read(f)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	return pairs, nil
}

// readTSV reads lines of a label, 0 or 1, and two questions, or, where there are
// five columns or more, lines that end with two questions and a label. What else
// a file has, such as a heading, is no pair. A hash tells the halves apart.
func readTSV(f *os.File) (pairs []questionPair, err error) {
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), "\t")
		if n := len(fields); n >= 5 {
			fields = []string{fields[n-1], fields[n-3], fields[n-2]}
		}
		if len(fields) < 3 {
			continue
		}
		label, err := strconv.ParseFloat(fields[0], 64)
		if err != nil || label != 0 && label != 1 {
			continue
		}
		p := questionPair{a: brackets.Replace(unquote(fields[1])), b: brackets.Replace(unquote(fields[2])), same: label == 1}
		h := fnv.New64a()
		h.Write([]byte(p.key()))
		p.second = h.Sum64()>>32&1 == 1
		pairs = append(pairs, p)
	}
	return pairs, lines.Err()
}

// brackets are written like this where texts were set apart into words.
var brackets = strings.NewReplacer("-LRB-", "(", "-RRB-", ")", "-LSB-", "[", "-RSB-", "]", "-LCB-", "{", "-RCB-", "}")

// unquote takes off the quotation marks that programs put around a column.
func unquote(text string) string {
	if len(text) >= 2 && text[0] == '"' && text[len(text)-1] == '"' {
		text = strings.ReplaceAll(text[1:len(text)-1], `""`, `"`)
	}
	return text
}

// readArchive reads a JSON list of pairs out of a gzipped tar archive. Of two
// pairs the second is of the second half.
func readArchive(f *os.File) ([]questionPair, error) {
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	archive := tar.NewReader(unzipped)
	for {
		header, err := archive.Next()
		if err != nil {
			return nil, err
		}
		if header.Typeflag == tar.TypeReg && header.Size > 1<<20 {
			break
		}
	}
	var list []struct {
		A     string `json:"text_a"`
		B     string `json:"text_b"`
		Label int    `json:"label"`
	}
	if err := json.NewDecoder(archive).Decode(&list); err != nil {
		return nil, err
	}
	pairs := make([]questionPair, len(list))
	for i, p := range list {
		pairs[i] = questionPair{a: p.A, b: p.B, same: p.Label == 1, second: i%2 == 1}
	}
	return pairs, nil
}
