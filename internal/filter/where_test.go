// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// retransmission is a retransmission with the fields that the tests name, and
// without a peer's port, an smoothed RTT, or an orphan's mark.
func retransmission() events.Event {
	e := events.Event{
		Time: 1_700_000_000_000_000_001, Type: events.Retransmit, Kind: events.KindRTO, State: events.Established,
		Known: events.HasRTO | events.HasFlags | events.HasSeq | events.HasUID,
		LAddr: netip.MustParseAddr("10.0.0.1"), RAddr: netip.MustParseAddr("10.0.0.2"), LPort: 443, Family: 4,
		Attempt: 3, RTO: 1600500 * time.Microsecond, Flags: events.PSH | events.ACK, Len: 0,
		Cookie: 0xabc, UID: 33, PID: 812, Sharers: []uint32{812, 813},
	}
	copy(e.Comm[:], "nginx")
	return e
}

func TestWhere(t *testing.T) {
	// Absent in the event: rport, srtt_ms, orphan.
	tests := []struct {
		expr string
		want bool
	}{
		{`rto_ms > 1000 && attempt >= 3`, true},
		{`rto_ms == 1600.5`, true},
		{`attempt == 3.0`, true},
		{`attempt < 3`, false},
		{`flags == "PSH|ACK"`, true},
		{`flags contains "ACK"`, true},
		{`flags contains "SYN"`, false},
		{`comm startsWith "ng" and comm endsWith 'x'`, true},
		{`comm matches "^n.i"`, true},
		{`lower(upper(comm)) == "nginx"`, true},
		{`comm | upper() == "NGINX"`, true},
		{`kind in ["rto", "tlp"]`, true},
		{`kind not in ["rto", "tlp"]`, false},
		{`laddr == "10.0.0.1"`, true},
		{`cookie == "abc"`, true},
		{`time > "2023-11-14T22:13:20" and time < "2024"`, true},
		{`len == 0`, true},
		{`len * 2 + 1 == 1`, true},
		{`-attempt == -3`, true},
		{`attempt % 2 == 1`, true},
		{`attempt ** 2 == 9`, true},
		{`lport in 400..500`, true},
		{`lport in [80, 443]`, true},
		{`lport in [80, 443.0]`, true},
		{`lport in [80, attempt + 440]`, true},
		{`rto_ms in 1600..1601`, true},
		{`rto_ms in 1601..2000`, false},
		{`lport in attempt..500`, true},
		{`true`, true},

		{`812 in sharers`, true},
		{`814 in sharers`, false},
		{`814 not in sharers`, true},
		{`812 not in sharers`, false},
		{`812.0 in sharers`, true},
		{`attempt + 809 in sharers`, true},
		{`pid in sharers`, true},
		{`len(sharers) > 1`, true},
		{`len(sharers) > 2`, false},
		{`len(sharers) in 2..3`, true},
		{`len(sharers) == len + 2`, true},
		{`has(sharers) && 813 in sharers`, true},

		// Absent fields fail each comparison, and not its opposite.
		{`srtt_ms > 1`, false},
		{`!(srtt_ms > 1)`, true},
		{`not (srtt_ms > 1)`, true},
		{`srtt_ms <= 1`, false},
		{`srtt_ms == 0`, false},
		{`srtt_ms != 1`, false},
		{`1 != srtt_ms`, false},
		{`srtt_ms == srtt_ms`, false},
		{`rto_ms > srtt_ms`, false},
		{`rto_ms - srtt_ms > 0 || attempt == 3`, true},
		{`rto_ms > -srtt_ms`, false},
		{`rport in [80]`, false},
		{`!(rport in [80])`, true},
		{`not (rport in [80])`, true},
		{`rport not in [80]`, false},
		{`(rport) not in [80]`, false},
		{`rport + 1 not in [80]`, false},
		{`not (rport not in [80])`, true},
		{`(rport > 1) not in [true]`, true},
		{`not ((rport > 1) in [false])`, false},
		{`attempt == 3 && not ((rport > 1) in [true])`, true},
		{`lport not in [80]`, true},
		{`lport not in 400..500`, false},
		{`rport not in 400..500`, false},
		{`not (rport in 400..500)`, true},
		{`lport in [443, rport]`, false},
		{`lport in rport..500`, false},
		{`rport in 0..65535`, false},
		{`orphan`, false},
		{`!orphan`, true},
		{`orphan == false`, false},
		{`orphan != true`, false},
		{`(srtt_ms > 1) == false`, true},
		{`has(srtt_ms)`, false},
		{`!has(srtt_ms)`, true},
		{`has(rto_ms) && has(comm)`, true},
		{`has(rto_ms) == true`, true},
		{`has(srtt_ms) == false`, true},

		// What would be an error is false as a whole.
		{`attempt % len == 0`, false},
		{`attempt / len > 1`, true}, // infinite
	}
	e := retransmission()
	for _, tt := range tests {
		match, err := (&Spec{Where: tt.expr}).Match()
		if err != nil {
			t.Errorf("%s: %v", tt.expr, err)
			continue
		}
		for range 2 { // the machine is used again
			if got := match(&e); got != tt.want {
				t.Errorf("%s: got %v, want %v", tt.expr, got, tt.want)
			}
		}
	}
}

// An environment must not keep what an earlier event had.
func TestWhereForgets(t *testing.T) {
	match, err := (&Spec{Where: `has(rto_ms) || rto_ms > 1`}).Match()
	if err != nil {
		t.Fatal(err)
	}
	with := retransmission()
	without := with
	without.Known &^= events.HasRTO
	for range 2 {
		if !match(&with) || match(&without) {
			t.Error("the presence of one event was used for another")
		}
	}
}

// A list that is absent has no length, and nothing is or is not in it.
func TestWhereWithoutList(t *testing.T) {
	e := retransmission()
	e.Sharers = nil
	for expr, want := range map[string]bool{
		`812 in sharers`:      false,
		`812 not in sharers`:  false,
		`!(812 in sharers)`:   true,
		`len(sharers) == 0`:   false,
		`len(sharers) < 2`:    false,
		`!(len(sharers) > 1)`: true,
		`has(sharers)`:        false,
	} {
		match, err := (&Spec{Where: expr}).Match()
		if err != nil {
			t.Errorf("%s: %v", expr, err)
		} else if match(&e) != want {
			t.Errorf("%s is not %v", expr, want)
		}
	}
}

func TestWhereErrors(t *testing.T) {
	tests := []struct{ expr, want string }{
		{`foo > 1`, "there is no field foo (1:1)\n | foo > 1\n | ^"},
		{`attempt > 1 && rtoms > 1`, "there is no field rtoms; it is rto_ms (1:16)\n | attempt > 1 && rtoms > 1\n | ...............^"},
		{`rto_ms > "1"`, "invalid operation: > (mismatched types float64 and string) (1:8)\n | rto_ms > \"1\"\n | .......^"},
		{`lport == "443"`, "mismatched types int and string"},
		{`laddr > 1`, "mismatched types"},
		{`laddr in 1..2`, "only a number can be in a range, not string (1:7)"},
		{`lport contains "4"`, "mismatched types"},
		{`lport in [80, "443"]`, "the list has string, but int is compared (1:15)"},
		{`laddr in "10.0.0.1"`, "in needs a list such as [80, 443], or a range such as 8000..8100 (1:10)"},
		{`lport in lport`, "in needs a list"},
		{`[1] == [1]`, "a list or range can only stand after in (1:1)"},
		{`lport == 1..2`, "a list or range can only stand after in"},
		{`rto_ms`, "it must be true or false: compare something, as in rto_ms > 1000"},
		{`"x"`, "it must be true or false"},
		{`rto_ms >`, "unexpected token EOF (1:8)"},
		{`rto_ms = 3`, "(1:8)"},
		{`comm matches "("`, "missing closing ): `(` (1:6)"},
		{`comm matches comm`, "matches needs a pattern in quotes (1:14)"},
		{`kind == "rtos"`, `kind is never "rtos": it is one of unknown, syn, synack, rto`},
		{`"established" == state`, `state is spelled "ESTABLISHED" (1:1)`},
		{`kind in ["rto", "loss", "x"]`, `kind is never "x"`},
		{`rto_ms == nil`, "nil is not a value: has(field) tests presence (1:11)"},
		{`has(1)`, "has takes one field, as in has(rto_ms) (1:1)"},
		{`has(rto_ms, len)`, "has takes one field"},
		{`has(foo)`, "there is no field foo (1:5)"},
		{`has(rto_ms > 1)`, "has takes one field"},
		{`has("rto_ms")`, "has takes one field"},
		{`has`, "it must be true or false"},
		{`len(comm) > 1`, "len takes one field that is a list, as in len(sharers) (1:1)"},
		{`len() > 1`, "len takes one field that is a list"},
		{`len(sharers, sharers) > 1`, "len takes one field that is a list"},
		{`len([1]) > 1`, "len takes one field that is a list"},
		{`len(foo) > 1`, "len takes one field that is a list"},
		{`len(sharers)`, "it must be true or false"},
		{`len(sharers) == "2"`, "mismatched types"},
		{`comm in sharers`, "the list has numbers, but string is compared (1:1)"},
		{`orphan in sharers`, "the list has numbers, but bool is compared"},
		{`sharers in sharers`, "the list has numbers, but []int is compared"},
		{`sharers in [1]`, "but []int is compared"},
		{`sharers > 1`, "mismatched types"},
		{`sharers contains 812`, "mismatched types"},
		{`sharers[0] == 1`, "this can't be used here"},
		{`foo in sharers`, "there is no field foo (1:1)"},
		{`foo in 1..2`, "there is no field foo (1:1)"},
		{`-(foo in 1..2) in 1..2`, "there is no field foo"},
		{`foo(1)`, "the functions are has, len, lower and upper"},
		{`lower(lport) == "x"`, "(1:7)"},
		{`all([1], true)`, "this can't be used here"},
		{`count(1..9, # > 1) > 1`, "unexpected token"},
		{`$env["has rto_ms"]`, "there is no field $env"},
		{`$env.rto_ms > 1`, "there is no field $env"},
		{`let x = 1; x == 1`, "this can't be used here"},
		{`true; false`, "this can't be used here"},
		{`{"a": 1} == {}`, "this can't be used here"},
		{`comm[0] == "n"`, "this can't be used here"},
		{`comm[0:1] == "n"`, "this can't be used here"},
		{`comm.x == 1`, "this can't be used here"},
		{`comm?.x == 1`, "this can't be used here"},
		{`(rto_ms ?? 1) > 0`, "there is no operator ??"},
		{`(orphan ? 1 : 2) == 1`, "there is no choice by ?: or if: use && and || (1:2)"},
		{`if orphan {true} else {false}`, "there is no choice by ?: or if: use && and || (1:4)"},
		{`orphan > 1`, "mismatched types"},
		{`orphan && 1`, "mismatched types"},
		{`!rto_ms`, "mismatched type"},
		{strings.Repeat(" ", maxWhere) + "true", "the expression is longer than 4096 bytes"},
		{strings.Repeat("!", 2000) + "true", "(1:"},
		{strings.Repeat("-(", 500) + "lport" + strings.Repeat(" in 1..2)", 500), "longer than"},
		{strings.Repeat("-(", 300) + "lport" + strings.Repeat(" in 1..2)", 300), "(1:"},
		{strings.Repeat("(", 300) + "lport" + strings.Repeat(" in 1..2)", 300), "(1:"},
		{strings.Repeat("(", 150) + "lport" + strings.Repeat(" in 1..2)", 150), "only a number can be in a range, not bool"},
		{strings.Repeat("(", 2000), "(1:"},
		{"attempt > 1 &&\n foo", "there is no field foo (2:2)\n |  foo\n | .^"},
	}
	for _, tt := range tests {
		_, err := (&Spec{Where: tt.expr}).Match()
		if err == nil {
			t.Errorf("%s: no error", tt.expr)
		} else if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s:\n got %v\nwant %s", tt.expr, err, tt.want)
		}
	}
}

func FuzzWhere(f *testing.F) {
	for _, s := range []string{
		`lower(comm) matches "x.*"`, `!(orphan == true) or $env`,
	} {
		f.Add(s)
	}
	e := retransmission()
	f.Fuzz(func(t *testing.T, text string) {
		match, err := (&Spec{Where: text}).Match()
		if err == nil {
			match(&e)
		}
	})
}
