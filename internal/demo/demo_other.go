// SPDX-License-Identifier: Apache-2.0

//go:build !linux

// Package demo makes the trouble that "tcptrace demo" traces.
package demo

import (
	"context"
	"errors"
)

// Demo exists on Linux only.
type Demo struct{}

// New says that it can't.
func New(context.Context) (*Demo, error) {
	return nil, errors.New("the demo needs Linux")
}

// NetNS has no meaning here.
func (*Demo) NetNS() uint32 { return 0 }

// Rights has no meaning here.
func (*Demo) Rights() []string { return nil }

// Run has no meaning here.
func (*Demo) Run(context.Context, func(string), func(context.Context) error) error { return nil }

// Close has no meaning here.
func (*Demo) Close() error { return nil }
