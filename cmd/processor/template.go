package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/goccy/go-yaml"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages/template"
	"github.com/adpa/processor/streams"
)

// templateCmd works on the prompt templates of a deployment.
type templateCmd struct {
	Put    templatePutCmd    `cmd:"" help:"Store a template, as its next revision."`
	Get    templateGetCmd    `cmd:"" help:"Print a template."`
	List   templateListCmd   `cmd:"" help:"List the templates, or the revisions of one."`
	Diff   templateDiffCmd   `cmd:"" help:"Compare two revisions."`
	Render templateRenderCmd `cmd:"" help:"Print the messages that a template makes."`
	Delete templateDeleteCmd `cmd:"" help:"Remove a template with all its revisions."`
}

// templates opens the stored templates.
func (a *app) templates() (*kv.Templates, int, func(), error) {
	cfg, err := a.load()
	if err != nil {
		return nil, 0, nil, err
	}
	nc, err := a.connect(cfg)
	if err != nil {
		return nil, 0, nil, err
	}
	stored, err := kv.NewTemplates(a.ctx, nc, bucketLayout(cfg))
	if err != nil {
		nc.Close()
		if errors.Is(err, jetstream.ErrBucketNotFound) {
			err = hint(err, "processor provision, or start processor run on that server")
		}
		return nil, 0, nil, err
	}
	return stored, streams.MaxRequest(int(nc.MaxPayload())), func() { stored.Close(); nc.Close() }, nil
}

// reference reads name or name@revision.
func reference(text string) (template.Reference, error) {
	r, inline, err := template.ParseReference(text)
	if err == nil && inline {
		err = fmt.Errorf("%.80q is no name of a template: 1 to 64 characters of A-Z a-z 0-9 _ - and single dots, then perhaps @ and a revision", text)
	}
	if err != nil {
		return r, wrongUse(err, "processor template list names them")
	}
	return r, nil
}

// document finds a revision, and makes the reference to the newest one say which it is.
func (a *app) document(stored *kv.Templates, r *template.Reference) ([]byte, error) {
	revision, found, err := stored.Resolve(a.ctx, r.Name, r.Revision)
	if err != nil {
		return nil, err
	}
	if !found {
		try := "processor template list"
		if revisions := stored.Revisions(r.Name); len(revisions) > 0 {
			return nil, hint(fmt.Errorf("template %s has no revision %d that is kept", r.Name, r.Revision), "revisions %d to %d", revisions[0].Number, revisions[len(revisions)-1].Number)
		}
		if near := stored.Near(r.Name); len(near) > 0 {
			try = "did you mean " + strings.Join(near, " or ") + "?"
		}
		return nil, hint(fmt.Errorf("there is no template %s", r.Name), "%s", try)
	}
	r.Revision = revision
	return stored.Document(a.ctx, r.Name, revision)
}

type templatePutCmd struct {
	Name string `arg:"" help:"The template's name."`
	File string `arg:"" help:"A document in JSON or YAML, by the file's ending, or else its text."`
}

// Run checks the template and stores it; what is the newest already stays that.
func (c *templatePutCmd) Run(a *app) error {
	r, err := reference(c.Name)
	if err == nil && r.Revision != 0 {
		err = wrongUse(fmt.Errorf("%s: the server gives the revision", c.Name), "processor template put "+r.Name+" "+c.File)
	}
	if err != nil {
		return err
	}
	document, err := readTemplate(c.File)
	if err != nil {
		return wrongUse(err, "docs/prompt-optimization.md shows a template")
	}
	stored, _, closeServer, err := a.templates()
	if err != nil {
		return err
	}
	defer closeServer()
	number, changed, err := stored.Put(a.ctx, r.Name, document)
	if err != nil {
		return err
	}
	note := ""
	if !changed {
		note = " (unchanged)"
	}
	fmt.Fprintf(a.stdout, "%s@%d%s\n", r.Name, number, note)
	return nil
}

// readTemplate reads a file that holds a template that can be used.
func readTemplate(path string) ([]byte, error) {
	data, err := readBounded(path, template.MaxDocument)
	if err != nil {
		return nil, err
	}
	document, err := template.File(path, data)
	if err == nil {
		document, err = template.Normal(document)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return document, nil
}

// readBounded reads a file that must not have more than so many bytes.
func readBounded(path string, most int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > most {
		return nil, fmt.Errorf("%s has %d bytes, it may have %d", path, info.Size(), most)
	}
	return os.ReadFile(path)
}

type templateGetCmd struct {
	Name string `arg:"" help:"The template's name, or name@revision."`
	jsonFlag
}

// Run prints YAML that can be put again.
func (c *templateGetCmd) Run(a *app) error {
	r, err := reference(c.Name)
	if err != nil {
		return err
	}
	stored, _, closeServer, err := a.templates()
	if err != nil {
		return err
	}
	defer closeServer()
	document, err := a.document(stored, &r)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(a.stdout, []any{struct {
			Name     string          `json:"name"`
			Revision int             `json:"revision"`
			Template json.RawMessage `json:"template"`
		}{r.Name, r.Revision, document}})
	}
	text, err := template.YAML(document)
	if err != nil {
		return err
	}
	_, err = a.stdout.Write(text)
	return err
}

type templateListCmd struct {
	Name string `arg:"" optional:"" help:"List this template's revisions that are kept."`
	jsonFlag
}

// listedTemplate is a template, or a revision of one, as list prints it.
type listedTemplate struct {
	Name     string    `json:"name"`
	Revision int       `json:"revision"`
	Oldest   int       `json:"oldest,omitempty"` // of a template: the oldest revision that is kept
	Changed  time.Time `json:"changed"`
}

// Run lists what the server holds.
func (c *templateListCmd) Run(a *app) error {
	stored, _, closeServer, err := a.templates()
	if err != nil {
		return err
	}
	defer closeServer()
	rows, err := c.rows(a, stored)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(a.stdout, rows)
	}
	if len(rows) == 0 {
		fmt.Fprintln(a.stdout, "no templates")
		return nil
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tREVISION\tCHANGED")
	for _, row := range rows {
		fmt.Fprintf(w, "%s\t%d\t%s\n", row.Name, row.Revision, row.Changed.Local().Format(time.DateTime))
	}
	return w.Flush()
}

func (c *templateListCmd) rows(a *app, stored *kv.Templates) (rows []listedTemplate, err error) {
	if c.Name != "" {
		r, err := reference(c.Name)
		if err == nil {
			_, err = a.document(stored, &r)
		}
		if err != nil {
			return nil, err
		}
		for _, revision := range stored.Revisions(r.Name) {
			rows = append(rows, listedTemplate{Name: r.Name, Revision: revision.Number, Changed: revision.Changed.Time()})
		}
		return rows, nil
	}
	for _, name := range stored.Names() {
		if kept := stored.Revisions(name); len(kept) > 0 {
			newest := kept[len(kept)-1]
			rows = append(rows, listedTemplate{name, newest.Number, kept[0].Number, newest.Changed.Time()})
		}
	}
	return rows, nil
}

type templateDeleteCmd struct {
	Name string `arg:"" help:"The template's name."`
}

// Run removes a template. A later put goes on with the next number.
func (c *templateDeleteCmd) Run(a *app) error {
	r, err := reference(c.Name)
	if err == nil && r.Revision != 0 {
		err = wrongUse(errors.New("a template is removed with all its revisions"), "processor template delete "+r.Name)
	}
	if err != nil {
		return err
	}
	stored, _, closeServer, err := a.templates()
	if err != nil {
		return err
	}
	defer closeServer()
	if err := stored.Delete(a.ctx, r.Name); err != nil {
		return hint(err, "processor template list")
	}
	fmt.Fprintf(a.stdout, "%s: deleted\n", r.Name)
	return nil
}

type templateDiffCmd struct {
	From string `arg:"" help:"The one template, as name@revision."`
	To   string `arg:"" help:"The other."`
}

// Run prints how the second differs from the first, a line at a time; nothing
// where they are the same.
func (c *templateDiffCmd) Run(a *app) error {
	from, err := reference(c.From)
	if err != nil {
		return err
	}
	to, err := reference(c.To)
	if err != nil {
		return err
	}
	stored, _, closeServer, err := a.templates()
	if err != nil {
		return err
	}
	defer closeServer()
	var texts [2]string
	for i, r := range []*template.Reference{&from, &to} {
		document, err := a.document(stored, r)
		if err != nil {
			return err
		}
		text, err := template.YAML(document)
		if err != nil {
			return err
		}
		texts[i] = string(text)
	}
	if texts[0] != texts[1] {
		fmt.Fprintf(a.stdout, "--- %s\n+++ %s\n%s", from, to, lineDiff(texts[0], texts[1]))
	}
	return nil
}

type templateRenderCmd struct {
	Name string            `arg:"" help:"The template's name, or name@revision."`
	Var  map[string]string `mapsep:"none" placeholder:"NAME=TEXT" help:"The value of a variable; may be repeated."`
	Vars string            `placeholder:"FILE" help:"An object of variables in JSON or YAML."`
	JSON bool              `name:"json" help:"Print the request's body, with the template's settings."`
}

// Run prints the messages: each with its role in a line of its own before it.
func (c *templateRenderCmd) Run(a *app) error {
	r, err := reference(c.Name)
	if err != nil {
		return err
	}
	variables, err := c.variables()
	if err != nil {
		return wrongUse(err, "--var name=text, or --vars file.json with an object")
	}
	stored, limit, closeServer, err := a.templates()
	if err != nil {
		return err
	}
	defer closeServer()
	document, err := a.document(stored, &r)
	if err != nil {
		return err
	}
	t, err := template.Parse(document)
	if err != nil {
		return fmt.Errorf("template %s: %w", r, err)
	}
	body, err := t.Request(variables, limit)
	if err != nil {
		return hint(fmt.Errorf("%s: %w", r, err), "processor template get %s", r)
	}
	if c.JSON {
		_, err = fmt.Fprintf(a.stdout, "%s\n", body)
		return err
	}
	var made template.Document
	if err := json.Unmarshal(body, &made); err != nil {
		return fmt.Errorf("reading the messages: %w", err)
	}
	for _, m := range made.Messages {
		fmt.Fprintf(a.stdout, "[%s]\n%s\n", m.Role, strings.TrimSuffix(m.Content, "\n"))
	}
	return nil
}

// variables gives the object of variables that the flags make.
func (c *templateRenderCmd) variables() ([]byte, error) {
	var values map[string]jsontext.Value
	if c.Vars != "" {
		data, err := readBounded(c.Vars, maxPrompt)
		if err != nil {
			return nil, err
		}
		if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
			if data, err = yaml.YAMLToJSON(data); err != nil {
				return nil, fmt.Errorf("%s: %w", c.Vars, err)
			}
		}
		if err := jsonv2.Unmarshal(data, &values); err != nil {
			return nil, fmt.Errorf("%s: reading an object of variables: %w", c.Vars, err)
		}
	}
	if values == nil {
		values = map[string]jsontext.Value{}
	}
	for name, text := range c.Var {
		values[name] = schemas.Quote(text)
	}
	return jsonv2.Marshal(values, jsonv2.Deterministic(true))
}
