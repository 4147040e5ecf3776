// SPDX-License-Identifier: Apache-2.0

//go:build linux

package live_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
	"github.com/tcptrace/tcptrace/internal/lab/labtest/nft"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// TestShows says what the running kernel lets tcptrace see, for the table in
// the README. What it doesn't is a limit of the kernel's that its types tell,
// or that the tool speaks of at the start.
func TestShows(t *testing.T) {
	scenario := func(name string) trouble {
		all := lab.Scenarios()
		return all[slices.IndexFunc(all, func(s lab.Scenario) bool { return s.Name == name })].Run
	}
	kernel, err := kernelTypes.Kernel()
	if err != nil {
		t.Fatal(err)
	}
	_, err = kernel.AnyTypeByName("bpf_get_socket_ptr_cookie")
	cookies := err == nil
	var fn *btf.Func
	packet := kernel.TypeByName("tcp_reset", &fn) == nil && len(fn.Type.(*btf.FuncProto).Params) > 1
	unseen := func(what string) bool { return strings.Contains(everything.unseen, what) }

	reset := func(e *events.Event, d events.Direction) bool { return e.Type == events.Reset && e.Direction == d }
	for _, row := range []struct {
		name   string
		run    trouble
		shows  func(*events.Event) bool
		excuse func() bool
	}{
		{"retransmissions, and SYN-ACKs, with kind, RTO and end", scenario("lost-synack"),
			func(e *events.Event) bool {
				return e.Kind == events.KindSYNACK && e.Has(events.HasRTO|events.HasGivesUp)
			}, nil},
		{"state changes, with both ends", scenario("clean"),
			func(e *events.Event) bool {
				return e.OldState == events.Listen && e.NewState == events.SynRecv && e.RPort != 0
			}, nil},
		{"retransmissions that this host could not send", func(ctx context.Context, p lab.Place) (*lab.Facts, error) { return nft.BlockedOutput(ctx, p, 1) },
			func(e *events.Event) bool { return e.Error != 0 },
			func() bool { return !labtest.HasField(lab.Retransmit, "err") }},
		// The client's the test has asked for; a child's at its birth it can't have.
		{"a cookie for each connection", scenario("clean"),
			func(e *events.Event) bool { return e.OldState == events.SynRecv && e.Cookie != 0 },
			func() bool { return !cookies }},
		{"resets sent, with and without a socket", lab.Refused,
			func(e *events.Event) bool { return reset(e, events.Sent) }, func() bool { return unseen("without a socket") }},
		{"resets sent in TIME_WAIT", scenario("time-wait"),
			func(e *events.Event) bool { return e.Kind == events.KindTimeWait }, func() bool { return unseen("TIME_WAIT") }},
		{"the kernel's reason for a reset", lab.Refused,
			func(e *events.Event) bool { return reset(e, events.Sent) && e.Reason != "" },
			func() bool { return !labtest.HasField(lab.SendReset, "reason") }},
		{"flags and TTL of received resets", lab.Refused,
			func(e *events.Event) bool { return reset(e, events.Received) && e.Has(events.HasTTL) },
			func() bool { return unseen("TTL") && (!packet || unseen("refuses")) }},
		{"resets that the firewall sends", nft.RejectedSYN,
			func(e *events.Event) bool { return e.Kind == events.KindFirewall }, func() bool { return unseen("firewall") }},
	} {
		evs := play(t, loopback(t, lab.V4), row.run)
		value := "no"
		switch {
		case slices.ContainsFunc(evs, func(e events.Event) bool { return row.shows(&e) }):
			value = "yes"
		case row.excuse == nil || !row.excuse():
			t.Errorf("not seen: %s:\n%s", row.name, dump(evs))
		}
		t.Logf("shows\t%s\t%s", row.name, value)
	}
	t.Logf("not seen: %s", everything.unseen)
	// The VMs' stock kernels take programs on functions.
	if os.Getenv(slow) != "" && unseen("refuses") {
		t.Error("a program could not be attached to a function")
	}
	if unseen("load program") {
		t.Error("the verifier's refusal of a program is no limit of the kernel")
	}
}
