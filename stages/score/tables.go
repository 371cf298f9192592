package score

// The tables are fitted on public data by "go run ./bench score fit" and printed by it.
// Each begins with the intercept of a logistic regression.

// refusalWeights: XSTest (Röttger et al., CC BY 4.0): the prompts with odd numbers, completions of all models there.
var refusalWeights = [1 + refusalWidth]float64{
	-4.504,
	0,
	0.6008,
	0,
	0.59,
	1.734,
	0,
	0.01023,
	-0.02606,
	1.106,
	-0.2156,
	1.947,
	2.124,
	0.8582,
	0,
	0,
	0.001132,
	0,
	0.3573,
	0.8108,
	-0.06024,
	0.5369,
	-0.2735,
	2.801,
	0.1694,
	-0.03163,
	-0.4007,
	0.03425,
	-1.075,
	0,
	4.829,
	0.3237,
	1.039,
	0.2275,
	1.133,
	0,
}

// relevanceWeights: XSTest, PandaLM (Apache-2.0), QAGS-CNN and Topical-Chat (UniEval's copies, MIT): half of the prompts of each, their answers against shuffled ones.
var relevanceWeights = [1 + relevanceWidth]float64{
	0.5754,
	6.036,
	5.832,
	0.4247,
	-1.922,
	-0.8692,
	-0.2817,
}

// groundedWeights: QAGS-CNN (Wang et al., UniEval's copy, MIT): half of the articles, three votes each.
var groundedWeights = [1 + 1]float64{
	-3.339,
	5.892,
}

// preferenceWeights: PandaLM's test set (Apache-2.0): half of the instructions, the majority of three votes.
var preferenceWeights = [1 + 3]float64{
	0,
	0.7564,
	-0.9793,
	-1.028,
}
