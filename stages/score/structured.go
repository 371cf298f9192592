package score

type schemaCache struct{}

func newSchemaCache() *schemaCache { return &schemaCache{} }

func (s *Scorer) structure(x *scratch, c *choice) (flag, reason string) { return "", "" }

func (s *Scorer) toolCalls(x *scratch, c *choice) string { return "" }
