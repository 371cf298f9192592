package compress

import (
	"html"
	"slices"
	"strings"
	"unicode"
)

// htmlEdits writes pages of HTML, and fragments that stand alone, as text:
// headings, lists, links with their address and the cells of tables stay.
// HTML in fences is code and stays.
func htmlEdits(text string, from role) []edit {
	if from == roleSystem || from == roleAssistant || !strings.Contains(text, "</") {
		return nil
	}
	var edits []edit
	for _, r := range regions(text) {
		if r.fence {
			continue
		}
		start, end, ok := findHTML(text[r.start:r.end])
		if !ok {
			continue
		}
		start, end = r.start+start, r.start+end
		out := htmlText(text[start:end])
		if out != "" && keepsNumbers(text[start:end], out) {
			edits = append(edits, edit{start, end, out})
		}
	}
	return edits
}

// findHTML finds a page from its first tag to its last, or a text that is HTML
// from end to end.
func findHTML(text string) (start, end int, ok bool) {
	lower := strings.ToLower(text)
	if len(lower) != len(text) {
		return 0, 0, false // lower case moved the bytes
	}
	for _, first := range []string{"<!doctype html", "<html"} {
		if i := strings.Index(lower, first); i >= 0 {
			if j := strings.LastIndex(lower, "</html>"); j > i {
				return i, j + len("</html>"), true
			}
			return i, len(text), true
		}
	}
	trimmed := strings.TrimSpace(lower)
	if len(trimmed) < 2 || trimmed[0] != '<' || trimmed[len(trimmed)-1] != '>' {
		return 0, 0, false
	}
	name := tagName(trimmed[1:])
	return 0, len(text), blockTags[name] != "" || name == "span" || name == "a"
}

// blockTags gives what is written where a tag opens or closes.
var blockTags = map[string]string{
	"p": "\n\n", "div": "\n", "section": "\n", "article": "\n", "header": "\n", "footer": "\n", "main": "\n", "nav": "\n",
	"br": "\n", "hr": "\n", "ul": "\n", "ol": "\n", "li": "\n- ", "dl": "\n", "dt": "\n", "dd": "\n  ",
	"table": "\n", "tr": "\n", "td": " | ", "th": " | ", "caption": "\n", "thead": "\n", "tbody": "\n",
	"h1": "\n\n# ", "h2": "\n\n## ", "h3": "\n\n### ", "h4": "\n\n#### ", "h5": "\n\n##### ", "h6": "\n\n###### ",
	"blockquote": "\n> ", "pre": "\n", "form": "\n", "title": "\n", "option": "\n", "figcaption": "\n", "address": "\n",
	"body": "\n", "head": "\n", "html": "\n",
}

// silentTags are elements whose content nobody reads.
var silentTags = []string{"script", "style", "noscript", "template", "svg"}

// htmlText is a pass over the bytes that never goes back, so that its time is
// linear whatever the page looks like.
func htmlText(page string) string {
	var w htmlWriter
	lower := strings.ToLower(page)
	if len(lower) != len(page) {
		return ""
	}
	for at := 0; at < len(page); {
		open := strings.IndexByte(page[at:], '<')
		if open < 0 {
			w.text(page[at:])
			break
		}
		w.text(page[at : at+open])
		at += open
		end := tagEnd(page, at)
		if end < 0 { // a lone sign, not a tag
			w.text(page[at : at+1])
			at++
			continue
		}
		name := tagName(lower[at+1 : end])
		w.tag(name, page[at:end])
		if opens := page[at+1] != '/' && page[end-2] != '/'; opens && slices.Contains(silentTags, name) {
			end = skipElement(lower, end, name)
		}
		at = end
	}
	return w.String()
}

// tagEnd gives the index behind the tag or comment at page[at], or -1 when
// there is none.
func tagEnd(page string, at int) int {
	if strings.HasPrefix(page[at:], "<!--") {
		if i := strings.Index(page[at+4:], "-->"); i >= 0 {
			return at + 4 + i + 3
		}
		return len(page)
	}
	if at+1 >= len(page) || !isLetter(page[at+1]) && page[at+1] != '/' && page[at+1] != '!' && page[at+1] != '?' {
		return -1
	}
	const longestTag = 64 << 10
	quote := byte(0)
	for i := at + 1; i < min(len(page), at+longestTag); i++ {
		switch c := page[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '>':
			return i + 1
		case c == '<':
			return -1
		}
	}
	return -1
}

func skipElement(lower string, at int, name string) int {
	if i := strings.Index(lower[at:], "</"+name); i >= 0 {
		return at + i
	}
	return len(lower)
}

func tagName(s string) string {
	s = strings.TrimPrefix(s, "/")
	n := 0
	for n < len(s) && (isLetter(s[n]) || s[n] >= '0' && s[n] <= '9') {
		n++
	}
	return s[:n]
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

// htmlWriter collects the text of a page; white space runs become one.
type htmlWriter struct {
	b     strings.Builder
	gap   string // what separates the next text from the last
	links []string
	pre   bool // between <pre> and </pre> white space stays
}

func (w *htmlWriter) tag(name, raw string) {
	closing := strings.HasPrefix(raw, "</")
	if name == "pre" {
		w.pre = !closing
	}
	if name == "a" {
		w.link(closing, raw)
		return
	}
	cell := name == "td" || name == "th"
	gap := blockTags[name]
	switch {
	case gap == "" || cell && (closing || strings.Contains(w.gap, "\n")):
		return // the first cell of a row needs no bar
	case closing:
		gap = "\n"
	}
	if len(gap) > len(w.gap) {
		w.gap = gap
	}
}

// link writes the address behind the text of a link.
func (w *htmlWriter) link(closing bool, raw string) {
	if !closing {
		w.links = append(w.links, attribute(raw, "href"))
		return
	}
	if len(w.links) == 0 {
		return
	}
	address := w.links[len(w.links)-1]
	w.links = w.links[:len(w.links)-1]
	if address != "" && address[0] != '#' && !strings.HasPrefix(address, "javascript:") {
		w.b.WriteString(" (" + html.UnescapeString(address) + ")")
	}
}

func attribute(raw, name string) string {
	i := strings.Index(strings.ToLower(raw), name+"=")
	if i < 0 || i+len(name)+1 >= len(raw) {
		return ""
	}
	v := raw[i+len(name)+1:]
	if v[0] == '"' || v[0] == '\'' {
		if end := strings.IndexByte(v[1:], v[0]); end >= 0 {
			return strings.TrimSpace(v[1 : 1+end])
		}
		return ""
	}
	return v[:strings.IndexAny(v+">", " \t\n>")]
}

func (w *htmlWriter) text(s string) {
	if s == "" {
		return
	}
	s = html.UnescapeString(s)
	if w.pre {
		w.flush()
		w.b.WriteString(s)
		return
	}
	for s != "" {
		trimmed := strings.TrimLeftFunc(s, unicode.IsSpace)
		if len(trimmed) < len(s) && w.gap == "" {
			w.gap = " "
		}
		word, rest := nextWord(trimmed)
		if word == "" {
			return
		}
		w.flush()
		w.b.WriteString(word)
		s = rest
	}
}

func (w *htmlWriter) flush() {
	if w.b.Len() > 0 {
		w.b.WriteString(w.gap)
	} else {
		w.b.WriteString(strings.TrimLeft(w.gap, " \n|"))
	}
	w.gap = ""
}

func (w *htmlWriter) String() string { return strings.TrimSpace(w.b.String()) }

// keepsNumbers reports whether each number of the output is one of the input,
// so that no rewriting joined or cut one.
func keepsNumbers(in, out string) bool {
	known := map[uint64]struct{}{}
	eachNumber(html.UnescapeString(in), func(n uint64) bool {
		known[n] = struct{}{}
		return true
	})
	return eachNumber(out, func(n uint64) bool {
		_, ok := known[n]
		return ok
	})
}

// eachNumber calls visit with a hash of each run of digits, until it returns
// false. It reports whether it never did.
func eachNumber(text string, visit func(n uint64) bool) bool {
	for i := 0; i < len(text); i++ {
		if !digit(text[i]) {
			continue
		}
		start := i
		for i < len(text) && digit(text[i]) {
			i++
		}
		if !visit(hashFact(text[start:i])) {
			return false
		}
	}
	return true
}
