package main

import (
	"context"
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/httpserver"
)

func TestHealthTellsWhetherAProcessIsReady(t *testing.T) {
	t.Parallel()
	state := errors.New("not connected to NATS")
	s, err := httpserver.Start(httpserver.Config{Addr: "127.0.0.1:0"}, prometheus.NewRegistry(), func() error { return state })
	require.NoError(t, err)
	_, err = askReady(t.Context(), s.Addr())
	require.ErrorContains(t, err, "not ready: not connected to NATS")

	state = nil
	said, err := askReady(t.Context(), s.Addr())
	require.NoError(t, err)
	require.Equal(t, "ready", said)

	require.NoError(t, s.Close(context.Background()))
	_, err = askReady(t.Context(), s.Addr())
	require.ErrorContains(t, err, "asking whether the process is ready")
}

func TestAnAddressOfAllInterfacesIsAskedOnThisMachine(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		":8080": "127.0.0.1:8080", "0.0.0.0:8080": "127.0.0.1:8080", "[::]:9": "[::1]:9", "127.0.0.1:80": "127.0.0.1:80", "host:1": "host:1",
	} {
		require.Equal(t, want, here(addr))
	}
}
