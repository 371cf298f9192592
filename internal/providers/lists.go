package providers

import "bytes"

// elements calls f with each element of a JSON array, which must be valid, until
// f returns false. It only skips over values, as schemas.Members does; on other
// input the elements mean nothing, but nothing is read out of bounds.
func elements(list []byte, f func(element []byte) bool) {
	list = bytes.TrimSpace(list)
	if len(list) < 2 || list[0] != '[' {
		return
	}
	start, depth := 1, 0
	for i := 1; i < len(list); i++ {
		switch list[i] {
		case '"':
			i = stringEnd(list, i)
		case '{', '[':
			depth++
		case ',', ']', '}':
			if depth > 0 {
				if list[i] != ',' {
					depth--
				}
				continue
			}
			if element := bytes.TrimSpace(list[start:i]); len(element) > 0 && !f(element) {
				return
			}
			if list[i] != ',' {
				return
			}
			start = i + 1
		}
	}
}

// stringEnd gives the index of the quote that ends the string which begins at i,
// or the last index.
func stringEnd(b []byte, i int) int {
	for i++; i < len(b); i++ {
		next := bytes.IndexByte(b[i:], '"')
		if next < 0 {
			return len(b) - 1
		}
		i += next
		slashes := 0
		for b[i-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i
		}
	}
	return len(b) - 1
}

// objects calls f with each object in a JSON array.
func objects(list []byte, f func(object []byte)) {
	elements(list, func(element []byte) bool {
		if element[0] == '{' {
			f(element)
		}
		return true
	})
}
