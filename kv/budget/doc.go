// Package budget is the ledger that keeps tenants within their budgets.
//
// A tenant's ledger is one record in the bucket <prefix>_budget: what was
// settled in each window, and the reservations that are open. It is changed by
// compare-and-swap only. A call to a provider is reserved before it is made, at
// an estimate that its bill cannot exceed, and settled at its bill. So the sum
// of what is settled and open never passes a limit, with any number of
// replicas, and a call whose outcome nobody knows stays charged at its estimate.
//
// One writer a process and tenant puts everything that waits into one
// compare-and-swap: a slice of requests costs one write to reserve and one to
// settle.
package budget
