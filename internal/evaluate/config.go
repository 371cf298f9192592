package evaluate

import (
	"fmt"
	"strings"
)

// Config is the section evaluation: of the configuration.
type Config struct {
	// Redact are the paths of what dataset export replaces with [redacted], such
	// as request.messages.content or request.user; a path goes into every element
	// of a list. Default none.
	Redact []string `yaml:"redact"`
}

// Validate reports the first setting that cannot be used: its key, and what would be right.
func (c Config) Validate() error {
	for i, path := range c.Redact {
		if strings.Trim(path, ".") != path || path == "" || strings.Contains(path, "..") {
			return fmt.Errorf("redact[%d]: %.80q is no path like request.messages.content", i, path)
		}
	}
	return nil
}
