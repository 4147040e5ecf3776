// SPDX-License-Identifier: Apache-2.0

package format

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// Type is the type of a column's values, as JSON and the filter language see it.
type Type uint8

// The types.
const (
	String Type = iota + 1 // text; a string in JSON
	Int                    // a count or a number of the protocol; a JSON integer
	Float                  // a duration in milliseconds; a JSON number
	Bool                   // true or false
	Hex                    // an id that can exceed 2^53: hexadecimal text without 0x, as ss -e prints it
	Ints                   // several numbers; a JSON array of integers
	Time                   // text: RFC 3339, UTC, always nine digits of nanoseconds, so that texts order as times do
)

var typeNames = [...]string{String: "string", Int: "int", Float: "float", Bool: "bool", Hex: "hex", Ints: "ints", Time: "time"}

// String returns the name, in lower case; "" for a number without one.
func (t Type) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return ""
}

// Value is what an event has in one column. Its zero value is absent, which
// means unknown.
//
// A Value may refer to its event: use it before the event changes. What the
// accessors return is independent of the event.
type Value struct {
	kind valueKind
	num  uint64
	ref  any // a pointer into the event
}

// Three small fields, because a larger struct is passed through memory, which
// costs more than all the rest.

// valueKind says which member of a Value counts, and how. Only unsafeText and
// process may hold characters that must be escaped.
type valueKind uint8

const (
	absent     valueKind = iota
	integer              // num
	duration             // num: nanoseconds, an int64
	boolean              // num: 0 or 1
	hexNumber            // num
	timestamp            // num: ns since the epoch, an int64
	address              // ref: *netip.Addr
	unsafeText           // ref: *string, which someone else chose
	process              // ref: *events.Comm
	integers             // ref: *[]uint32

	// num: a number that has a name; see name.
	eventType
	tcpState
	eventKind
	phase
	caState
	direction
	tcpFlags
	errno
)

// name returns the name of a number; "" for one without.
func name(kind valueKind, num uint64) string {
	if kind == errno {
		return events.Errno(num).String()
	}
	if list := names[kind]; num < uint64(len(list)) {
		return list[num]
	}
	return ""
}

// names has the names of the small numbers, which are all that have one, so
// that none is put together for each event.
var names = [...][]string{
	eventType: namesOf[events.Type](1 << 6),
	tcpState:  namesOf[events.State](1 << 6),
	eventKind: namesOf[events.Kind](1 << 6),
	phase:     namesOf[events.Phase](1 << 6),
	caState:   namesOf[events.CAState](1 << 6),
	direction: namesOf[events.Direction](1 << 6),
	tcpFlags:  namesOf[events.Flags](1 << 9),
	errno:     nil,
}

func namesOf[T interface {
	~uint8 | ~uint16
	String() string
}](n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = T(i).String()
	}
	return list
}

// The constructors. A false ok, or what means unknown in a type that can say
// so, makes an absent Value.

func numberValue(kind valueKind, num uint64, ok bool) Value {
	if !ok {
		return Value{}
	}
	return Value{kind: kind, num: num}
}

func intValue[T uint8 | uint16 | uint32 | uint64](n T, ok bool) Value {
	return numberValue(integer, uint64(n), ok)
}

func durationValue(d time.Duration, ok bool) Value {
	return numberValue(duration, uint64(d), ok)
}

func boolValue(v, ok bool) Value {
	if v {
		return numberValue(boolean, 1, ok)
	}
	return numberValue(boolean, 0, ok)
}

func nameValue[T ~uint8](kind valueKind, n T) Value {
	return numberValue(kind, uint64(n), n != 0 && name(kind, uint64(n)) != "")
}

func flagsValue(f events.Flags, ok bool) Value {
	return numberValue(tcpFlags, uint64(f&(1<<9-1)), ok)
}

func textValue(s *string) Value {
	if *s == "" {
		return Value{}
	}
	return Value{kind: unsafeText, ref: s}
}

func commValue(c *events.Comm) Value {
	if c[0] == 0 {
		return Value{}
	}
	return Value{kind: process, ref: c}
}

func intsValue(list *[]uint32) Value {
	if len(*list) == 0 {
		return Value{}
	}
	return Value{kind: integers, ref: list}
}

func addrValue(a *netip.Addr) Value {
	if !a.IsValid() {
		return Value{}
	}
	return Value{kind: address, ref: a}
}

// Present reports whether the event has the value.
func (v Value) Present() bool { return v.kind != absent }

// Int returns the value of an [Int] column.
func (v Value) Int() (n int64, ok bool) {
	if v.kind != integer {
		return 0, false
	}
	return int64(v.num), true
}

// Float returns the value of a [Float] column, in milliseconds, or of an [Int]
// column.
func (v Value) Float() (f float64, ok bool) {
	switch v.kind {
	case duration:
		return float64(int64(v.num)) / 1e6, true
	case integer:
		return float64(v.num), true
	}
	return 0, false
}

// Bool returns the value of a [Bool] column.
func (v Value) Bool() (b, ok bool) {
	return v.kind == boolean && v.num != 0, v.kind == boolean
}

// Ints returns the value of an [Ints] column, which is read-only.
func (v Value) Ints() (list []uint32, ok bool) {
	if v.kind != integers {
		return nil, false
	}
	return *v.ref.(*[]uint32), true
}

// Text returns the value of a [String], [Hex] or [Time] column: what JSON has
// between the quotes, but not escaped, and with invalid UTF-8 as it is. It
// allocates for addresses, process names, [Hex] and [Time].
func (v Value) Text() (s string, ok bool) {
	switch v.kind {
	case absent, integer, duration, boolean, integers:
		return "", false
	case unsafeText:
		return *v.ref.(*string), true
	case process:
		return v.ref.(*events.Comm).String(), true
	case hexNumber, timestamp, address:
		return string(v.appendPlain(nil)), true
	}
	return name(v.kind, v.num), true
}

// appendPlain appends a value that needs no escaping the way that JSON and CSV
// write it, without quotes or brackets.
func (v Value) appendPlain(b []byte) []byte {
	switch v.kind {
	case integer:
		return appendUint(b, v.num)
	case duration:
		return appendDecimal(b, int64(v.num), 6)
	case boolean:
		return strconv.AppendBool(b, v.num != 0)
	case hexNumber:
		return appendHexUint(b, v.num)
	case timestamp:
		return appendTimestamp(b, int64(v.num))
	case address:
		return appendAddr(b, *v.ref.(*netip.Addr))
	case integers:
		for i, n := range *v.ref.(*[]uint32) {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendUint(b, uint64(n))
		}
		return b
	}
	return append(b, name(v.kind, v.num)...)
}
