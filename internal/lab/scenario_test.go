// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// played is a scenario that was played, and what tracefs saw.
type played struct {
	place  lab.Place
	facts  *lab.Facts
	events []labtest.TraceEvent
	err    error
}

// play plays a scenario in a new namespace under the eyes of tracefs.
func play(ctx context.Context, s lab.Scenario, f lab.Family) (r played) {
	ns, err := lab.NewNamespace(ctx)
	if err != nil {
		return played{err: err}
	}
	defer func() { r.err = errors.Join(r.err, ns.Close()) }()
	if r.place, r.err = ns.Loopback(f); r.err != nil {
		return r
	}
	trace, err := labtest.StartTrace(r.place.Addr)
	if err != nil {
		return played{err: err}
	}
	defer func() { r.err = errors.Join(r.err, trace.Close()) }()
	if r.facts, r.err = s.Run(ctx, r.place); r.err != nil {
		return r
	}
	r.events, r.err = trace.Events()
	return r
}

// Every scenario does what its facts say, for every family, by the witness of tracefs and of the kernel's counters.
func TestScenarios(t *testing.T) {
	const atOnce = 8 // they mostly wait for timers
	slots := make(chan struct{}, atOnce)
	for _, s := range lab.Scenarios() {
		for _, f := range []lab.Family{lab.V4, lab.V6, lab.Mapped, lab.Dual} {
			result := make(chan played, 1)
			slots <- struct{}{}
			go func() {
				defer func() { <-slots }()
				result <- play(t.Context(), s, f)
			}()
			t.Run(fmt.Sprintf("%s/%v", s.Name, f), func(t *testing.T) {
				t.Parallel()
				report(t, <-result)
			})
		}
	}
}

// report fails if a scenario did not do what it says, and tells what it did.
func report(t *testing.T, r played) {
	t.Helper()
	if r.err != nil {
		t.Fatal(r.err)
	}
	err := labtest.Check(r.place, r.facts, r.events)
	if err != nil || testing.Verbose() {
		for _, e := range labtest.Of(r.place, r.facts, r.events) {
			t.Logf("%v %d %s %v", e.Time, e.TID, e.Comm, e)
		}
		t.Log(labtest.Counters(r.facts.Client).TCP())
		for _, e := range r.facts.Events {
			t.Log(e)
		}
	}
	if err != nil {
		t.Error(err)
	}
}
