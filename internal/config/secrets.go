package config

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// hidden stands for a secret wherever the configuration is shown.
const hidden = "<secret>"

var variable = regexp.MustCompile(`\$\{([^}]*)\}?`)
var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// expand replaces ${NAME} in all texts by the variable NAME of the environment
// and remembers where, so that the values are never shown.
func (c *Config) expand(lookup func(string) (string, bool)) error {
	var failure error
	texts(reflect.ValueOf(c).Elem(), "", func(path, text string) string {
		if !strings.Contains(text, "${") || failure != nil {
			return text
		}
		c.secrets = append(c.secrets, path)
		return variable.ReplaceAllStringFunc(text, func(use string) string {
			value, err := resolve(use, lookup)
			if err != nil && failure == nil {
				failure = fmt.Errorf("%s: %w", path, err)
			}
			return value
		})
	})
	return failure
}

func resolve(use string, lookup func(string) (string, bool)) (string, error) {
	name, closed := strings.CutSuffix(strings.TrimPrefix(use, "${"), "}")
	if !closed || !variableName.MatchString(name) {
		return "", errors.New("holds a ${ that does not name a variable; write ${NAME} with letters, digits and _")
	}
	value, ok := lookup(name)
	if !ok || value == "" {
		return "", fmt.Errorf("the environment variable %s is not set; set it, or write the value in place of ${%s}", name, name)
	}
	return value, nil
}

// texts calls f with each text of a value and its path, and stores what f returns.
func texts(v reflect.Value, path string, f func(path, text string) string) {
	switch v.Kind() {
	case reflect.String:
		if was := v.String(); v.CanSet() {
			if now := f(path, was); now != was {
				v.SetString(now)
			}
		}
	case reflect.Struct:
		for i, field := range slices.Collect(v.Type().Fields()) {
			name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
			if field.IsExported() && name != "-" {
				texts(v.Field(i), strings.TrimPrefix(path+"."+name, "."), f)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			texts(v.Index(i), fmt.Sprintf("%s[%d]", path, i), f)
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			value := reflect.New(v.Type().Elem()).Elem()
			value.Set(v.MapIndex(key))
			texts(value, fmt.Sprintf("%s.%v", path, key), f)
			v.SetMapIndex(key, value)
		}
	}
}

var (
	userinfo  = regexp.MustCompile(`://[^/@\s]*@`)
	secretKey = regexp.MustCompile(`(?i)(?:key|secret|token|password|authorization)\w{0,2}\s*:\s*("[^"]*"|'[^']*'|[^,}#\s][^,}#\n]*)`)
)

// Show renders the effective configuration as YAML that Load reads again.
// Values from the environment, keys and passwords show as <secret>.
func (c Config) Show() (string, error) {
	var shown Config
	text, err := yaml.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("rendering the configuration: %w", err)
	}
	if err := yaml.Unmarshal(text, &shown); err != nil {
		return "", fmt.Errorf("rendering the configuration: %w", err)
	}
	texts(reflect.ValueOf(&shown).Elem(), "", func(path, text string) string {
		if text == "" {
			return ""
		}
		if slices.Contains(c.secrets, path) {
			return hidden
		}
		return userinfo.ReplaceAllString(text, "://"+hidden+"@")
	})
	text, err = yaml.MarshalWithOptions(shown, yaml.Indent(2), yaml.IndentSequence(true))
	if err != nil {
		return "", fmt.Errorf("rendering the configuration: %w", err)
	}
	return string(text), nil
}

// scrub removes the values that came from the environment from a text that
// is about to be shown.
func (c *Config) scrub(text string) string {
	texts(reflect.ValueOf(c).Elem(), "", func(path, value string) string {
		if len(value) >= 4 && slices.Contains(c.secrets, path) {
			text = strings.ReplaceAll(text, value, hidden)
		}
		return value
	})
	return text
}

// maskLine hides what looks like a secret in a line of the file, and says where
// the column is after that.
func maskLine(line string, column int) (string, int) {
	var spans [][]int
	for _, m := range secretKey.FindAllStringSubmatchIndex(line, -1) {
		if value := line[m[2]:m[3]]; !strings.HasPrefix(strings.Trim(value, `"'`), "${") {
			spans = append(spans, m[2:4])
		}
	}
	for _, m := range userinfo.FindAllStringIndex(line, -1) {
		spans = append(spans, []int{m[0] + 3, m[1] - 1})
	}
	slices.SortFunc(spans, func(a, b []int) int { return b[0] - a[0] }) // from the end, so that places stay right
	end := len(line)
	for _, s := range spans {
		if s[1] > end {
			continue // inside one that is hidden already
		}
		line = line[:s[0]] + hidden + line[s[1]:]
		if column > s[1] {
			column += len(hidden) - (s[1] - s[0])
		}
		end = s[0]
	}
	return line, column
}
