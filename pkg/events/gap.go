// SPDX-License-Identifier: Apache-2.0

package events

// Gaps finds retransmissions of a connection that no event showed: the kernel
// counts the segments that each connection sends again, and an event that comes
// with a higher count than the events before explain stands behind a gap.
//
// It has to be given all retransmissions of a connection, in order. The first
// only begins the count. It keeps the connections that had one last, at least
// maxGapConns; one that is forgotten begins anew.
type Gaps struct {
	young, old map[uint64]uint32 // total_retrans after the last event, by connection
}

// maxGapConns bounds one of the two generations.
const maxGapConns = 32768

// See sets e.Gap, if e is a retransmission.
func (g *Gaps) See(e *Event) {
	if e.Type != Retransmit || e.Conn == 0 {
		return
	}
	// The count holds what it counts at the event itself: the count of a
	// request, whose SYN-ACK it is, goes on in the connection it becomes.
	if last, known := g.last(e.Conn); known {
		jump := e.TotalRetrans - last
		// A count that went back is another's, or wrapped around for long.
		if explained := max(1, e.Segs); jump > explained && jump < 1<<31 {
			e.Gap = jump - explained
		} else if e.refused() && jump < explained {
			e.Gap = jump
		}
	}
	g.put(e.Conn, e.TotalRetrans)
}

// refused reports whether the kernel refused a segment before it counted it. It
// may have counted one with these errors, too, if a device refused it.
func (e *Event) refused() bool {
	switch e.Error {
	case ebusy, eagain, enomem, ehostunreach:
		return true
	}
	return false
}

func (g *Gaps) last(conn uint64) (total uint32, known bool) {
	if total, known = g.young[conn]; !known {
		total, known = g.old[conn]
	}
	return total, known
}

func (g *Gaps) put(conn uint64, total uint32) {
	if _, known := g.young[conn]; !known && len(g.young) >= maxGapConns || g.young == nil {
		g.young, g.old = g.old, g.young
		if g.young == nil {
			g.young = map[uint64]uint32{}
		}
		clear(g.young)
	}
	g.young[conn] = total
}
