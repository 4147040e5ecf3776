// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab_test

import (
	"testing"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
)

// Every scenario does what its facts say, for every family, by the witness of tracefs and of the kernel's counters.
func TestScenarios(t *testing.T) {
	for _, s := range lab.Scenarios() {
		for _, f := range []lab.Family{lab.V4, lab.V6, lab.Mapped, lab.Dual} {
			t.Run(s.Name+"/"+f.String(), func(t *testing.T) {
				t.Parallel()
				ns := labtest.Namespace(t)
				p, err := ns.Loopback(f)
				if err != nil {
					t.Fatal(err)
				}
				trace := labtest.Witness(t)
				facts, err := s.Run(t.Context(), p)
				events, traceErr := trace.Events()
				if err != nil || traceErr != nil {
					t.Fatal(err, traceErr)
				}
				err = labtest.Check(p, facts, events)
				if err == nil && !testing.Verbose() {
					return
				}
				for _, e := range labtest.Of(p, facts, events) {
					t.Logf("%v %d %s %v", e.Time, e.TID, e.Comm, e)
				}
				t.Log(labtest.Counters(facts.Client).TCP())
				for _, e := range facts.Events {
					t.Log(e)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
}
