package compress

import (
	_ "embed"
	"encoding/binary"
	"sort"
)

// thesaurus is a table of English words: how common each is, and which others
// mean nearly the same. It was made of the vocabulary and the embeddings of
// all-MiniLM-L6-v2 (Apache-2.0, thesaurus.LICENSE) by bench/compress/thesaurus;
// the model itself takes no part when a prompt is compressed.
//
// Little endian: the number of words, the offset of each word's record (4 bytes
// each), and the records, sorted by stem: length and bytes of the stem, 32 times
// the logarithm of its frequency in a billion words, the number of neighbours,
// and of each its number (2 bytes) and 255 times its cosine (1 byte), the
// nearest first. It is read where it lies, so it costs nothing to load.
//
//go:embed thesaurus.bin
var thesaurus []byte

// wordEntry is a record of the thesaurus.
type wordEntry struct {
	stem []byte
	rest []byte // behind the stem
}

func thesaurusSize() int { return int(binary.LittleEndian.Uint32(thesaurus)) }

func thesaurusAt(i int) wordEntry {
	record := thesaurus[binary.LittleEndian.Uint32(thesaurus[4+4*i:]):]
	n := 1 + int(record[0])
	return wordEntry{record[1:n], record[n:]}
}

// lookUp finds a stem.
func lookUp(stem string) (e wordEntry, found bool) {
	n := thesaurusSize()
	i := sort.Search(n, func(i int) bool { return string(thesaurusAt(i).stem) >= stem })
	if i == n {
		return e, false
	}
	e = thesaurusAt(i)
	return e, string(e.stem) == stem
}

// frequency is the logarithm to the base 10 of how often the word comes in a
// billion words: 7.7 for the most common, 3.3 for the rarest of the table.
func (e wordEntry) frequency() float64 { return float64(e.rest[0]) / 32 }

// eachRelated calls visit for the words that mean nearly the same, the nearest
// first, with the cosine of the two.
func (e wordEntry) eachRelated(visit func(stem []byte, cosine float64)) {
	for i := range int(e.rest[1]) {
		r := e.rest[2+3*i:]
		visit(thesaurusAt(int(binary.LittleEndian.Uint16(r))).stem, float64(r[2])/255)
	}
}
