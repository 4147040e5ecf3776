// SPDX-License-Identifier: Apache-2.0

// Package recording writes and reads recordings: files of events, byte by byte
// as docs/recording-format.md says.
//
// It is pure: it knows neither files nor this machine, so that a recording
// reads the same anywhere.
package recording

import (
	"errors"
	"fmt"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// Info is what a recording says of itself. What is empty is unknown.
type Info struct {
	Tool    string        `json:"tool,omitempty"`    // version of the tcptrace that wrote it
	Kernel  string        `json:"kernel,omitempty"`  // release of the kernel that made the events
	Machine string        `json:"machine,omitempty"` // architecture, as uname -m says it
	Host    string        `json:"host,omitempty"`
	BootID  string        `json:"boot_id,omitempty"` // of the kernel's boot: Boot times compare within one
	Start   int64         `json:"start"`             // wall clock, ns since the Unix epoch
	Types   []events.Type `json:"types,omitempty"`   // the kinds of events that were asked for
	Filters string        `json:"filters,omitempty"` // the filter flags, as given
	Reasons []string      `json:"reasons,omitempty"` // the kernel's names of reasons for resets, by number, without SK_RST_REASON_
}

// ErrFormat is that of something that is no recording, or one of a version that
// this one can't read.
var ErrFormat = errors.New("not a recording")

// A Problem is damage, or something that this version does not know. The reader
// goes on behind it.
type Problem struct {
	Offset int64  // bytes from the start
	Text   string // one clause, such as "block 7 is damaged: about 312 events are lost"
	Note   bool   // no damage: something that a newer version wrote
}

func (p Problem) String() string { return fmt.Sprintf("at byte %d: %s", p.Offset, p.Text) }
