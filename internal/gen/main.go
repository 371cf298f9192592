// Command gen makes the files of the repository that say what the code says
// already: the JSON Schemas, docs/cli.md and docs/configuration.md. With --check
// it writes nothing and fails where one of them is stale.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

func main() {
	check := flag.Bool("check", false, "fail where a file is stale, and write nothing")
	flag.Parse()
	if err := run(context.Background(), os.Stdout, *check); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// run writes the stale files and lists them to w.
func run(ctx context.Context, w io.Writer, check bool) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	files, err := generate(ctx, root)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(root, name)
		old, err := os.ReadFile(path)
		if err == nil && bytes.Equal(old, files[name]) {
			continue
		}
		if check {
			return fmt.Errorf("%s is stale: run go run ./internal/gen", name)
		}
		if err := os.WriteFile(path, files[name], 0o644); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
		fmt.Fprintln(w, "wrote", name)
	}
	return nil
}

// generate gives all files by their path below the module's root.
func generate(ctx context.Context, root string) (map[string][]byte, error) {
	docs := comments{root: root}
	files, err := wireSchemas()
	if err != nil {
		return nil, err
	}
	if files["schemas/configuration.schema.json"], err = configurationSchema(docs); err != nil {
		return nil, err
	}
	if files["docs/configuration.md"], err = configurationGuide(docs); err != nil {
		return nil, err
	}
	cli := exec.CommandContext(ctx, "go", "run", "./cmd/processor", "markdown")
	cli.Dir, cli.Stderr = root, os.Stderr
	if files["docs/cli.md"], err = cli.Output(); err != nil {
		return nil, fmt.Errorf("printing the command line: %w", err)
	}
	return files, nil
}

// moduleRoot is the nearest directory upwards that holds go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the module: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("finding the module: no go.mod here or above")
		}
		dir = parent
	}
}
