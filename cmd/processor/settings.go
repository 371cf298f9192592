package main

import (
	"fmt"

	"github.com/adpa/processor/schemas"
)

// configCmd looks at the configuration.
type configCmd struct {
	Check  configCheckCmd  `cmd:"" help:"Say whether the configuration can be used."`
	Show   configShowCmd   `cmd:"" help:"Print the configuration in force, defaults included, without secrets."`
	Schema configSchemaCmd `cmd:"" help:"Print the JSON Schema of the configuration."`
}

type configCheckCmd struct{}

// Run reads the configuration; what is wrong with it is the error.
func (configCheckCmd) Run(a *app) error {
	path, err := a.configFile()
	if err != nil {
		return err
	}
	if _, err := a.load(); err != nil {
		return err
	}
	if path == "" {
		_, err = fmt.Fprintf(a.stdout, "there is no %s: the defaults hold\n", defaultConfig)
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "%s: ok\n", path)
	return err
}

type configShowCmd struct{}

// Run prints YAML that can be used as a configuration again, but for secrets.
func (configShowCmd) Run(a *app) error {
	cfg, err := a.load()
	if err != nil {
		return err
	}
	text, err := cfg.Show()
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(a.stdout, text)
	return err
}

type configSchemaCmd struct{}

// Run prints the schema that schemas/ holds.
func (configSchemaCmd) Run(a *app) error {
	text, err := schemas.Files.ReadFile("configuration.schema.json")
	if err != nil {
		return fmt.Errorf("reading the schema: %w", err)
	}
	_, err = a.stdout.Write(text)
	return err
}
