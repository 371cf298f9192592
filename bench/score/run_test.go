package score

import (
	"io"
	"os"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	var w io.Writer = os.Stdout
	if err := Run(w, os.Getenv("PROCESSOR_DATA"), strings.Fields(os.Getenv("ARGS"))); err != nil {
		t.Fatal(err)
	}
}
