// SPDX-License-Identifier: Apache-2.0

package events

// signature is what a retransmission's kind shows in, at the tracepoint
// tcp_retransmit_skb: before the kernel has written retrans_stamp, the backoff
// and the doubled RTO.
type signature struct {
	state       State
	flags       Flags
	orphan      bool
	bits        uint16
	pending     uint8 // icsk_pending
	ca          CAState
	sacked      uint8 // TCP_SKB_CB(skb)->sacked
	retransmits uint8
	window      uint32 // snd_wnd
}

// The timers of icsk_pending, include/net/inet_connection_sock.h.
const (
	timeLossProbe  = 5
	timeReoTimeout = 6
)

const sackedLost = 0x04 // TCPCB_LOST

// classify names the mechanism that sent a segment again. The order matters:
// a pending loss probe, say, means a TLP only if nothing else explains the
// retransmission.
func classify(s *signature) Kind {
	expired := s.bits&rtxTimerExpired != 0
	lost := s.sacked&sackedLost != 0
	switch {
	case s.flags&SYN != 0 && s.flags&ACK != 0:
		return KindSYNACK // simultaneous open: the socket's own
	case s.flags&SYN != 0:
		return KindSYN
	case s.pending == 0 && s.window == 0 && !s.orphan:
		// tcp_retransmit_timer(): "Receiver dastardly shrinks window." An
		// orphan in that state times out as usual.
		return KindProbe
	case s.pending == 0 && s.ca == CALoss && s.retransmits > 0:
		return KindRTO // tcp_write_timer_handler() cleared icsk_pending
	case s.bits&rtxTFOData != 0 && !expired && s.retransmits == 0 && s.ca != CARecovery:
		return KindTFO // tcp_rcv_fastopen_synack()
	case s.pending == timeLossProbe && !lost:
		return KindTLP // tcp_send_loss_probe()
	case s.pending == timeReoTimeout && expired:
		return KindRACK // tcp_rack_reo_timeout()
	case s.ca == CARecovery:
		return KindFast
	case s.ca == CALoss && s.retransmits == 0 && s.bits&rtxUndo == 0:
		// tcp_simple_retransmit() enters Loss without a time-out and, unlike
		// tcp_enter_loss(), forgets the undo marker.
		return KindPMTU
	case s.ca == CALoss:
		return KindLoss
	case lost:
		// tcp_xmit_retransmit_queue() counts these as TCPFastRetrans.
		return KindFast
	}
	return KindUnknown
}

func phaseOf(s State) Phase {
	switch s {
	case SynSent, SynRecv, NewSynRecv:
		return PhaseConnect
	case FinWait1, Closing, LastAck:
		return PhaseClose
	case Established, CloseWait, FinWait2:
		return PhaseData
	}
	return 0
}

// resetSignature is what the kind of a sent reset shows in.
type resetSignature struct {
	bits     uint16
	state    State
	orphan   bool
	skErr    Errno
	reason   string // empty where the kernel gives none
	answered bool   // to a packet, with flags
	flags    Flags
}

func whyReceived(s State) string {
	switch s {
	case SynSent:
		return "the peer refused the connection: nothing listens there, or a firewall rejects it"
	case SynRecv:
		return "the peer gave up the handshake"
	case CloseWait:
		return "the peer reset the connection after closing its side: it had been sent data it no longer reads"
	case FinWait1, FinWait2, Closing, LastAck:
		return "the peer reset the connection while it was being closed"
	}
	return "the peer reset the connection"
}

// classifyReset gives the kind of a sent reset and one plain phrase. It
// corrects s.state where the socket that the kernel names is a listener, but
// the connection was one in its handshake. Reasons decide where the kernel
// gives them; the rest is read off the socket, as all is before 6.10.
func classifyReset(s *resetSignature) (Kind, string) {
	has := func(bit uint16) bool { return s.bits&bit != 0 }
	byReason := s.reason != "" && s.reason != "NOT_SPECIFIED"

	switch {
	case has(rstOutgoing):
		return KindFirewall, "the firewall of this host rejected a packet that was to be sent"
	case has(rstFirewall):
		return KindFirewall, "the firewall of this host rejected a packet"
	}
	if !s.answered { // tcp_send_active_reset()
		switch {
		case s.reason == "TCP_ABORT_ON_CLOSE",
			!byReason && has(rstClosed) && has(rstUnread):
			return KindUnreadData, "closed with unread data"
		case s.reason == "TCP_ABORT_ON_LINGER":
			return KindLinger, whyLinger2
		case s.reason == "TCP_KEEPALIVE_TIMEOUT":
			return KindKeepalive, "the peer did not answer keepalive probes"
		case s.reason == "TCP_ABORT_ON_MEMORY":
			return KindAbort, whyMemory
		case s.reason == "TCP_DISCONNECT_WITH_DATA":
			return KindAbort, "disconnected with unsent data"
		case byReason && s.reason != "TCP_STATE":
			return KindOther, "the kernel aborted the connection"
		case s.skErr == econnaborted, s.reason == "TCP_STATE" && !has(rstClosed) && !s.orphan:
			// tcp_abort(): the error is set before the reset, or, in newer
			// kernels, after it.
			return KindAbort, whyAborted
		case has(rstClosed) && has(rstLinger0) && has(rstRcvShutdown):
			// tcp_close() shuts both directions down before it disconnects.
			return KindLinger, "closed with SO_LINGER at 0 seconds"
		case has(rstClosed) && s.orphan && s.state == FinWait2 && has(rstLinger2):
			// tcp_close() has made it an orphan by then.
			return KindLinger, whyLinger2
		case s.orphan && s.state == FinWait2 && !has(rstClosed):
			return KindAbort, "the peer did not close its side in time" // tcp_keepalive_timer()
		case s.orphan && !byReason:
			return KindAbort, whyMemory // tcp_check_oom(), at the close or a time-out of an orphan
		case has(rstClosed) && !has(rstAttached):
			return KindAbort, "the listener was closed before this connection was accepted"
		case has(rstClosed):
			return KindAbort, "disconnected by the application"
		case !byReason && has(rstProbed):
			return KindKeepalive, "the peer did not answer keepalive probes"
		case !byReason: // tcp_abort() again, where the error is set after the reset
			return KindAbort, whyAborted
		}
		return KindOther, "the kernel aborted the connection"
	}

	syn, ack := s.flags&SYN != 0, s.flags&ACK != 0
	switch {
	case s.state == TimeWait:
		return KindTimeWait, "a packet came for a connection in TIME_WAIT"
	case s.reason == "TCP_ABORT_ON_DATA", !byReason && has(rstClosed):
		return KindDataAfterClose, whyDataAfterClose
	case has(rstNoSocket) && syn && !ack:
		return KindRefused, "nothing listens on this port"
	case has(rstNoSocket):
		return KindOther, "a packet came for a connection that does not exist"
	case s.state == SynSent:
		return KindBadAck, "the peer answered the SYN with an ACK for an old connection"
	case s.state == Listen && s.reason == "INVALID_SYN" && !syn,
		s.state == Listen && !byReason && ack && has(rstBacklogFull):
		s.state = NewSynRecv
		return KindOverflow, "the accept queue is full and tcp_abort_on_overflow is set"
	case s.state == Listen && syn:
		s.state = NewSynRecv
		return KindOther, "a SYN came in the middle of a handshake"
	case s.state == Listen, s.state == NewSynRecv:
		return KindOther, "an ACK came that belongs to no handshake"
	}
	return KindOther, "a packet came that does not fit the connection"
}

const (
	whyAborted = "aborted by an administrator (ss -K)"
	whyLinger2 = "closed with TCP_LINGER2 below 0"
	whyMemory  = "the kernel is out of memory for orphaned connections"
)

const whyDataAfterClose = "data came after this side had stopped receiving"
