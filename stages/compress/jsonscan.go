package compress

import "bytes"

// The functions of this file find their way through JSON that is known to be
// valid, or through a text that may be; they check brackets and quotes only.

// skipString gives the index behind the string that starts at b[i], or -1 when
// it does not end.
func skipString(b []byte, i int) int {
	i++
	for {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return -1
		}
		i += n + 1
		slashes := 0
		for j := i - 2; b[j] == '\\'; j-- {
			slashes++
		}
		if slashes%2 == 0 {
			return i
		}
	}
}

// skipValue gives the index behind the value that starts at b[i], or -1 when
// it does not end. It works without recursion, so depth costs nothing.
func skipValue(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			if i = skipString(b, i); i < 0 {
				return -1
			}
		case '{', '[':
			depth++
			i++
		case '}', ']':
			if depth == 0 {
				return i // the end of what surrounds a value that is missing
			}
			depth--
			i++
		case ',', ':', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
			i++
			continue
		default:
			i = skipScalar(b, i)
		}
		if depth == 0 {
			return i
		}
	}
	return -1
}

// skipScalar gives the index behind a number, true, false or null.
func skipScalar(b []byte, i int) int {
	for i < len(b) {
		switch b[i] {
		case ',', ':', '}', ']', '{', '[', '"', ' ', '\t', '\r', '\n':
			return i
		}
		i++
	}
	return i
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// eachMember calls visit with the raw name (in quotes) and value of each member
// of the object at b[i], until visit returns false. It gives the index behind
// the object, or -1 when it stopped or the object is broken.
func eachMember(b []byte, i int, visit func(name []byte, start, end int) bool) int {
	i = skipSpace(b, i+1)
	for i < len(b) && b[i] == '"' {
		nameEnd := skipString(b, i)
		if nameEnd < 0 {
			return -1
		}
		name := b[i:nameEnd]
		i = skipSpace(b, nameEnd)
		if i >= len(b) || b[i] != ':' {
			return -1
		}
		start := skipSpace(b, i+1)
		end := skipValue(b, start)
		if end < 0 || !visit(name, start, end) {
			return -1
		}
		if i = skipSpace(b, end); i < len(b) && b[i] == ',' {
			i = skipSpace(b, i+1)
		}
	}
	if i >= len(b) || b[i] != '}' {
		return -1
	}
	return i + 1
}

// eachElement does for the array at b[i] what eachMember does for an object.
func eachElement(b []byte, i int, visit func(start, end int) bool) int {
	i = skipSpace(b, i+1)
	for i < len(b) && b[i] != ']' {
		end := skipValue(b, i)
		if end <= i || !visit(i, end) {
			return -1
		}
		if i = skipSpace(b, end); i < len(b) && b[i] == ',' {
			i = skipSpace(b, i+1)
		}
	}
	if i >= len(b) {
		return -1
	}
	return i + 1
}
