// SPDX-License-Identifier: Apache-2.0

package recording

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// trailer is what stands behind the last block.
type trailer struct {
	Recording uint32   `json:"recording"` // the checksum of the header's frame
	Blocks    uint64   `json:"blocks"`
	Events    uint64   `json:"events_recorded"`
	Summary   *summary `json:"summary"`
}

// summary is an [events.Summary] in which an unknown verdict is no error.
type summary struct {
	events.Summary
	Audit []audit `json:"audit"`
}

type audit struct {
	events.Audit
	Verdict string `json:"verdict"`
}

func newSummary(s *events.Summary) *summary {
	out := &summary{Summary: *s}
	if s.Audit != nil {
		out.Audit = make([]audit, len(s.Audit))
	}
	for i := range s.Audit {
		out.Audit[i] = audit{s.Audit[i], s.Audit[i].Verdict.String()}
	}
	return out
}

// summary returns it with the verdicts that this version knows; a new one
// counts as unchecked, since what it says is unknown.
func (s *summary) summary() *events.Summary {
	out := s.Summary
	for i := range out.ByKind {
		out.ByKind[i].Name = cutText(out.ByKind[i].Name)
	}
	for i := range out.Counters {
		out.Counters[i].Counter = cutText(out.Counters[i].Counter)
	}
	out.Audit = nil
	if s.Audit != nil {
		out.Audit = make([]events.Audit, len(s.Audit))
	}
	for i := range s.Audit {
		a := &out.Audit[i]
		*a = s.Audit[i].Audit
		a.Counter, a.Note = cutText(a.Counter), cutText(a.Note)
		if err := a.Verdict.UnmarshalText([]byte(s.Audit[i].Verdict)); err != nil {
			a.Verdict, a.Note = events.Unchecked, "verdict of a newer version"
		}
	}
	return &out
}

const (
	maxName    = 256     // bytes
	maxFilters = 4 << 10 // bytes
)

// cutText bounds what is kept of a name or a note, and what is said.
func cutText(s string) string {
	if len(s) <= maxName {
		return s
	}
	return strings.Clone(s[:maxName])
}

func parseTrailer(b []byte) (*trailer, error) {
	// Each object of a few bytes becomes a row of many.
	if n := bytes.Count(b, []byte("{")); n > maxJSON {
		return nil, fmt.Errorf("it has %d objects: too many", n)
	}
	t := new(trailer)
	if err := json.Unmarshal(b, t); err != nil {
		return nil, err
	}
	if t.Summary == nil {
		return nil, errors.New("it has no summary")
	}
	return t, nil
}

// parseInfo reads a header's JSON. Names of types that this version does not
// know are left out, and said to be so.
func parseInfo(b []byte) (info *Info, strange []string, err error) {
	// As in a trailer: each name of a few bytes becomes a string.
	if n := bytes.Count(b, []byte(`"`)); n > 2*maxJSON {
		return &Info{}, nil, fmt.Errorf("it has %d quotes: too many", n)
	}
	var h struct {
		Info
		Types []string `json:"types"`
	}
	if err := json.Unmarshal(b, &h); err != nil {
		return &Info{}, nil, err
	}
	for _, name := range h.Types {
		var t events.Type
		if t.UnmarshalText([]byte(name)) != nil {
			strange = append(strange, name)
			continue
		}
		h.Info.Types = append(h.Info.Types, t)
	}
	for _, s := range []*string{&h.Tool, &h.Kernel, &h.Machine, &h.Host, &h.BootID} {
		*s = cutText(*s)
	}
	if len(h.Filters) > maxFilters {
		h.Filters = h.Filters[:maxFilters] + "..."
	}
	return &h.Info, strange, nil
}
