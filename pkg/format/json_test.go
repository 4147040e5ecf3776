// SPDX-License-Identifier: Apache-2.0

package format

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/tcptrace/tcptrace/pkg/events"
)

func TestJSON(t *testing.T) {
	const socket = `"family":4,"laddr":"10.0.0.1","lport":40312,"raddr":"192.0.2.7","rport":443,` +
		`"state":"STATE","conn":"fedcba9876543210","cookie":"1f","netns":4026531840,"netns_name":"blue",` +
		`"inode":31337,"uid":0,"user":"root","cgroup":"/system.slice/nginx.service","unit":"nginx.service",` +
		`"container":"c0ffee4711aa","pod":"5be2cfa7","pid":4711,"comm":"nginx","sharers":[4711,4712],"orphan":false,`
	const time = `{"time":"2026-03-14T13:09:26.535897932Z",`
	want := time + `"event":"retransmit",` + strings.Replace(socket, "STATE", "ESTABLISHED", 1) +
		`"kind":"rto","phase":"data","flags":"PSH|ACK","seq":4294967295,"end_seq":1447,"len":1448,"segs":1,` +
		`"attempt":3,"backoff":2,"rto_ms":1024.5,"next_rto_ms":2049,"srtt_ms":0.047,"rttvar_ms":204,` +
		`"cwnd":1,"ssthresh":7,"ca_state":"Loss","total_retrans":4,"data_segs_out":90,"dsack_dups":0,` +
		`"gap":2,"gives_up_in_ms":924000,"user_timeout_ms":30000,"accept_queue":5,"accept_queue_max":4,"error":"EBUSY"}` + "\n" +
		time + `"event":"reset",` + strings.Replace(socket, "STATE", "ESTABLISHED", 1) +
		`"kind":"unread_data","direction":"sent","reason":"TCP_ABORT_ON_CLOSE","why":"closed with unread data",` +
		`"trigger_flags":"ACK","trigger_seq":0,"trigger_ack":4000000000,"trigger_timestamps":true,"trigger_ttl":64}` + "\n" +
		time + `"event":"state",` + strings.Replace(socket, "STATE", "CLOSE", 1) +
		`"rto_ms":816,"srtt_ms":0.047,"rttvar_ms":204,"total_retrans":1,"data_segs_out":8,"dsack_dups":0,` +
		`"error":"ETIMEDOUT","old_state":"SYN_SENT","new_state":"CLOSE","unacked_ms":131000,"unacked_retrans":true}` + "\n" +
		time + `"event":"lost","count":12,"of":"reset"}` + "\n"
	got := lines(t, Options{Format: JSON}, append(all(), aLoss())...)
	if diff := cmp.Diff(strings.SplitAfter(want, "\n"), strings.SplitAfter(got, "\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestJSONHoldsTheValues compares what encoding/json reads with the values that
// filters see.
func TestJSONHoldsTheValues(t *testing.T) {
	for _, e := range append(all(), aLoss()) {
		d := json.NewDecoder(strings.NewReader(lines(t, Options{Format: JSON}, e)))
		var got map[string]any
		if err := d.Decode(&got); err != nil {
			t.Fatal(err)
		}
		want := map[string]any{}
		for _, c := range Columns() {
			v := c.Value(e)
			if f, ok := v.Float(); ok {
				want[c.Name] = f
			} else if b, ok := v.Bool(); ok {
				want[c.Name] = b
			} else if s, ok := v.Text(); ok {
				want[c.Name] = s
			} else if list, ok := v.Ints(); ok {
				numbers := []any{}
				for _, n := range list {
					numbers = append(numbers, float64(n))
				}
				want[c.Name] = numbers
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-values +JSON):\n%s", e.Type, diff)
		}
	}
}

func TestJSONEscapes(t *testing.T) {
	for s, want := range map[string]string{
		``:                      `""`,
		`plain <a&b> 'x'`:       `"plain <a&b> 'x'"`,
		"\"\\\n\r\t\b\x00\x7f":  `"\"\\\n\r\t\u0008\u0000\u007f"`,
		"caf\u00e9 \u4e16":      "\"caf\u00e9 \u4e16\"",
		"\u0085\u009b":          `"\u0085\u009b"`,
		"\u202e\u2066\u061c":    `"\u202e\u2066\u061c"`,
		"\u2028\u200b\ufeff":    `"\u2028\u200b\ufeff"`,
		"\U000e0041\U0001f600":  "\"\\udb40\\udc41\U0001f600\"",
		"\xff a\xe2\x82":        `"\ufffd a\ufffd\ufffd"`,
		"\xed\xa0\x80":          `"\ufffd\ufffd\ufffd"`,
		"an honest \ufffd mark": "\"an honest \ufffd mark\"",
	} {
		if got := string(appendJSONString(nil, s)); got != want {
			t.Errorf("%q = %s, want %s", s, got, want)
		}
		if got := string(append(appendJSONText([]byte{'"'}, []byte(s)), '"')); got != want {
			t.Errorf("%q as bytes = %s, want %s", s, got, want)
		}
	}
}

func FuzzJSON(f *testing.F) {
	for _, s := range hostile {
		f.Add([]byte(s), s, uint64(len(s)), int64(len(s)))
	}
	p, err := New(Options{Format: JSON})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name []byte, path string, id uint64, ns int64) {
		e := aRetransmit()
		e.Comm = events.Comm{}
		copy(e.Comm[:], name)
		e.Cgroup, e.Cookie, e.Time = path, id, ns
		line := p.AppendEvent(nil, e)
		for i, r := range string(line) {
			if !shown(r) && (r != '\n' || i != len(line)-1) {
				t.Errorf("%q at %d of %s", r, i, line)
			}
		}
		var got struct {
			Comm, Cgroup string
			RTO          float64 `json:"rto_ms"`
		}
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		want := e.Comm.String()
		if got.Comm != toValid(want) {
			t.Errorf("comm %q came back as %q", want, got.Comm)
		}
		if got.Cgroup != toValid(path) {
			t.Errorf("cgroup %q came back as %q", path, got.Cgroup)
		}
		if got.RTO != 1024.5 {
			t.Errorf("rto_ms %g", got.RTO)
		}
	})
}

// toValid makes each byte that is not UTF-8 a U+FFFD.
func toValid(s string) string {
	var b strings.Builder
	for _, r := range s {
		b.WriteRune(r) // ranging gives utf8.RuneError, a byte at a time
	}
	if !utf8.ValidString(b.String()) {
		panic("impossible")
	}
	return b.String()
}
