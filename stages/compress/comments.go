package compress

import "strings"

// lineComment is what starts a comment in the languages whose comments are
// understood.
var lineComment = map[string]string{
	"go": "//", "js": "//", "javascript": "//", "ts": "//", "typescript": "//",
	"java": "//", "c": "//", "cpp": "//", "c++": "//", "cs": "//", "csharp": "//",
	"rust": "//", "rs": "//", "kotlin": "//", "swift": "//", "scala": "//",
	"python": "#", "py": "#", "ruby": "#", "rb": "#", "sh": "#", "bash": "#",
	"toml": "#", "r": "#", "perl": "#", "sql": "--", "lua": "--",
}

// directives are what comments begin with that tools obey, or that the law asks
// to keep.
var directives = []string{
	"go:", "+build", "nolint", "lint:", "export ", "cgo ", "line ", "!", "type:", "noqa", "pylint", "mypy",
	"pragma", "fmt:", "isort", "yapf", "ruff", "flake8", "-*-", "eslint", "@ts-", "ts-", "tslint",
	"prettier", "istanbul", "c8 ", "jshint", "jslint", "@flow", "@jsx", "webpack", "/ <", "<reference",
	"sourceMappingURL", "rubocop", "frozen_string_literal", "encoding", "coding", "shellcheck", "rustfmt",
	"clippy", "clang-format", "NOLINT", "NOSONAR", "checkstyle", "language=", "swiftlint", "ktlint",
	"region", "endregion", "Copyright", "copyright", "SPDX", "Licen", "licen", "Output:", "Unordered output:",
	"include", "define", "if", "endif", "else", "error", "warning", "undef",
}

// commentEdits removes the lines of fenced code that hold a comment and nothing
// else. Code with strings that span lines is left alone, since a line of such a
// string may look like a comment.
func commentEdits(text string, _ role) []edit {
	var edits []edit
	for _, r := range regions(text) {
		mark := lineComment[r.info]
		body := text[r.start:r.end]
		if !r.fence || !r.closed || mark == "" || spansLines(body) {
			continue
		}
		edits = append(edits, commentLines(text, r, mark)...)
	}
	return edits
}

func spansLines(code string) bool {
	for _, s := range []string{"`", `"""`, "'''", "<<", "/*", "=begin", "--[[", "\\\n"} {
		if strings.Contains(code, s) {
			return true
		}
	}
	return false
}

func commentLines(text string, r region, mark string) []edit {
	var edits []edit
	for at := r.start; at < r.end; {
		line, next := cutLine(text, at)
		if isComment(line, mark) {
			if last := len(edits) - 1; last >= 0 && edits[last].end == at {
				edits[last].end = next
			} else {
				edits = append(edits, edit{start: at, end: next})
			}
		}
		at = next
	}
	return edits
}

func isComment(line, mark string) bool {
	rest, ok := strings.CutPrefix(strings.TrimSpace(line), mark)
	if !ok {
		return false
	}
	rest = strings.TrimSpace(rest)
	for _, d := range directives {
		if strings.HasPrefix(rest, d) {
			return false
		}
	}
	return true
}
