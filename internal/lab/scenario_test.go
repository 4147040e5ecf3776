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
	if r.place, r.err = ns.Loopback(f); r.err == nil {
		r.facts, r.events, r.err = labtest.Play(ctx, r.place, s.Run)
	}
	r.err = errors.Join(r.err, ns.Close())
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
				r := <-result
				if r.err != nil {
					t.Fatal(r.err)
				}
				labtest.Report(t, r.place, r.facts, r.events)
			})
		}
	}
}
