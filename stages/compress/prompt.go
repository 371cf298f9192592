package compress

import (
	"strings"
)

// A prompt that holds documents and a question in one text is cut into an
// instruction at its head, the documents, and a question at its tail. Head and
// tail are never compressed.

const (
	// maxHead and maxTail bound an instruction and a question, in bytes.
	maxHead = 1200
	maxTail = 1000
	// minDocuments is the size in bytes under which a text is no document.
	minDocuments = 400
)

// splitPrompt finds the documents text[start:end] and the question. The range
// is empty when there are no documents.
func splitPrompt(text string) (start, end int, question string) {
	end, question = cutTail(text)
	head := headLen(text[:end])
	if question == "" && head > 0 && asks(text[:head]) {
		question = text[:head]
	}
	if end-head < minDocuments {
		return 0, 0, question
	}
	return head, end, question
}

// cutTail finds the question at the end of a prompt, by its label or its form.
func cutTail(text string) (end int, question string) {
	bottom := text[max(0, len(text)-2*maxTail):]
	base := len(text) - len(bottom)
	lines := linesOf(bottom)
	answer := len(bottom) // where the cue for the answer starts
	for i := len(lines) - 1; i >= 0; i-- {
		line := strings.TrimSpace(lines[i].of(bottom))
		if line == "" {
			continue
		}
		if answer == len(bottom) && isCue(line) {
			answer = lines[i].start
			continue
		}
		if n := questionLabel(line); n > 0 && (i > 0 || base == 0) {
			from := lines[i].start + strings.Index(lines[i].of(bottom), line)
			return base + lines[i].start, strings.TrimSpace(bottom[from+n : answer])
		}
	}
	return cutLastParagraph(text[:base+answer], len(text))
}

// cutLastParagraph takes the last paragraph or line for the question when it is
// short and asks for something.
func cutLastParagraph(text string, whole int) (end int, question string) {
	trimmed := strings.TrimRight(text, " \t\r\n")
	for _, border := range []string{"\n\n", "\n"} {
		i := strings.LastIndex(trimmed, border) + len(border)
		if i < len(border) {
			continue
		}
		last := trimmed[i:]
		if len(last) <= maxTail && asks(last) && titleLen(last) == 0 && (border == "\n\n" || speakerLen(last) == 0) {
			return i, last
		}
	}
	return whole, ""
}

// isCue reports whether a line only asks the model to begin: "Answer:".
func isCue(line string) bool {
	const longest = 40
	return len(line) <= longest && strings.HasSuffix(line, ":") && questionLabel(line) == 0
}

// questionLabel gives the length of "Question:" and the like at the start of a
// line, 0 for none.
func questionLabel(line string) int {
	const longest = 32
	colon := strings.IndexByte(line[:min(len(line), longest)], ':')
	full := strings.Index(line[:min(len(line), longest)], "：")
	n := colon + 1
	if full >= 0 && (colon < 0 || full < colon) {
		colon, n = full, full+len("：")
	}
	if colon < 1 {
		return 0
	}
	label := strings.ToLower(strings.Trim(line[:colon], "#*<>[]() 0123456789"))
	label = strings.TrimPrefix(strings.TrimPrefix(label, "the "), "user ")
	switch label {
	case "question", "query", "q", "key", "task", "instruction", "instructions", "request", "problem", "search query", "user", "prompt",
		"user's question", "frage", "aufgabe", "pregunta", "domanda", "вопрос", "问题", "問題", "質問", "질문":
		return n
	}
	return 0
}

// headLen gives the length of the instruction before the documents: the first
// paragraph, when it is short, is no document itself and talks to the model.
func headLen(text string) int {
	border := strings.Index(text, "\n\n")
	if border < 0 {
		border = strings.IndexByte(text, '\n')
	}
	if border < 0 || border > maxHead {
		return 0
	}
	first := text[:border]
	if first == "" || titleLen(first) > 0 {
		return 0
	}
	line, _ := cutLine(first, 0)
	speaks := speakerLen(first) > 0 && speakerLen(first) < len(first) && questionLabel(first) == 0
	if line == "" || speaks || !asks(first) && !strings.HasSuffix(strings.TrimSpace(first), ":") {
		return 0
	}
	for border < len(text) && text[border] == '\n' {
		border++
	}
	return border
}

// requests are the words by which a sentence asks for something.
var requests = func() map[string]bool {
	m := map[string]bool{}
	for w := range strings.FieldsSeq(`who what when where which why how whose whom is are was were do does did can could should would will
	summarize summarise explain describe list find extract answer tell give write translate identify compare name show provide determine classify
	analyze analyse discuss outline using use read based given please according review rewrite generate create return select count calculate
	you your was wer wie wo wann warum welche quel quelle qui que comment pourquoi quién qué cómo cuándo dónde`) {
		m[w] = true
	}
	return m
}()

// asks reports whether a text is a question or a request.
func asks(text string) bool {
	trimmed := strings.TrimSpace(text)
	if strings.HasSuffix(trimmed, "?") || strings.HasSuffix(trimmed, "？") || questionLabel(trimmed) > 0 {
		return true
	}
	word, _ := nextWord(trimmed)
	return requests[strings.ToLower(strings.Trim(word, ",.:*#\"'"))] || strings.Contains(trimmed, "？") || strings.Contains(trimmed, "? ")
}
