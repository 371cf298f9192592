package generate_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

func TestADrainEndsCallsThatHaveBegunAndGivesBackTheRest(t *testing.T) {
	l, c := newLedger(), &caller{}
	begun, finish := make(chan struct{}, 1), make(chan struct{})
	c.do = func(context.Context, schemas.Call) (schemas.Answer, error) {
		begun <- struct{}{}
		<-finish
		return schemas.Answer{Body: []byte(`{"choices":[]}`)}, nil
	}
	s := newStage(1, l, c)
	first, second, third, late := newRequest("1"), newRequest("2"), newRequest("3"), newRequest("late")
	running := make(chan *verdicts)
	go func() { running <- run(t.Context(), s, first, second, third) }() // blocks: there is one worker
	<-begun
	s.Drain()
	three := <-running
	require.Equal(t, stages.ActionWait, run(t.Context(), s, late).of(late).Action)
	close(finish)
	require.Equal(t, stages.ActionContinue, three.of(first).Action)
	require.Equal(t, stages.ActionWait, three.of(second).Action)
	require.Equal(t, stages.ActionWait, three.of(third).Action)
	require.Equal(t, 1, c.calls)
}
