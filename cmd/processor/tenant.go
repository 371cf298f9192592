package main

// tenantCmd works on what belongs to tenants.
type tenantCmd struct {
	Erase tenantEraseCmd `cmd:"" help:"Remove everything that is kept of a tenant."`
}
