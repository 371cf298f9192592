package budget

// maxQuantity bounds every amount. Sums of up to four cannot overflow.
const maxQuantity = 1 << 60

// Amount is what a call uses, or what many used together. As an estimate or a
// bill its Requests is not read: a call is one request.
type Amount struct {
	Tokens   int64 `json:"tokens"`
	Cost     USD   `json:"usd"`
	Requests int64 `json:"requests"`
}

// Unit is what a limit counts.
type Unit string

// The units of limits.
const (
	Tokens   Unit = "tokens"
	Dollars  Unit = "usd"
	Requests Unit = "requests"
)

func (a Amount) in(u Unit) int64 {
	switch u {
	case Tokens:
		return a.Tokens
	case Dollars:
		return int64(a.Cost)
	default:
		return a.Requests
	}
}

func (a Amount) plus(b Amount) Amount {
	return Amount{bounded(a.Tokens + b.Tokens), USD(bounded(int64(a.Cost + b.Cost))), bounded(a.Requests + b.Requests)}
}

func (a Amount) minus(b Amount) Amount {
	return Amount{bounded(a.Tokens - b.Tokens), USD(bounded(int64(a.Cost - b.Cost))), bounded(a.Requests - b.Requests)}
}

// atLeast gives the larger of both, by unit.
func (a Amount) atLeast(b Amount) Amount {
	return Amount{max(a.Tokens, b.Tokens), max(a.Cost, b.Cost), max(a.Requests, b.Requests)}
}

// clamp makes an amount from outside safe to sum up.
func (a Amount) clamp() Amount {
	return Amount{bounded(a.Tokens), USD(bounded(int64(a.Cost))), bounded(a.Requests)}
}

func bounded(n int64) int64 { return min(max(n, 0), maxQuantity) }

// show gives a quantity of a unit as people read it: dollars, else a count.
func (u Unit) show(n int64) any {
	if u == Dollars {
		return USD(n).Dollars()
	}
	return n
}
