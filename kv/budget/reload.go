package budget

// Reconfigure takes over other budgets of the configuration in place of those
// that the ledger was opened with. What is settled and open stays. Tenants whose
// limits were set at run time keep those. The error is for budgets that
// Validate refuses; then nothing changes.
func (l *Ledger) Reconfigure(budgets []Config) error {
	if err := Validate(budgets); err != nil {
		return err
	}
	named := map[string]bool{}
	for _, c := range budgets {
		named[c.Tenant] = true
	}
	l.each(func(t *tenantState) {
		if !named[t.name] {
			t.limit(func() { t.fixed = nil })
		}
	})
	l.configure(budgets)
	return nil
}
