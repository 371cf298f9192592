package template

import (
	"fmt"
	"strconv"
	"strings"
)

// MaxNameLength bounds the names of templates, in bytes.
const MaxNameLength = 64

// Reference names a stored template.
type Reference struct {
	Name     string
	Revision int // from 1; 0 is the newest
}

// String writes the reference as name or name@revision.
func (r Reference) String() string {
	if r.Revision == 0 {
		return r.Name
	}
	return r.Name + "@" + strconv.Itoa(r.Revision)
}

// ValidName reports whether s may name a template: 1 to 64 characters of
// A-Z a-z 0-9 _ - and, inside, single dots.
func ValidName(s string) bool {
	if len(s) == 0 || len(s) > MaxNameLength || s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, "..") {
		return false
	}
	for i := range len(s) {
		if !nameByte(s[i]) && s[i] != '-' && s[i] != '.' {
			return false
		}
	}
	return true
}

func nameByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '_'
}

// ParseReference reads name or name@revision. What is no name, and no name with
// an @ and a word behind it, is the text of a template itself: then inline is true.
func ParseReference(s string) (r Reference, inline bool, err error) {
	name, revision, pinned := strings.Cut(s, "@")
	if !ValidName(name) || strings.ContainsAny(revision, "{} \t\r\n") {
		return Reference{}, true, nil
	}
	if !pinned {
		return Reference{Name: name}, false, nil
	}
	n, err := strconv.Atoi(revision)
	if err != nil || n < 1 || strconv.Itoa(n) != revision {
		return Reference{}, false, fmt.Errorf("%.80q pins no revision: it is a whole number from 1, as in %s@1", s, name)
	}
	return Reference{name, n}, false, nil
}
