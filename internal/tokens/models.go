package tokens

import "strings"

// Rule tells how the models whose names start with Prefix count tokens.
//
// Encoding and Factor give the tokens of a text: what the encoding counts,
// times the factor. Where the factor is 1 and the encoding is the model's own,
// the count of a text is exact. Vendors other than OpenAI keep their
// vocabularies to themselves or have their own; for them the rule is an
// approximation to start with, and Calibration learns the rest.
type Rule struct {
	Prefix   string  // start of the model's name, in any case; "" fits every model
	Encoding string  // as for Load
	Factor   float64 // 0 means 1

	// A request is its texts and, each in tokens: PerMessage for a message,
	// PerName for a name in one, PerReply once, PerFunction for a function.
	// NewRule fills them in.
	PerMessage, PerName, PerReply, PerFunction int

	// Images is what an image costs; without a rule images cost nothing.
	Images ImageRule
}

// Table is a list of rules. The rule with the longest fitting prefix applies,
// and of two with the same prefix the later one. So
//
//	append(DefaultTable(), own...)
//
// is the default table with own additions and changes.
type Table []Rule

// TableDate is the day as of which DefaultTable and DefaultPrices were made.
const TableDate = "2026-11-23"

// NewRule returns a rule with the overheads of OpenAI's models. They are those
// of OpenAI's cookbook, "How to count tokens with tiktoken": from gpt-4o on,
// functions cost less than before.
func NewRule(prefix, encoding string, factor float64, images ImageRule) Rule {
	perFunction := 10
	if encoding == O200kBase {
		perFunction = 7
	}
	return Rule{
		Prefix: prefix, Encoding: encoding, Factor: factor,
		PerMessage: 3, PerName: 1, PerReply: 3, PerFunction: perFunction,
		Images: images,
	}
}

// openAI is the rule of a model whose encoding is its own.
func openAI(prefix, encoding string, images ImageRule) Rule {
	return NewRule(prefix, encoding, 1, images)
}

// DefaultTable returns the rules as of TableDate.
//
// The approximations: Claude up to 4.6 takes about 1.2 times the tokens of
// o200k_base, and from Opus 4.7 on, by Anthropic's own word, up to 1.35 times
// that. Llama 3 extends cl100k_base, Qwen is built on it but splits numbers
// into digits. Gemini, Mistral (its later vocabulary) and DeepSeek are within
// a tenth of o200k_base on English and code. A model that no rule names is
// taken as 1.1 times o200k_base.
func DefaultTable() Table {
	var (
		gpt4o     = ImageRule{Kind: Tiles, Base: 85, Each: 170}
		gpt4oMini = ImageRule{Kind: Tiles, Base: 2833, Each: 5667}
		gpt5      = ImageRule{Kind: Tiles, Base: 70, Each: 140}
		reasoning = ImageRule{Kind: Tiles, Base: 75, Each: 150}
		mini      = ImageRule{Kind: Patches, Each: 1.62, Max: 1536}
		nano      = ImageRule{Kind: Patches, Each: 2.46, Max: 1536}
		o4Mini    = ImageRule{Kind: Patches, Each: 1.72, Max: 1536}
		gpt54     = ImageRule{Kind: Patches, Each: 1.2, Max: 2500, MaxAuto: 10000}
		claude    = ImageRule{Kind: Area, Each: 750, Max: 1600}
		claude47  = ImageRule{Kind: Area, Each: 750, Max: 4784}
		gemini    = ImageRule{Kind: LargeTiles, Each: 258}
		gemini3   = ImageRule{Kind: Fixed, Each: 1120}
	)
	oldest := openAI("gpt-3.5-turbo-0301", CL100kBase, ImageRule{})
	oldest.PerMessage, oldest.PerName = 4, -1
	return Table{
		NewRule("", O200kBase, 1.1, gpt4o),

		oldest,
		openAI("gpt-3.5", CL100kBase, ImageRule{}),
		openAI("gpt-35", CL100kBase, ImageRule{}), // as Azure writes it
		openAI("gpt-4", CL100kBase, gpt4o),
		openAI("gpt-4o", O200kBase, gpt4o),
		openAI("gpt-4o-mini", O200kBase, gpt4oMini),
		openAI("chatgpt-4o", O200kBase, gpt4o),
		openAI("gpt-4.1", O200kBase, gpt4o),
		openAI("gpt-4.1-mini", O200kBase, mini),
		openAI("gpt-4.1-nano", O200kBase, nano),
		openAI("gpt-4.5", O200kBase, gpt4o),
		openAI("gpt-5", O200kBase, gpt5),
		openAI("gpt-5-mini", O200kBase, mini),
		openAI("gpt-5-nano", O200kBase, nano),
		openAI("gpt-5.4", O200kBase, gpt54),
		openAI("gpt-5.5", O200kBase, gpt54),
		openAI("gpt-5.6", O200kBase, gpt54),
		openAI("gpt-oss", O200kBase, ImageRule{}),
		openAI("o1", O200kBase, reasoning),
		openAI("o3", O200kBase, reasoning),
		openAI("o4-mini", O200kBase, o4Mini),

		openAI("text-embedding-3", CL100kBase, ImageRule{}),
		openAI("text-embedding-ada-002", CL100kBase, ImageRule{}),
		openAI("text-davinci-00", P50kBase, ImageRule{}),
		openAI("code-davinci-00", P50kBase, ImageRule{}),
		openAI("davinci", R50kBase, ImageRule{}),
		openAI("gpt2", R50kBase, ImageRule{}),

		NewRule("claude", O200kBase, 1.2, claude),
		NewRule("claude-opus-4-7", O200kBase, 1.5, claude47),
		NewRule("claude-opus-4-8", O200kBase, 1.5, claude47),
		NewRule("claude-opus-5", O200kBase, 1.5, claude47),
		NewRule("claude-sonnet-5", O200kBase, 1.5, claude47),
		NewRule("claude-haiku-5", O200kBase, 1.5, claude47),
		NewRule("claude-fable", O200kBase, 1.5, claude47),
		NewRule("gemini", O200kBase, 1.05, gemini),
		NewRule("gemini-3", O200kBase, 1.05, gemini3),
		NewRule("llama", CL100kBase, 1, gpt4o),
		NewRule("meta-llama", CL100kBase, 1, gpt4o),
		NewRule("qwen", CL100kBase, 1.05, gpt4o),
		NewRule("qwq", CL100kBase, 1.05, gpt4o),
		NewRule("mistral", O200kBase, 1.1, gpt4o),
		NewRule("ministral", O200kBase, 1.1, gpt4o),
		NewRule("mixtral", O200kBase, 1.25, gpt4o),
		NewRule("codestral", O200kBase, 1.1, gpt4o),
		NewRule("deepseek", O200kBase, 1.05, gpt4o),
	}
}

// Lookup returns the rule for a model. If no rule fits the name as it is, what
// gateways and fine-tuning put before it is left away: "ft:", and the path up
// to the last slash ("openai/gpt-4o", "models/gemini-2.5-pro").
func (t Table) Lookup(model string) (Rule, bool) {
	rule, ok := t.longest(model)
	if base := baseName(model); base != model && (!ok || rule.Prefix == "") {
		if other, found := t.longest(base); found {
			return other, true
		}
	}
	return rule, ok
}

func (t Table) longest(model string) (Rule, bool) {
	best := -1
	for i, rule := range t {
		if hasPrefixFold(model, rule.Prefix) && (best < 0 || len(rule.Prefix) >= len(t[best].Prefix)) {
			best = i
		}
	}
	if best < 0 {
		return Rule{}, false
	}
	return t[best], true
}

func baseName(model string) string {
	model = strings.TrimPrefix(model, "ft:")
	return model[strings.LastIndexByte(model, '/')+1:]
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
