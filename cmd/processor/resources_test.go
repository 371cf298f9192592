package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/units"
	"github.com/adpa/processor/streams"
)

// resources.buffer_size is what a runner pulls, and with async_io: false it has
// no more than one publish on its way.
func TestResourcesBoundARunner(t *testing.T) {
	d := &deps{cfg: config.Default()}
	d.openResources()
	cfg := d.bounded(streams.RunnerConfig{})
	require.EqualValues(t, units.MB, cfg.Pull)
	require.Zero(t, cfg.Window, "the runner's own")
	require.NotNil(t, cfg.Memory)
	require.False(t, cfg.Tight())

	d.cfg.Resources.BufferSize, d.cfg.Resources.AsyncIO = 64*units.KB, false
	cfg = d.bounded(streams.RunnerConfig{})
	require.EqualValues(t, 64*units.KB, cfg.Pull)
	require.Equal(t, 1, cfg.Window)
}
