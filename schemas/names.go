package schemas

import (
	"fmt"
	"hash/fnv"
	"strconv"
)

// Class is the priority class of a request.
type Class string

// The two classes. Interactive goes first; batch keeps a guaranteed share.
const (
	Interactive Class = "interactive"
	Batch       Class = "batch"
)

// Classes lists the classes in the order in which they are served.
var Classes = []Class{Interactive, Batch}

// Shards is the number of shards that tenants are spread over, so that a flood
// of one tenant holds back no more than its own shard.
const Shards = 8

// Lanes is the number of lanes to generate: one for each shard, and one beside
// it for what a tenant sends beyond its share, spread over the tenants otherwise.
const Lanes = 2 * Shards

// MaxNameLength bounds tenants and ids, in bytes.
const MaxNameLength = 64

// NoTenant stands for the tenant of a request whose own tenant is no valid name.
const NoTenant = "_"

// Shard gives the shard of a tenant: FNV-1a of its name modulo Shards.
func Shard(tenant string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(tenant))
	return int(h.Sum32() % Shards)
}

// OverflowLane gives the lane for what a tenant sends beyond its share, from
// Shards to Lanes-1. Two tenants in one shard are seldom in one of these too.
func OverflowLane(tenant string) int {
	h := fnv.New64a()
	_, _ = h.Write([]byte("beyond/"))
	_, _ = h.Write([]byte(tenant))
	return Shards + int(h.Sum64()>>32%Shards)
}

// ValidName reports whether s may be a tenant: 1 to 64 characters of
// A-Z a-z 0-9 _ and -.
func ValidName(s string) bool {
	if len(s) == 0 || len(s) > MaxNameLength {
		return false
	}
	for i := range len(s) {
		if !nameByte(s[i]) {
			return false
		}
	}
	return true
}

// ValidID reports whether an application may give s as the id of a request:
// the alphabet of a tenant, and not digits alone, since those are stream sequences.
func ValidID(s string) bool {
	return ValidName(s) && !digitsOnly(s)
}

// SequenceID is the id of a request that came without one.
func SequenceID(sequence uint64) string { return strconv.FormatUint(sequence, 10) }

// ParseClass reads a class; the empty string is Interactive.
func ParseClass(s string) (Class, error) {
	switch Class(s) {
	case "", Interactive:
		return Interactive, nil
	case Batch:
		return Batch, nil
	}
	return "", fmt.Errorf("priority %.20q is neither %q nor %q", s, Interactive, Batch)
}

func nameByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '_' || b == '-'
}

func digitsOnly(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}
