package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
)

// runBatch measures what grouping brings: leader first and the order of
// offline requests on a trace, and embeddings that share calls.
func runBatch(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("batch", flag.ContinueOnError)
	data := flags.String("data", os.Getenv("PROCESSOR_DATA"), "the directory of the data sets, else that of PROCESSOR_DATA")
	requests := flags.Int("requests", 5000, "embeddings requests a turn; 0 leaves them out")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *data == "" {
		fmt.Fprint(out, "Leader first and the offline order are left out: they need the data sets (-data or PROCESSOR_DATA).\n\n")
	} else if err := leaderFirst(out, *data); err != nil {
		return err
	} else if err := offlineOrders(out, *data); err != nil {
		return err
	}
	if *requests == 0 {
		return nil
	}
	return embeddingsShared(ctx, out, *requests)
}
