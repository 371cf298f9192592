package schemas

import "embed"

// Files are the JSON Schemas: of a request, a response, an error, a dead
// letter, the lines of batch files, and the configuration. They are made from
// the Go types by go run ./internal/gen.
//
//go:embed *.schema.json
var Files embed.FS
