package main

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

func TestAMessageThatIsTooLargeComesWithAdvice(t *testing.T) {
	t.Parallel()
	var stderr bytes.Buffer
	require.Equal(t, 1, report(&stderr, fmt.Errorf("publishing the request: %w", nats.ErrMaxPayload)))
	require.Contains(t, stderr.String(), "try: make the request shorter")
}
