// SPDX-License-Identifier: Apache-2.0

package events

// Merger folds the false event that data after shutdown(SHUT_RD) causes: the
// kernel calls tcp_reset(), as if a reset had come, closes the connection and
// sends one. What remains is the reset that was sent.
type Merger struct {
	Merged uint64 // events folded so far
	held   []Event
}

// maxHeld bounds what one event may hold back. The two halves come back to
// back on one CPU; what comes between them is of the others.
const maxHeld = 64

// Next appends what was held back from the batch before.
func (m *Merger) Next(batch []Event) []Event {
	return append(batch, m.held...)
}

// Fold removes from batch what another event of it makes superfluous. An event
// at the batch's end whose other half may still come is held back, with those
// behind it, until the next call: no longer, and only once. last says that
// there is no next call.
func (m *Merger) Fold(batch []Event, last bool) []Event {
	old := len(m.held) // these had their chance
	m.held = m.held[:0]
	for i := 0; i < len(batch); i++ {
		if !batch[i].looksReceived() {
			continue
		}
		if j := answer(batch, i); j >= 0 {
			batch = append(batch[:i], batch[i+1:]...)
			m.Merged++
			i--
			old--
			continue
		}
		if i >= old && !last && len(batch)-i <= maxHeld {
			m.held = append(m.held, batch[i:]...)
			return batch[:i]
		}
	}
	return batch
}

// looksReceived reports whether e may be the false half. Where the packet is
// known it tells.
func (e *Event) looksReceived() bool {
	return e.Type == Reset && e.Direction == Received && e.shutdown && e.Conn != 0 && e.TriggerFlags&RST == 0
}

// answer finds the reset that was sent on the connection of batch[i], right
// after it was closed; -1 if there is none.
func answer(batch []Event, i int) int {
	for j := i + 1; j < len(batch); j++ {
		e := &batch[j]
		if e.Conn != batch[i].Conn {
			continue
		}
		if e.Type == Reset && e.Direction == Sent && e.Kind == KindDataAfterClose {
			return j
		}
		if e.Type != StateChange || e.NewState != Close {
			return -1
		}
	}
	return -1
}
