package main

import (
	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/streams"
	"github.com/adpa/processor/streams/embedded"
)

// openResources has the runners keep to what the process may use.
func (d *deps) openResources() {
	d.memory = d.cfg.Resources.WatchMemory(serverMemory(d.cfg), d.shed)
	d.cfg.Cache.LocalSize = min(d.cfg.Cache.LocalSize, d.cfg.Resources.MaxMemory/4)
	d.held = streams.NewMemory(d.cfg.Resources.Held())
}

// serverMemory is what an embedded server may need of the process's memory.
func serverMemory(cfg config.Config) int64 {
	if cfg.NATS.URL != "" {
		return 0
	}
	return embedded.Memory
}

// bounded gives a runner's configuration the bounds of the section resources:.
func (d *deps) bounded(cfg streams.RunnerConfig) streams.RunnerConfig {
	cfg.Memory, cfg.Tight = d.held, d.memory.Tight
	cfg.Pull = int(d.cfg.Resources.BufferSize)
	if !d.cfg.Resources.AsyncIO {
		cfg.Window = 1
	}
	return cfg
}

// shed makes room in memory: what the cache holds there is in its bucket too.
func (d *deps) shed() {
	if d.cache != nil {
		go d.cache.Shed()
	}
}
