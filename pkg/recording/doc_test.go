// SPDX-License-Identifier: Apache-2.0

package recording

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// What the document says of columns and numbers is what is on disk: whoever
// renumbers something fails here.
func TestDocument(t *testing.T) {
	b, err := os.ReadFile("../../docs/recording-format.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	types := map[class]string{bits8: "u8", bits16: "u16", bits32: "u32", bits64: "64", boolean: "bool", text: "text", address: "address", comm: "name", list: "list"}
	for title, columns := range map[string][]column{"Forms": formColumns, "Owners": ownerColumns, "Connections": connColumns, "Events": eventColumns} {
		_, part, ok := strings.Cut(doc, "\n### "+title+"\n")
		part, _, _ = strings.Cut(part, "\n### ")
		rows := map[string]bool{}
		for line := range strings.Lines(part) {
			if cells := strings.Split(line, "|"); len(cells) > 5 {
				typ := strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(cells[4]), "u64"), "i64")
				if typ == "" {
					typ = "64"
				}
				rows[fmt.Sprintf("%s|%s|%s|%s", strings.TrimSpace(cells[1]), strings.TrimSpace(cells[2]), strings.TrimSpace(cells[3]), typ)] = true
			}
		}
		for i := range columns {
			c := &columns[i]
			var less []string
			for _, field := range c.less {
				for j := range columns {
					if columns[j].field == field {
						less = append(less, "`"+columns[j].name+"`")
					}
				}
			}
			coding := []string{"plain", "row", "connection"}[c.by]
			if less != nil {
				coding += ", less " + strings.Join(less, " and ")
			}
			if row := fmt.Sprintf("%d|`%s`|%s|%s", c.id, c.name, coding, types[c.at.class]); !ok || !rows[row] {
				t.Errorf("%s: the document has no row %s", title, row)
			}
		}
	}

	// Which columns an event has a use for.
	for typ := events.Retransmit; typ <= events.Lost; typ++ {
		var ids []string
		for i := 0; i < len(eventColumns); i++ {
			first := i
			for i < len(eventColumns) && eventColumns[i].on>>typ&1 != 0 {
				i++
			}
			switch n := i - first; {
			case n > 2:
				ids = append(ids, fmt.Sprintf("%d to %d", eventColumns[first].id, eventColumns[i-1].id))
			default:
				for ; n > 0; n-- {
					ids = append(ids, fmt.Sprint(eventColumns[i-n].id))
				}
			}
		}
		if row := fmt.Sprintf("\n| `%s` | %s |\n", typ, strings.Join(ids, ", ")); !strings.Contains(doc, row) {
			t.Errorf("the document has no row %s", row)
		}
	}

	number := func(what string, first int, name func(uint8) string) {
		var names []string
		for i := first; name(uint8(i)) != ""; i++ {
			names = append(names, fmt.Sprintf("%d %s", i, name(uint8(i))))
		}
		if row := "\n| `" + what + "` | " + strings.Join(names, ", ") + " |\n"; !strings.Contains(doc, row) {
			t.Errorf("the document has no row %s", row)
		}
	}
	number("event", 1, func(i uint8) string { return events.Type(i).String() })
	number("state", 1, func(i uint8) string { return events.State(i).String() })
	number("kind", 1, func(i uint8) string { return events.Kind(i).String() })
	number("phase", 1, func(i uint8) string { return events.Phase(i).String() })
	number("ca_state", 0, func(i uint8) string { return events.CAState(i).String() })
	number("direction", 1, func(i uint8) string { return events.Direction(i).String() })

	// A recording tells the names itself, too.
	var buf bytes.Buffer
	if _, err := NewWriter(&buf, Info{}); err != nil {
		t.Fatal(err)
	}
	var told header
	if err := json.Unmarshal(buf.Bytes()[envelopeLen:], &told); err != nil {
		t.Fatal(err)
	}
	if told.Columns["events"][13] != "seq" || told.Columns["owners"][1] != "netns" || told.Numbers["kind"][4] != "rto" || told.Numbers["ca_state"][0] != "Open" {
		t.Errorf("the header says %+v", told)
	}

	// The bits of the fields whose columns depend on them.
	for i := range eventColumns {
		c := &eventColumns[i]
		for bit := range 64 {
			if c.known == 1<<bit && !strings.Contains(doc, fmt.Sprintf(" %d `%s`", bit, c.name)) {
				_, part, _ := strings.Cut(doc, fmt.Sprintf("; %d `", bit))
				if part, _, _ = strings.Cut(part, ";"); !strings.Contains("`"+part, "`"+c.name+"`") {
					t.Errorf("the document does not say that %s is bit %d", c.name, bit)
				}
			}
		}
	}
	if events.HasUID != 1<<0 || events.HasReason != 1<<15 || events.HasAcceptQueue != 1<<18 {
		t.Error("bits without a column have changed")
	}
	for _, limit := range []string{"32,768", "65,536", "4,096", "1,024", "131,072", "8 MiB", "256 bytes", "4,194,304", "1 MiB of names and values"} {
		if !strings.Contains(doc, limit) {
			t.Errorf("the document has no limit %s", limit)
		}
	}
	if maxEvents != 32768 || maxTexts != 65536 || maxSettings != 4096 || maxValues != 1024 || maxAllValues != 131072 || maxListed != 4194304 || maxText != 1<<20 || maxRaw != 8<<20 || maxJSON != 65536 || maxName != 256 {
		t.Error("a limit is not that of the document")
	}
}
