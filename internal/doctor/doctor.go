// SPDX-License-Identifier: Apache-2.0

// Package doctor looks at what the kernel and the rights of this process allow,
// and what is missing, with the remedy.
package doctor

// A Check is one thing that was looked at. In JSON an empty field is absent.
type Check struct {
	Name   string `json:"check"`            // such as "tracepoint"
	Of     string `json:"of,omitempty"`     // such as the tracepoint's name
	Status Status `json:"status"`           //
	Detail string `json:"detail,omitempty"` // one phrase
	Remedy string `json:"remedy,omitempty"` // what to do; of what is not OK
	Unseen string `json:"unseen,omitempty"` // what events lack, or which, for want of it
}

// Status is the outcome of a check.
type Status string

// Statuses.
const (
	OK      Status = "ok"
	Limited Status = "limited" // tracing works, with something missing
	Failed  Status = "failed"  // tracing can't work
)

// Options of [Run].
type Options struct {
	BTF    string // file with the kernel's types, "" is none
	Buffer int    // bytes of ring buffer
}
