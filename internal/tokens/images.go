package tokens

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"math"
)

// ImageKind is a way of counting the tokens of an image.
type ImageKind string

const (
	// Tiles: the image is scaled down to fit 2048 by 2048 pixels, then to 768
	// on its shorter side, and costs Base, and Each for each tile of 512 by
	// 512; in low detail Base alone (OpenAI).
	Tiles ImageKind = "tiles"
	// Patches: Each for each patch of 32 by 32 pixels, of at most Max patches,
	// down to which the image is scaled; in automatic and original detail of
	// at most MaxAuto, if that is set (OpenAI).
	Patches ImageKind = "patches"
	// Area: a token for Each pixels, Max at most (Anthropic).
	Area ImageKind = "area"
	// LargeTiles: Each if neither side is over 384 pixels, else Each for each
	// tile of 768 by 768 (Google).
	LargeTiles ImageKind = "large_tiles"
	// Fixed: Each for an image of any size (Google).
	Fixed ImageKind = "fixed"
)

// ImageRule tells what an image costs. The zero rule is that images cost nothing.
type ImageRule struct {
	Kind         ImageKind
	Base         int
	Each         float64
	Max, MaxAuto int
}

// maxSide is assumed of an image whose size is not in the request: large
// enough to cost the most under any rule.
const maxSide = 4096

// Tokens returns the tokens of an image of that many pixels in that detail:
// "low", "high", "original", or else "auto".
func (r ImageRule) Tokens(width, height int, detail string) int {
	width, height = max(width, 1), max(height, 1)
	switch r.Kind {
	case Tiles:
		if detail == "low" {
			return r.Base
		}
		return r.Base + int(r.Each)*tiles(float64(width), float64(height))
	case Patches:
		limit := r.Max
		if detail != "high" && detail != "low" {
			limit = max(r.Max, r.MaxAuto)
		}
		return int(math.Ceil(float64(patches(float64(width), float64(height), limit)) * r.Each))
	case Area:
		return min(int(math.Ceil(float64(width)*float64(height)/r.Each)), r.Max)
	case LargeTiles:
		if width <= 384 && height <= 384 {
			return int(r.Each)
		}
		return int(r.Each) * ceilDiv(width, 768) * ceilDiv(height, 768)
	case Fixed:
		return int(r.Each)
	}
	return 0
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }

func tiles(width, height float64) int {
	if longer := max(width, height); longer > 2048 {
		width, height = width*2048/longer, height*2048/longer
	}
	if shorter := min(width, height); shorter > 768 {
		width, height = width*768/shorter, height*768/shorter
	}
	return int(math.Ceil(width/512) * math.Ceil(height/512))
}

// patches covers the image; if that takes more than limit, the image is scaled
// down so that it takes no more, and again so that a side is whole patches.
func patches(width, height float64, limit int) int {
	if count := math.Ceil(width/32) * math.Ceil(height/32); count <= float64(limit) {
		return int(count)
	}
	scale := math.Sqrt(32 * 32 * float64(limit) / (width * height))
	across, down := width*scale/32, height*scale/32
	fit := min(math.Floor(across)/across, math.Floor(down)/down)
	if fit <= 0 { // a strip narrower than a patch
		return limit
	}
	return min(int(math.Ceil(across*fit-1e-9)*math.Ceil(down*fit-1e-9)), limit)
}

// imageSize returns the size in pixels of the image that a URL holds: that of
// PNG, JPEG, GIF or WebP in base64 ("data:image/png;base64,..."), and maxSide
// squared for everything else, since nothing is fetched to be counted.
func imageSize(url []byte) (width, height int) {
	header, data, ok := bytes.Cut(url, []byte{','})
	if !ok || !bytes.HasPrefix(header, []byte("data:")) || !bytes.HasSuffix(header, []byte(";base64")) {
		return maxSide, maxSide
	}
	width, height = decodeSize(data)
	if width <= 0 || height <= 0 {
		return maxSide, maxSide
	}
	return width, height
}

// maxHeader bounds how much of an image is read to find its size: a JPEG may
// have a large preview before it.
const maxHeader = 256 << 10

func decodeSize(encoded []byte) (width, height int) {
	encoded = encoded[:min(len(encoded), maxHeader)]
	reader := base64.NewDecoder(base64.StdEncoding, bytes.NewReader(encoded))
	var start [30]byte
	n, _ := io.ReadFull(reader, start[:]) // what is too short has no size below
	whole := io.MultiReader(bytes.NewReader(start[:n]), reader)
	switch {
	case bytes.HasPrefix(start[:], []byte("\x89PNG")):
		if c, err := png.DecodeConfig(whole); err == nil {
			return c.Width, c.Height
		}
	case bytes.HasPrefix(start[:], []byte("\xff\xd8")):
		if c, err := jpeg.DecodeConfig(whole); err == nil {
			return c.Width, c.Height
		}
	case bytes.HasPrefix(start[:], []byte("GIF8")):
		if c, err := gif.DecodeConfig(whole); err == nil {
			return c.Width, c.Height
		}
	case bytes.HasPrefix(start[:], []byte("RIFF")) && n == len(start):
		return webpSize(start)
	}
	return 0, 0
}

// webpSize reads the size from the first bytes of a WebP file, in its three
// formats: extended, lossless and lossy (RFC 9649).
func webpSize(b [30]byte) (width, height int) {
	switch string(b[8:16]) {
	case "WEBPVP8X":
		return 1 + (int(b[24]) | int(b[25])<<8 | int(b[26])<<16), 1 + (int(b[27]) | int(b[28])<<8 | int(b[29])<<16)
	case "WEBPVP8L":
		bits := binary.LittleEndian.Uint32(b[21:])
		return 1 + int(bits&0x3fff), 1 + int(bits>>14&0x3fff)
	case "WEBPVP8 ":
		return int(binary.LittleEndian.Uint16(b[26:]) & 0x3fff), int(binary.LittleEndian.Uint16(b[28:]) & 0x3fff)
	}
	return 0, 0
}
