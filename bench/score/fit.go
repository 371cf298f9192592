package score

import "math"

// logistic fits a logistic regression by Newton's method with an L2 penalty on all
// weights but the intercept, which comes first. Columns are standardised for the fit
// and the weights given back for the raw values.
func logistic(rows [][]float64, labels []bool, penalty float64) []float64 {
	mean, scale := moments(rows)
	n := len(rows[0]) + 1
	w := make([]float64, n)
	x := make([]float64, n)
	for range 30 {
		gradient, hessian := make([]float64, n), make([][]float64, n)
		for i := range hessian {
			hessian[i] = make([]float64, n)
			if i > 0 {
				gradient[i] = penalty * w[i]
				hessian[i][i] = penalty
			}
		}
		for r, row := range rows {
			x[0] = 1
			for i, v := range row {
				x[i+1] = (v - mean[i]) / scale[i]
			}
			p := sigmoid(dot(w, x))
			y := 0.0
			if labels[r] {
				y = 1
			}
			for i := range n {
				gradient[i] += (p - y) * x[i]
				for j := range n {
					hessian[i][j] += p * (1 - p) * x[i] * x[j]
				}
			}
		}
		hessian[0][0] += 1e-9
		step := solve(hessian, gradient)
		moved := 0.0
		for i := range w {
			w[i] -= step[i]
			moved += math.Abs(step[i])
		}
		if moved < 1e-9 {
			break
		}
	}
	for i := range mean {
		w[i+1] /= scale[i]
		w[0] -= w[i+1] * mean[i]
	}
	return w
}

// signed fits like logistic, but drops every column whose weight has not the sign that it
// must have (1 or -1; 0 is free). What a column means is known beforehand; a weight against
// it only tells what the texts of the fit have in common, and misleads on others.
func signed(rows [][]float64, labels []bool, penalty float64, signs []int) []float64 {
	kept := make([][]float64, len(rows))
	for i := range rows {
		kept[i] = append([]float64(nil), rows[i]...)
	}
	for {
		w, dropped := logistic(kept, labels, penalty), false
		for i, sign := range signs {
			if float64(sign)*w[i+1] >= 0 {
				continue
			}
			dropped = true
			for _, row := range kept {
				row[i] = 0
			}
		}
		if !dropped {
			return w
		}
	}
}

func moments(rows [][]float64) (mean, scale []float64) {
	n := len(rows[0])
	mean, scale = make([]float64, n), make([]float64, n)
	for i := range n {
		for _, row := range rows {
			mean[i] += row[i] / float64(len(rows))
		}
		for _, row := range rows {
			scale[i] += (row[i] - mean[i]) * (row[i] - mean[i]) / float64(len(rows))
		}
		if scale[i] = math.Sqrt(scale[i]); scale[i] < 1e-9 {
			scale[i] = 1
		}
	}
	return mean, scale
}

// solve solves a x = b by Gaussian elimination with pivoting; a and b are used up.
func solve(a [][]float64, b []float64) []float64 {
	n := len(b)
	for i := range n {
		best := i
		for j := i + 1; j < n; j++ {
			if math.Abs(a[j][i]) > math.Abs(a[best][i]) {
				best = j
			}
		}
		a[i], a[best], b[i], b[best] = a[best], a[i], b[best], b[i]
		for j := i + 1; j < n; j++ {
			f := a[j][i] / a[i][i]
			for k := i; k < n; k++ {
				a[j][k] -= f * a[i][k]
			}
			b[j] -= f * b[i]
		}
	}
	for i := n - 1; i >= 0; i-- {
		for k := i + 1; k < n; k++ {
			b[i] -= a[i][k] * b[k]
		}
		b[i] /= a[i][i]
	}
	return b
}

func sigmoid(v float64) float64 { return 1 / (1 + math.Exp(-v)) }

func dot(a, b []float64) float64 {
	s := 0.0
	for i, v := range b {
		s += a[i] * v
	}
	return s
}
