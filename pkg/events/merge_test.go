// SPDX-License-Identifier: Apache-2.0

package events

import (
	"reflect"
	"slices"
	"testing"
)

func TestMerger(t *testing.T) {
	received := func(conn uint64) Event {
		return Event{Type: Reset, Direction: Received, Kind: KindPeer, Conn: conn, shutdown: true}
	}
	closed := func(conn uint64) Event { return Event{Type: StateChange, NewState: Close, Conn: conn} }
	sent := func(conn uint64) Event {
		return Event{Type: Reset, Direction: Sent, Kind: KindDataAfterClose, Conn: conn}
	}
	other := Event{Type: Retransmit, Kind: KindRTO, Conn: 9}
	real := Event{Type: Reset, Direction: Received, Kind: KindPeer, Conn: 1} // shut down for nobody

	same := func(a, b Event) bool { return reflect.DeepEqual(a, b) }

	for _, tt := range []struct {
		name   string
		in     [][]Event
		out    [][]Event
		merged uint64
	}{
		{"back to back", [][]Event{{received(1), closed(1), sent(1)}}, [][]Event{{closed(1), sent(1)}}, 1},
		{"resets alone", [][]Event{{received(1), sent(1)}}, [][]Event{{sent(1)}}, 1},
		{"others between", [][]Event{{received(1), other, closed(1), other, sent(1)}}, [][]Event{{other, closed(1), other, sent(1)}}, 1},
		{"two at once", [][]Event{{received(1), received(2), sent(2), sent(1)}}, [][]Event{{sent(2), sent(1)}}, 2},
		{"across batches", [][]Event{{other, received(1)}, {closed(1), sent(1)}}, [][]Event{{other}, {closed(1), sent(1)}}, 1},
		{"never answered", [][]Event{{received(1), other}, {other}, {other}}, [][]Event{nil, {received(1), other, other}, {other}}, 0},
		{"held while another waits", [][]Event{{received(1)}, {received(2)}, {sent(2)}},
			[][]Event{nil, {received(1)}, {sent(2)}}, 1},
		{"a real reset", [][]Event{{real, closed(1)}}, [][]Event{{real, closed(1)}}, 0},
		{"the connection lived on", [][]Event{{received(1), {Type: StateChange, NewState: SynSent, Conn: 1}, sent(1)}, {}},
			[][]Event{nil, {received(1), {Type: StateChange, NewState: SynSent, Conn: 1}, sent(1)}}, 0},
		{"the last batch holds nothing back", [][]Event{{}, {received(1)}}, [][]Event{nil, {received(1)}}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var m Merger
			for i, in := range tt.in {
				got := m.Fold(append(m.Next(nil), in...), i == len(tt.in)-1)
				if !slices.EqualFunc(got, tt.out[i], same) {
					t.Errorf("batch %d: %+v, want %+v", i, got, tt.out[i])
				}
			}
			if m.Merged != tt.merged {
				t.Errorf("merged %d, want %d", m.Merged, tt.merged)
			}
		})
	}
}
