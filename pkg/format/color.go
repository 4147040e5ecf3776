// SPDX-License-Identifier: Apache-2.0

package format

import (
	"strings"

	"github.com/fatih/color"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// paint is a meaning that has a colour.
type paint uint8

const (
	noPaint  paint = iota
	heading        // of a table
	trouble        // a time-out, a connection that failed
	repair         // a loss that is being repaired without a time-out
	unusual        // the other retransmissions
	sent           // reset by this host
	received       // reset by the peer
	opened         // established
	closed         // closed, without an error
	paints
)

// palette has the sequences that begin and end each paint; none without colour.
type palette [paints]struct{ on, off string }

func newPalette() *palette {
	p := new(palette)
	for i, attributes := range [paints][]color.Attribute{
		heading:  {color.Bold},
		trouble:  {color.FgHiRed},
		repair:   {color.FgYellow},
		unusual:  {color.FgCyan},
		sent:     {color.FgRed},
		received: {color.FgMagenta},
		opened:   {color.FgGreen},
		closed:   {color.FgHiBlack},
	} {
		if len(attributes) == 0 {
			continue
		}
		c := color.New(attributes...)
		c.EnableColor() // whatever the package guessed about the terminal
		p[i].on, p[i].off, _ = strings.Cut(c.Sprint("|"), "|")
	}
	return p
}

// paintOf returns the colour of an event's meaning.
func paintOf(e *events.Event) paint {
	switch e.Type {
	case events.Retransmit:
		switch e.Kind {
		case events.KindSYN, events.KindSYNACK, events.KindRTO:
			return trouble
		case events.KindFast, events.KindLoss, events.KindTLP, events.KindRACK:
			return repair
		}
		return unusual
	case events.Reset:
		switch e.Direction {
		case events.Sent:
			return sent
		case events.Received:
			return received
		}
	case events.StateChange:
		switch {
		case e.Error != 0:
			return trouble
		case e.NewState == events.Established:
			return opened
		case e.NewState == events.Close:
			return closed
		}
	}
	return noPaint
}
