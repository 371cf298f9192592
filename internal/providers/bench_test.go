package providers_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/fakellm"
	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/schemas"
)

var paragraph = strings.Repeat("The river rose by two metres in the night, and the old bridge held. Engineers had warned of its weak pillars for years. Nobody was hurt. ", 7)

// prompt1KB is a chat request of about 1 KB.
var prompt1KB = []byte(`{"model":"auto","messages":[{"role":"user","content":` + string(schemas.Quote(paragraph+"How far did the river rise?")) + `}]}`)

func BenchmarkSimulated(b *testing.B) {
	p, err := providers.New(providers.Config{Kind: providers.KindSimulated})
	require.NoError(b, err)
	call := schemas.Call{ID: "1", Model: "m", Body: prompt1KB}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Generate(context.Background(), call); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpenAI measures a call over loopback, the fake's own cost included.
func BenchmarkOpenAI(b *testing.B) {
	fake := fakellm.New(fakellm.Config{})
	defer fake.Close()
	p, err := providers.New(providers.Config{Kind: providers.KindOpenAI, BaseURL: fake.URL + "/v1", MaxConnections: 64})
	require.NoError(b, err)
	defer p.Close()
	call := schemas.Call{ID: "1", Model: "m", Body: prompt1KB}
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := p.Generate(context.Background(), call); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkOpenAIStream(b *testing.B) {
	fake := fakellm.New(fakellm.Config{})
	defer fake.Close()
	p, err := providers.New(providers.Config{Kind: providers.KindOpenAI, BaseURL: fake.URL + "/v1", MaxConnections: 64})
	require.NoError(b, err)
	defer p.Close()
	call := schemas.Call{ID: "1", Model: "m", Body: prompt1KB, Delta: func([]byte) {}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Generate(context.Background(), call); err != nil {
			b.Fatal(err)
		}
	}
}
