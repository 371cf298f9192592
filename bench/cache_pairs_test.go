package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPairsOfSeveralFilesAreReadOnce(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		return file
	}
	short := write("short.tsv", "1\tWhat is it?\tWhat's that?\t17\n0\tWho?\tWhere?\t1\n1\tWhy?\tHow?\n")
	long := write("long.tsv", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n3\t5\t6\twhat's that ?\twhat is it\t1\n"+
		"4\t7\t8\t\"Is \"\"a\"\" right\"\tIs it?\t1.0\nbroken\n")
	but := write("but.tsv", "0\twhere\t-LRB- who -RRB-\n")
	pairs, err := readPairs([]string{short, long}, []string{but, write("but2.tsv", "1\tHow?\tWhy\n")})
	require.NoError(t, err)
	for i := range pairs {
		pairs[i].second = false
	}
	require.Equal(t, []questionPair{
		{a: "What is it?", b: "What's that?", same: true}, {a: `Is "a" right`, b: "Is it?", same: true},
	}, pairs)
	_, err = readPairs([]string{write("bad.gz", "no")}, nil)
	require.ErrorContains(t, err, "bad.gz")
}

func TestPairsAreWeighedByTheShareOfTheSame(t *testing.T) {
	sum := pairSum{}
	for range 9 {
		sum.add(questionPair{a: "Who is the king of France?", b: "who is king of France", same: true})
	}
	sum.add(questionPair{a: "Who is the king of France?", b: "who is king of France"})
	sum.add(questionPair{a: "Who?", b: "Where?", same: false})
	require.Equal(t, pairSum{n: 11, same: 9, matches: 10, right: 9}, sum)
	require.Contains(t, sum.describe(9./11), "9 of 10 rightly, 90.0 %")
	require.Contains(t, sum.describe(0.5), "9 of 10 rightly, 66.7 %")
}
