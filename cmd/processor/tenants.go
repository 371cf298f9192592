package main

import (
	"context"

	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/streams"
)

// openTenants opens the limits of single tenants, whose rates hold over all replicas.
func (d *deps) openTenants(ctx context.Context) error {
	slots, err := kv.NewSlots(ctx, d.js, bucketLayout(d.cfg))
	if err != nil {
		return err
	}
	d.tenants = streams.NewTenants(d.nc, d.layout, d.cfg.Tenants, slots.Reserve)
	return nil
}
