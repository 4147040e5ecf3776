// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"encoding/json"
	"io"
	"net/netip"
	"strconv"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/format"
)

// The JSON of a report. What is absent is unknown.
type (
	jsonHead struct {
		Start    string     `json:"start,omitempty"`
		End      string     `json:"end,omitempty"`
		Events   uint64     `json:"events"`
		Lost     uint64     `json:"lost"`
		Troubled int        `json:"troubled"`
		Outcomes jsonCounts `json:"outcomes"`
		Unlisted int        `json:"unlisted"`
		Notes    []string   `json:"notes,omitempty"`
	}

	jsonCounts struct {
		Failed    int `json:"failed"`
		Pending   int `json:"pending"`
		Recovered int `json:"recovered"`
		Unknown   int `json:"unknown"`
	}

	jsonFinding struct {
		ID         string           `json:"id"`
		Title      string           `json:"title"`
		Outcome    Outcome          `json:"outcome,omitempty"`
		Outcomes   jsonCounts       `json:"outcomes"`
		Certainty  Certainty        `json:"certainty"`
		Count      int              `json:"count"`
		First      string           `json:"first"`
		Last       string           `json:"last"`
		Peers      []jsonPeer       `json:"peers"`
		MorePeers  int              `json:"more_peers,omitempty"`
		Owners     []jsonTally      `json:"owners"`
		MoreOwners int              `json:"more_owners,omitempty"`
		Counters   []events.Counter `json:"counters,omitempty"`
		Settings   jsonSettings     `json:"settings,omitempty"`
		Cause      string           `json:"cause"`
		Evidence   []jsonEvidence   `json:"evidence"`
		Missing    []string         `json:"missing,omitempty"`
		Advice     []string         `json:"advice"`
	}

	jsonPeer struct {
		Addr      string `json:"addr,omitempty"`
		Port      uint16 `json:"port,omitempty"`
		LocalPort uint16 `json:"local_port,omitempty"`
		Count     int    `json:"count"`
		Again     uint64 `json:"retransmitted,omitempty"`
		Sent      uint64 `json:"sent,omitempty"`
	}

	jsonOwner struct {
		PID       uint32  `json:"pid,omitempty"`
		Comm      string  `json:"comm,omitempty"`
		UID       *uint32 `json:"uid,omitempty"`
		User      string  `json:"user,omitempty"`
		Cgroup    string  `json:"cgroup,omitempty"`
		Unit      string  `json:"unit,omitempty"`
		Container string  `json:"container,omitempty"`
		Pod       string  `json:"pod,omitempty"`
		NetNS     uint32  `json:"netns,omitempty"`
		NetNSName string  `json:"netns_name,omitempty"`
	}

	jsonTally struct {
		jsonOwner
		Count int `json:"count"`
	}

	jsonEvidence struct {
		Time string `json:"time"`
		Conn string `json:"conn,omitempty"`
		Text string `json:"text"`
	}

	jsonConnection struct {
		Conn   string `json:"conn,omitempty"`
		Family uint8  `json:"family,omitempty"`
		LAddr  string `json:"laddr,omitempty"`
		LPort  uint16 `json:"lport,omitempty"`
		RAddr  string `json:"raddr,omitempty"`
		RPort  uint16 `json:"rport,omitempty"`
		jsonOwner
		First    string       `json:"first"`
		Last     string       `json:"last"`
		Outcome  Outcome      `json:"outcome,omitempty"`
		Findings []jsonStory  `json:"findings"`
		Timeline []jsonMoment `json:"timeline"`
	}

	jsonStory struct {
		ID        string    `json:"id"`
		Outcome   Outcome   `json:"outcome,omitempty"`
		Certainty Certainty `json:"certainty"`
		Cause     string    `json:"cause"`
		Missing   string    `json:"missing,omitempty"`
	}

	jsonMoment struct {
		Time    string   `json:"time,omitempty"`
		Offset  *float64 `json:"offset_ms,omitempty"`
		Text    string   `json:"text,omitempty"`
		Omitted int      `json:"omitted,omitempty"`
	}

	// jsonSettings keeps their order.
	jsonSettings []events.Setting
)

// MarshalJSON gives an object.
func (s jsonSettings) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, v := range s {
		if i > 0 {
			b = append(b, ',')
		}
		name, err := json.Marshal(v.Name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(v.Value)
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, name...), ':'), value...)
	}
	return append(b, '}'), nil
}

// WriteJSON writes r as one object, whose lists have a line for each entry. sum,
// if it is not nil, is the summary of the stream. Its error is w's.
func (r *Report) WriteJSON(w io.Writer, sum *events.Summary) error {
	j := &jsonWriter{writer: newWriter(w)}
	j.encode(jsonHead{
		Start: jsonTime(r.Start), End: jsonTime(r.End), Events: r.Events, Lost: r.Lost,
		Troubled: r.Troubled, Outcomes: countsOf(r.Outcomes), Unlisted: r.Unlisted, Notes: r.Notes,
	})
	j.b = j.b[:len(j.b)-1] // the end of the object, which goes on
	list(j, "findings", r.Findings, func(f **Finding) any { return (*f).json() })
	list(j, "connections", r.Connections, func(c *Connection) any { return c.json() })
	if sum != nil {
		if p, err := format.New(format.Options{Format: format.JSON}); err == nil { // as it is
			j.text(",\n" + `"summary":`)
			j.text(string(bytes.TrimSuffix(p.AppendSummary(nil, sum), []byte("\n"))))
		}
	}
	j.text("}\n")
	return j.flush()
}

type jsonWriter struct {
	*writer
	buf bytes.Buffer
}

// encode writes a value that has no way not to be JSON.
func (j *jsonWriter) encode(v any) {
	j.buf.Reset()
	e := json.NewEncoder(&j.buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil && j.err == nil {
		j.err = err
	}
	j.b = format.AppendJSON(j.b, bytes.TrimSuffix(j.buf.Bytes(), []byte("\n")))
	if len(j.b) >= writeLen {
		_ = j.flush()
	}
}

func list[T any](j *jsonWriter, name string, list []T, entry func(*T) any) {
	j.text(",\n" + `"` + name + `":[`)
	for i := range list {
		if i > 0 {
			j.text(",")
		}
		j.text("\n")
		j.encode(entry(&list[i]))
	}
	j.text("]")
}

func (f *Finding) json() jsonFinding {
	v := jsonFinding{
		ID: f.ID, Title: f.Title, Outcome: f.Outcome, Outcomes: countsOf(f.Outcomes), Certainty: f.Certainty, Count: f.Count,
		First: jsonTime(f.First), Last: jsonTime(f.Last), Peers: []jsonPeer{}, MorePeers: f.MorePeers, Owners: []jsonTally{}, MoreOwners: f.MoreOwners,
		Counters: f.Counters, Settings: f.Settings, Cause: f.Cause, Evidence: []jsonEvidence{}, Missing: f.Missing, Advice: f.Advice,
	}
	for _, p := range f.Peers {
		v.Peers = append(v.Peers, jsonPeer{jsonAddr(p.Addr), p.Port, p.Local, p.Count, p.Again, p.Sent})
	}
	for i := range f.Owners {
		v.Owners = append(v.Owners, jsonTally{f.Owners[i].json(), f.Owners[i].Count})
	}
	for _, e := range f.Evidence {
		v.Evidence = append(v.Evidence, jsonEvidence{jsonTime(e.Time), jsonID(e.Conn), e.Text})
	}
	if v.Advice == nil {
		v.Advice = []string{}
	}
	return v
}

func (c *Connection) json() jsonConnection {
	v := jsonConnection{
		Conn: jsonID(c.Conn), Family: c.Family, jsonOwner: c.Owner.json(), First: jsonTime(c.First), Last: jsonTime(c.Last), Outcome: c.Outcome,
		LAddr: jsonAddr(c.Local.Addr()), LPort: c.Local.Port(), RAddr: jsonAddr(c.Remote.Addr()), RPort: c.Remote.Port(),
		Findings: []jsonStory{}, Timeline: make([]jsonMoment, 0, len(c.Timeline)),
	}
	if c.NetNS != 0 {
		v.NetNS = c.NetNS
	}
	for i := range c.Findings {
		v.Findings = append(v.Findings, jsonStory(c.Findings[i]))
	}
	for i := range c.Timeline {
		m := &c.Timeline[i]
		if m.Omitted > 0 {
			v.Timeline = append(v.Timeline, jsonMoment{Omitted: m.Omitted})
			continue
		}
		ms := float64(m.Offset) / float64(time.Millisecond)
		v.Timeline = append(v.Timeline, jsonMoment{Time: jsonTime(m.Time), Offset: &ms, Text: m.Text})
	}
	return v
}

func (o *Owner) json() jsonOwner {
	v := jsonOwner{
		PID: o.PID, Comm: o.Comm, User: o.User, Cgroup: o.Cgroup, Unit: o.Unit, Container: o.Container, Pod: o.Pod,
		NetNS: o.NetNS, NetNSName: o.NetNSName,
	}
	if o.HasUID {
		v.UID = &o.UID
	}
	return v
}

func countsOf(by map[Outcome]int) jsonCounts {
	return jsonCounts{by[Failed], by[Pending], by[Recovered], by[""]}
}

func jsonTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000000000Z")
}

func jsonAddr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func jsonID(conn uint64) string {
	if conn == 0 {
		return ""
	}
	return strconv.FormatUint(conn, 16)
}
